"""One caller's stream: its bounded queue of responses and the writer that empties it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from parley.media.v1 import media_pb2 as pb

from parley_worker.codec import media_pb
from parley_worker.core.effects import ToLeg
from parley_worker.core.events import LegRefusal, Status
from parley_worker.core.media_path import OutFrame

SLOW_READER = LegRefusal(
    Status.RESOURCE_EXHAUSTED,
    "slow-reader",
    "the caller reads slower than the session speaks: read faster, then attach again with the resume token",
)


@dataclass(frozen=True, slots=True)
class LegBounds:
    """What may wait for one caller; past any of them the caller is a slow reader and the leg ends."""

    messages: int = 1024
    bytes: int = 4 * 1024 * 1024
    audio_bytes: int = 512 * 1024
    """Audio handed over ahead of a caller that bursts; never ends a leg."""
    stall: float = 10.0
    """Seconds that one write may take."""
    flush: float = 5.0
    """Seconds for what is queued at the end."""


class Stream(Protocol):
    """The writing half of a gRPC stream."""

    async def write(self, message: pb.ConverseResponse) -> None: ...


@dataclass(slots=True)
class _Queued:
    message: pb.ConverseResponse
    size: int
    audio: bool


class Leg:
    """See LegPort. `on_slow` is called once when the queue overflows, `on_room` when audio has room again."""

    def __init__(self, bounds: LegBounds, worker_instance_id: str) -> None:
        self._bounds = bounds
        self._instance = worker_instance_id
        self._queue: deque[_Queued] = deque()
        self._bytes = 0
        self._audio_bytes = 0
        self._frames = 0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writing_since: float | None = None
        self.closing = asyncio.Event()
        self.refusal: LegRefusal | None = None
        self.on_slow: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None

    def send(self, message: ToLeg) -> None:
        """See LegPort."""
        self._put(media_pb.write(message, self._instance), audio=False)

    def send_audio(self, frame: OutFrame) -> None:
        """See LegPort."""
        self._put(media_pb.write_audio(frame, 0), audio=True)

    def audio_room(self) -> int:
        """See LegPort."""
        return self._bounds.audio_bytes - self._audio_bytes

    def drop_audio(self) -> dict[tuple[str, int], int]:
        """See LegPort."""
        kept: deque[_Queued] = deque()
        forgotten: dict[tuple[str, int], int] = {}
        for queued in self._queue:
            if queued.audio:
                audio = queued.message.audio
                forgotten.setdefault((audio.item_id, audio.content_index), audio.position_ms)
                self._audio_bytes -= queued.size
            elif not queued.message.HasField("mark"):
                kept.append(queued)
                continue
            self._bytes -= queued.size
        self._queue = kept
        return forgotten

    def _put(self, message: pb.ConverseResponse, *, audio: bool) -> None:
        if self.closing.is_set():
            return
        size = message.ByteSize()
        if self._slow(size):
            self.finish(SLOW_READER)
            self.on_slow()
            return
        self._queue.append(_Queued(message, size, audio))
        self._bytes += size
        if audio:
            self._audio_bytes += size
        self._wake.set()

    def _slow(self, size: int) -> bool:
        if len(self._queue) >= self._bounds.messages or self._bytes + size > self._bounds.bytes:
            return True
        since = self._writing_since
        return since is not None and self._loop.time() - since > self._bounds.stall

    def finish(self, refusal: LegRefusal | None) -> None:
        """See LegPort."""
        if self.closing.is_set():
            return
        self.refusal = refusal
        self.closing.set()
        self._wake.set()

    async def drain(self, stream: Stream) -> None:
        """Write what is queued until the leg is finished and the queue is empty."""
        while True:
            while self._queue and self.refusal is not SLOW_READER:
                head = self._queue.popleft()
                if head.audio:
                    self._frames += 1
                    head.message.audio.sequence = self._frames
                self._writing_since = self._loop.time()
                await stream.write(head.message)
                self._writing_since = None
                self._bytes -= head.size
                if head.audio:
                    full = self._audio_bytes >= self._bounds.audio_bytes
                    self._audio_bytes -= head.size
                    if full or self._audio_bytes == 0:
                        self.on_room()
            if self.closing.is_set():
                return
            self._wake.clear()
            await self._wake.wait()
