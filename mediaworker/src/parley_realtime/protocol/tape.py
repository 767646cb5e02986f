"""Caller audio that may have to be sent again after the connection is lost. Pure.

Positions are bytes since the tape began and grow through all connections. A provider counts milliseconds
from the first byte of its own connection: `origin` is where that byte lies.
"""

from __future__ import annotations

from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.held import PACKABLE, HeldAudio, compand, expand

BLOCK_MS = 500


class InputTape:
    """What was sent and is not settled. Settled is audio of turns that are committed or thrown away.

    Bounded: `quiet_ms` while nobody is known to speak, `replay_ms` else; the oldest goes first. It may be
    told to hold nothing: then positions alone go on. All but the newest half a second lies in blocks, of PCM
    with half the bytes.
    """

    def __init__(self, audio: AudioFormat, replay_ms: int, quiet_ms: int) -> None:
        self._format = audio
        self._replay = self._bytes(replay_ms)
        self._quiet = self._bytes(min(quiet_ms, replay_ms))
        self._packs = audio.samples == PACKABLE
        self._block = self._bytes(BLOCK_MS)
        self._blocks: list[bytes] = []
        self._fresh: list[bytes] = []
        self._fresh_bytes = 0
        self._gone = 0
        """Bytes of the oldest block that are forgotten."""
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
        self._fresh.append(audio)
        self._fresh_bytes += len(audio)
        self._size += len(audio)
        if self._fresh_bytes >= self._block:
            self._fold()
        excess = self._size - (self._replay if self.speaking else self._quiet)
        if excess > 0:
            self.torn = True
            if self.speaking:
                self.lost_bytes += excess
            self._forget(excess)

    def _fold(self) -> None:
        fresh = b"".join(self._fresh)
        whole = len(fresh) // self._block * self._block
        for at in range(0, whole, self._block):
            block = fresh[at : at + self._block]
            self._blocks.append(compand(block) if self._packs else block)
        self._fresh = [fresh[whole:]] if whole < len(fresh) else []
        self._fresh_bytes = len(fresh) - whole

    def settle(self, position: int) -> None:
        """Forget what lies before `position`."""
        self.torn = False
        self._settled = min(position, self.end)
        self._forget(self._settled - self._start)

    def _forget(self, excess: int) -> None:
        if excess <= 0:
            return
        self._start += excess
        self._size -= excess
        self._gone += excess
        if self._gone < self._block and self._blocks:
            return
        blocks = min(self._gone // self._block, len(self._blocks))
        del self._blocks[:blocks]
        self._gone -= blocks * self._block
        if not self._blocks:
            self._drop_fresh(self._gone)
            self._gone = 0

    def _drop_fresh(self, size: int) -> None:
        self._fresh_bytes -= size
        while size and size >= len(self._fresh[0]):
            size -= len(self._fresh.pop(0))
        if size:
            self._fresh[0] = self._fresh[0][size:]

    def turn(self, begin: int | None, end: int) -> HeldAudio | None:
        """The audio of a turn that ends at `end`, as far as it is held; None of one that began while no audio
        was held, or of which none is. Without `begin` it is all that is not settled."""
        if (self._settled if begin is None else begin) < self._resumed:
            return None
        begin = self._start if begin is None else begin
        if not self._packs:
            whole = self.slice(begin, end)
            return HeldAudio(whole) if whole else None
        # Positions are whole samples, so each has one byte of what is halved.
        first, last = (at // 2 for at in self._within(begin, end))
        skipped = min(first * 2 // self._block, len(self._blocks))
        pieces = [*self._blocks[skipped:], compand(b"".join(self._fresh))]
        skipped = skipped * self._block // 2
        halves = b"".join(pieces)[first - skipped : last - skipped]
        return HeldAudio.of_halves(halves) if halves else None

    def _within(self, begin: int, end: int) -> tuple[int, int]:
        """Two positions, from the beginning of what lies here."""
        first = max(0, begin - self._start) + self._gone
        return first, max(first, max(0, end - self._start) + self._gone)

    def slice(self, begin: int, end: int) -> bytes:
        """The audio between two positions, as far as it is held."""
        first, last = self._within(begin, end)
        skipped = min(first // self._block, len(self._blocks))
        pieces: list[bytes] = []
        for block in self._blocks[skipped : -(-last // self._block)]:
            pieces.append(expand(block) if self._packs else block)
        pieces += self._fresh
        skipped *= self._block
        return b"".join(pieces)[first - skipped : last - skipped]

    def rewind(self, before: bytes = b"", newest: int | None = None) -> bytes:
        """Take all that is held off the tape, for a new connection to be sent: it comes back by `append`.

        `before` is audio of a turn that is taken back, it goes ahead; `newest` keeps only so many bytes.
        """
        audio = self.slice(self._start, self.end)
        if newest is not None and len(audio) > newest:
            audio = audio[len(audio) - newest :]
        audio = before + audio
        self._start = self.end - len(audio)
        self._blocks.clear()
        self._fresh.clear()
        self._gone = self._size = self._fresh_bytes = 0
        self.torn = False
        self.origin = self._settled = self._resumed = self._start
        return audio

    def newest_bytes(self, milliseconds: int) -> int:
        """How many bytes so many milliseconds are."""
        return self._bytes(milliseconds)
