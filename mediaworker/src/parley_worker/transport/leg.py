"""One caller's stream: its bounded queue of messages and the writer that empties it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from parley.media.v1 import media_pb2 as pb

from parley_worker.codec import media_pb
from parley_worker.core.effects import Clear, ConversationEvent, Mark, ToLeg
from parley_worker.core.events import LegRefusal, Status
from parley_worker.core.media_path import OutFrame
from parley_worker.transport.leg_lanes import Lanes, Message, Queued

FRAMES_TOGETHER: Final = 5
"""Frames of 20 ms that go in one message when they wait: as long as a message of a caller that bursts."""

Message_contra = TypeVar("Message_contra", contravariant=True)

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


class Stream(Protocol[Message_contra]):
    """The writing half of a caller's connection."""

    async def write(self, message: Message_contra, /) -> None: ...


class Wire(Protocol[Message]):
    """How messages for a caller are written."""

    def write(self, message: ToLeg) -> Message | None:
        """A message; None for what this kind of caller is not told."""

    def write_audio(self, frame: OutFrame, sequence: int) -> Message:
        """Agent audio, the moment it leaves: a frame or some together; `sequence` counts messages from 1."""

    def size(self, message: Message) -> int:
        """Bytes that the message takes, about."""

    def audio_size(self, frame: OutFrame) -> int:
        """Bytes that the frame will take, about and not less."""


class LegQueue(Generic[Message]):
    """See LegPort. `on_slow` is called once when the queue overflows, `on_room` when audio has room again.

    `together`: frames of 20 ms that wait may go in one message, at most so many.
    """

    def __init__(self, bounds: LegBounds, wire: Wire[Message], together: int = 1) -> None:
        self._bounds = bounds
        self._wire = wire
        self._together = together
        self._waiting: Lanes[Message] = Lanes()
        self._bytes = 0
        self._audio_bytes = 0
        self._frames = 0
        self._crowded = False
        self._starved = False
        """Somebody was told of no room, and the queue was not empty since."""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writing_since: float | None = None
        self.closing = asyncio.Event()
        self.refusal: LegRefusal | None = None
        self.on_slow: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None

    def send(self, message: ToLeg) -> None:
        """See LegPort."""
        written = self._wire.write(message)
        if written is None:
            return
        queued = Queued(self._wire.size(written), written, mark=isinstance(message, Mark))
        if isinstance(message, ConversationEvent):
            self._put(queued, self._waiting.event)
        elif isinstance(message, Mark | Clear):
            self._put(queued, self._waiting.sound)
        else:
            self._put(queued, self._waiting.behind_all)

    def send_audio(self, frame: OutFrame) -> None:
        """See LegPort."""
        self._put(Queued(self._wire.audio_size(frame), None, frame), self._waiting.sound)

    def audio_room(self) -> int:
        """See LegPort. None while half of the messages that may wait do, however small they are."""
        if len(self._waiting) >= self._bounds.messages // 2:
            self._crowded = True
            return 0
        room = self._bounds.audio_bytes - self._audio_bytes
        if room <= 0:
            self._starved = True
        return room

    def queued_bytes(self) -> int:
        """See LegPort."""
        return self._bytes

    def drop_audio(self) -> dict[tuple[str, int], int]:
        """See LegPort."""
        forgotten: dict[tuple[str, int], int] = {}
        for queued in self._waiting.drop_audio():
            frame = queued.frame
            if frame is not None:
                forgotten.setdefault((frame.item_id, frame.content_index), int(frame.position_ms))
                self._audio_bytes -= queued.size
            self._bytes -= queued.size
        return forgotten

    def _put(self, queued: Queued[Message], lane: Callable[[Queued[Message]], None]) -> None:
        if self.closing.is_set():
            return
        if self._slow(queued.size):
            self.finish(SLOW_READER)
            self.on_slow()
            return
        lane(queued)
        self._bytes += queued.size
        if queued.frame is not None:
            self._audio_bytes += queued.size
        self._wake.set()

    def _slow(self, size: int) -> bool:
        if len(self._waiting) >= self._bounds.messages or self._bytes + size > self._bounds.bytes:
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

    async def drain(self, stream: Stream[Message]) -> None:
        """Write what is queued until the leg is finished and the queue is empty."""
        while True:
            while len(self._waiting) and self.refusal is not SLOW_READER:
                head = self._waiting.take(self._together)
                message = head.message
                if head.frame is not None:
                    self._frames += 1
                    message = self._wire.write_audio(head.frame, self._frames)
                assert message is not None
                self._writing_since = self._loop.time()
                await stream.write(message)
                self._writing_since = None
                self._bytes -= head.size
                if head.frame is not None:
                    full = self._audio_bytes >= self._bounds.audio_bytes
                    self._audio_bytes -= head.size
                    if self._starved and (full or self._audio_bytes == 0):
                        self._starved = self._audio_bytes > 0
                        self.on_room()
                if self._crowded and len(self._waiting) <= self._bounds.messages // 4:
                    self._crowded = False
                    self.on_room()
            if self.closing.is_set():
                return
            self._wake.clear()
            await self._wake.wait()


def _nothing() -> None:
    """Of a leg that is over nobody is told."""


async def carry(
    leg: LegQueue[Message],
    writing: Coroutine[Any, Any, None],
    reading: Coroutine[Any, Any, None],
    lost: Callable[[], None],
    flush: float,
) -> list[Exception]:
    """Write and read until one of them ends or the leg is finished; returns what broke.

    A leg that is finished in good order has `flush` seconds for what is queued. `lost` is called at the end,
    before the leg of a caller who went away is finished.
    """
    writer = asyncio.create_task(writing, name="leg writer")
    reader = asyncio.create_task(reading, name="leg reader")
    closing = asyncio.create_task(leg.closing.wait(), name="leg end")
    tasks = (writer, reader, closing)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if leg.closing.is_set() and leg.refusal is None:
            await asyncio.wait((writer,), timeout=flush)
    finally:
        lost()
        leg.finish(None)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        # gRPC keeps its streams until it collects them: a session that is over must not be kept with them.
        leg.on_slow = leg.on_room = _nothing
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


class GrpcWire:
    """Messages of parley.media.v1."""

    def __init__(self, worker_instance_id: str) -> None:
        self._instance = worker_instance_id

    def write(self, message: ToLeg) -> pb.ConverseResponse | None:
        """See Wire."""
        return media_pb.write(message, self._instance)

    def write_audio(self, frame: OutFrame, sequence: int) -> pb.ConverseResponse:
        """See Wire."""
        return media_pb.write_audio(frame, sequence)

    def size(self, message: pb.ConverseResponse) -> int:
        """See Wire."""
        return message.ByteSize()

    def audio_size(self, frame: OutFrame) -> int:
        """See Wire."""
        return len(frame.payload) + len(frame.item_id) + media_pb.AUDIO_BYTES


class Leg(LegQueue[pb.ConverseResponse]):
    """The leg of a gRPC caller. Packets, which end nowhere but at their ends, go `alone`."""

    def __init__(self, bounds: LegBounds, worker_instance_id: str, alone: bool = False) -> None:
        super().__init__(bounds, GrpcWire(worker_instance_id), 1 if alone else FRAMES_TOGETHER)
