"""Caller audio that may have to be sent again after the connection is lost. Pure.

Positions are bytes since the tape began and grow through all connections. A provider counts milliseconds
from the first byte of its own connection: `origin` is where that byte lies.
"""

from __future__ import annotations

from collections import deque

from parley_realtime.formats import AudioFormat


class InputTape:
    """What was sent and is not settled. Settled is audio of turns that are committed or thrown away.

    Bounded: `quiet_ms` while nobody is known to speak, `replay_ms` else; the oldest goes first. It may be
    told to hold nothing: then positions alone go on.
    """

    def __init__(self, audio: AudioFormat, replay_ms: int, quiet_ms: int) -> None:
        self._format = audio
        self._replay = self._bytes(replay_ms)
        self._quiet = self._bytes(min(quiet_ms, replay_ms))
        self._chunks: deque[bytes] = deque()
        self._start = 0
        self._size = 0
        self._holds = True
        self._settled = 0
        self._resumed = 0
        self.origin = 0
        self.speaking = True
        self.lost_bytes = 0
        self.torn = False
        """Audio that the provider holds unsettled is not held here any more."""

    def _bytes(self, milliseconds: float) -> int:
        sample = self._format.sample_bytes
        return int(self._format.bytes_per_second * milliseconds / 1000) // sample * sample

    @property
    def end(self) -> int:
        """Where the next byte goes."""
        return self._start + self._size

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._size

    @property
    def unsettled(self) -> int:
        """Bytes that were sent and are not settled, as far as they would be held."""
        return self._size if self._holds else min(self.end - self._settled, self._replay)

    def hold(self, wanted: bool) -> None:
        """Hold audio from now on, or nothing, not even what is held."""
        if wanted and not self._holds:
            self._resumed, self.torn = self.end, True
        elif not wanted:
            self._forget(self._size)
        self._holds = wanted

    def position(self, milliseconds: float) -> int:
        """Where a time of the provider lies."""
        return self.origin + self._bytes(milliseconds)

    def append(self, audio: bytes) -> None:
        """Audio went out, or waits for a connection."""
        if not audio:
            return
        if not self._holds:
            self._start += len(audio)
            return
        chunks = self._chunks
        chunks.append(audio)
        size = self._size + len(audio)
        limit = self._replay if self.speaking else self._quiet
        if size <= limit:
            self._size = size
            return
        excess = size - limit
        if self.speaking:
            self.lost_bytes += excess
        self.torn = True
        if len(chunks[0]) == excess:
            # Audio comes in equal frames: nearly always the oldest goes as a whole.
            chunks.popleft()
            self._start += excess
            self._size = limit
            return
        self._size = size
        self._forget(excess)

    def settle(self, position: int) -> None:
        """Forget what lies before `position`."""
        self.torn = False
        self._settled = min(position, self.end)
        self._forget(self._settled - self._start)

    def _forget(self, excess: int) -> None:
        while excess > 0:
            head = self._chunks[0]
            if len(head) <= excess:
                self._chunks.popleft()
                cut = len(head)
            else:
                self._chunks[0] = head[excess:]
                cut = excess
            self._start += cut
            self._size -= cut
            excess -= cut

    def turn(self, begin: int | None, end: int) -> bytes:
        """The audio of a turn that ends at `end`, as far as it is held; nothing of one that began while no
        audio was held. Without `begin` it is all that is not settled."""
        if (self._settled if begin is None else begin) < self._resumed:
            return b""
        return self.slice(self._start if begin is None else begin, end)

    def slice(self, begin: int, end: int) -> bytes:
        """The audio between two positions, as far as it is held."""
        audio = b"".join(self._chunks)
        return audio[max(0, begin - self._start) : max(0, end - self._start)]

    def rewind(self, before: bytes = b"", newest: int | None = None) -> bytes:
        """Take all that is held off the tape, for a new connection to be sent: it comes back by `append`.

        `before` is audio of a turn that is taken back, it goes ahead; `newest` keeps only so many bytes.
        """
        audio = b"".join(self._chunks)
        if newest is not None and len(audio) > newest:
            audio = audio[len(audio) - newest :]
        audio = before + audio
        self._start = self.end - len(audio)
        self._chunks.clear()
        self._size = 0
        self.torn = False
        self.origin = self._settled = self._resumed = self._start
        return audio

    def newest_bytes(self, milliseconds: int) -> int:
        """How many bytes so many milliseconds are."""
        return self._bytes(milliseconds)
