"""What waits to be sent, in order: client events and caller audio. No clock of its own, no I/O.

Audio is coalesced: an append holds 20 to 40 ms, less only when an event follows it or 40 ms have passed since
its first byte came. Audio is bounded in bytes (the oldest goes first), events in number and in size
(`put_event` raises).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from parley_realtime.errors import OutgoingQueueFull
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.core import encode_append

MAX_WAIT = 0.04
MAX_EVENT_CHARACTERS = 8 * 1024 * 1024
"""Of all client events that wait; one that is larger still may wait alone."""


@dataclass(slots=True)
class _Audio:
    data: bytearray
    since: float


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame for the socket; `audio` is what it carries, empty for an event."""

    data: str | bytes
    audio: bytes = b""

    @property
    def audio_bytes(self) -> int:
        return len(self.audio)


class SendQueue:
    """See the module. `now` is any monotonic clock in seconds."""

    def __init__(self, audio: AudioFormat, media_buffer_ms: int, max_events: int) -> None:
        self._format = audio
        self._low, self._high = audio.append_bytes
        sample = audio.sample_bytes
        self._max_audio = max(self._low, audio.bytes_per_second * media_buffer_ms // 1000 // sample * sample)
        self._max_events = max_events
        self._entries: deque[str | _Audio] = deque()
        self._events = 0
        self._characters = 0
        self.audio_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes that wait, of audio and (about) of events."""
        return self.audio_bytes + self._characters

    def put_event(self, text: str) -> None:
        """OutgoingQueueFull when `max_events` events wait already, or MAX_EVENT_CHARACTERS of them."""
        full = self._characters and self._characters + len(text) > MAX_EVENT_CHARACTERS
        if self._events >= self._max_events or full:
            raise OutgoingQueueFull(
                f"{self._events} client events wait for the provider: send fewer, or close the client"
            )
        self._events += 1
        self._characters += len(text)
        self._entries.append(text)

    def put_audio(self, payload: bytes, now: float) -> int:
        """Add audio; returns how many bytes of the oldest audio were dropped for it."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, _Audio):
            last.data += payload
        else:
            self._entries.append(_Audio(bytearray(payload), now))
        self.audio_bytes += len(payload)
        return (
            self._drop_oldest(self.audio_bytes - self._max_audio) if self.audio_bytes > self._max_audio else 0
        )

    def _drop_oldest(self, excess: int) -> int:
        dropped = 0
        for entry in [e for e in self._entries if isinstance(e, _Audio)]:
            size = min(excess - dropped, len(entry.data))
            del entry.data[:size]
            dropped += size
            if dropped == excess:
                break
        self._entries = deque(e for e in self._entries if not isinstance(e, _Audio) or e.data)
        self.audio_bytes -= dropped
        return dropped

    def take(self, now: float) -> Outgoing | None:
        """The next frame that is due, or None."""
        if not self._entries:
            return None
        head = self._entries[0]
        if isinstance(head, str):
            self._entries.popleft()
            self._events -= 1
            self._characters -= len(head)
            return Outgoing(head)
        if len(head.data) < self._low and len(self._entries) == 1 and now < head.since + MAX_WAIT:
            return None
        size = min(len(head.data), self._high)
        audio = bytes(memoryview(head.data)[:size])
        del head.data[:size]
        head.since = now
        if not head.data:
            self._entries.popleft()
        self.audio_bytes -= size
        return Outgoing(encode_append(audio), audio)

    def widen(self, *, audio: int = 0, events: int = 0) -> None:
        """Let so many bytes and events more wait: what is sent again comes faster than a provider reads."""
        self._max_audio += audio
        self._max_events += events

    def take_audio(self) -> bytes:
        """All audio that waits, in order; the queue holds none of it any more."""
        audio = b"".join(bytes(entry.data) for entry in self._entries if isinstance(entry, _Audio))
        self._entries = deque(entry for entry in self._entries if isinstance(entry, str))
        self.audio_bytes = 0
        return audio

    def deadline(self) -> float | None:
        """When `take` will give something though nothing is added: None if that is now or never."""
        if (
            len(self._entries) == 1
            and isinstance(head := self._entries[0], _Audio)
            and len(head.data) < self._low
        ):
            return head.since + MAX_WAIT
        return None
