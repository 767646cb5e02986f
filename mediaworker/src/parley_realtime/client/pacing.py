"""A queue that gives audio at the rate at which it is to be played. No clock of its own, no I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from parley_realtime.audio import SampleFormat
from parley_realtime.events import MediaChunk
from parley_realtime.formats import FRAME_SECONDS


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one content part, in line behind its audio."""

    response_id: str
    item_id: str
    content_index: int


class Pacer:
    """A queue of audio that gives 20 ms frames at the rate at which they are to be played.

    The due time moves by the length of what was given and not by when it was asked for, so lateness does not
    add up. A frame never mixes content parts; the last one of a part may be shorter. Bounded: the newest
    audio is dropped.
    """

    def __init__(self, audio: SampleFormat, buffer_ms: int) -> None:
        self._format = audio
        self._max = audio.bytes_per_second * buffer_ms // 1000
        self._queue: deque[_Part | Done] = deque()
        self._due = 0.0
        self.size = 0

    def push(self, chunk: MediaChunk, now: float) -> int:
        """Returns the bytes that were dropped because the buffer is full."""
        dropped = max(0, self.size + len(chunk.payload) - self._max)
        dropped += -dropped % self._format.sample_bytes
        kept = chunk.payload[: len(chunk.payload) - dropped] if dropped < len(chunk.payload) else b""
        if kept:
            if not self._queue or self._starved():
                self._due = max(self._due, now)
            last = self._queue[-1] if self._queue else None
            if isinstance(last, _Part) and last.same_as(chunk):
                last.data += kept
            else:
                self._queue.append(
                    _Part(bytearray(kept), chunk.response_id, chunk.item_id, chunk.content_index)
                )
            self.size += len(kept)
        return len(chunk.payload) - len(kept)

    def done(self, done: Done) -> None:
        self._queue.append(done)

    def clear(self) -> None:
        self._queue.clear()
        self.size = 0

    def deadline(self) -> float | None:
        """When the next frame or end is due; None while there is nothing to give."""
        if not self._queue or self._starved():
            return None
        return self._due

    def take(self, now: float) -> MediaChunk | Done | None:
        """The next frame or end that is due at `now`, or None."""
        deadline = self.deadline()
        if deadline is None or deadline > now:
            return None
        head = self._queue[0]
        if isinstance(head, Done):
            self._queue.popleft()
            return head
        size = min(len(head.data), self._format.frame_bytes)
        payload = bytes(memoryview(head.data)[:size])
        del head.data[:size]
        self.size -= size
        if not head.data:
            self._queue.popleft()
        self._due += self._format.seconds(size) if size < self._format.frame_bytes else FRAME_SECONDS
        return MediaChunk(payload, head.response_id, head.item_id, head.content_index)

    def _starved(self) -> bool:
        head = self._queue[0]
        return len(self._queue) == 1 and isinstance(head, _Part) and len(head.data) < self._format.frame_bytes


@dataclass(slots=True)
class _Part:
    """Audio of one content part that waits to be played."""

    data: bytearray
    response_id: str
    item_id: str
    content_index: int

    def same_as(self, chunk: MediaChunk) -> bool:
        return (self.response_id, self.item_id, self.content_index) == (
            chunk.response_id,
            chunk.item_id,
            chunk.content_index,
        )
