"""A ConverseMany stream without sockets: what a gateway says is put in, what it is told is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from parley.media.v1 import media_pb2 as pb
from parley_worker.core import effects as fx
from parley_worker.core.audio import AudioFormat, Encoding
from parley_worker.core.events import AttachRequest, Hangup, LegCommand, LegRefusal, Status
from parley_worker.core.media_path import OutFrame, PlayoutMode
from parley_worker.core.model import EndReason
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_server import ManyBounds, ManyShared, ManyStream
from parley_worker.transport.ports import LegPort

FORMAT = AudioFormat(Encoding.G711_ULAW, 8000)
ULAW = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_G711_ULAW, sample_rate_hz=8000)
NOT_READY = LegRefusal(
    Status.UNAVAILABLE, "session-not-ready", "the provider is not connected yet: try again"
)
FRAME = OutFrame(bytes(160), "item", 0, 1, 0)


class Talk:
    """A session that keeps what it is told. See SessionPort."""

    def __init__(self, *, ready: bool = True, refusal: LegRefusal | None = None) -> None:
        self.ready = asyncio.Event()
        if ready:
            self.ready.set()
        self.refusal = refusal
        self.leg: LegPort | None = None
        self.audio: list[tuple[bytes, int, int]] = []
        self.said: list[LegCommand] = []
        self.lost: list[str] = []
        self.forgotten: list[dict[tuple[str, int], int]] = []
        self.rooms: list[int] = []

    async def wait_ready(self) -> None:
        await self.ready.wait()

    def attach(self, request: AttachRequest, leg: LegPort) -> LegRefusal | None:
        if not self.ready.is_set():
            return NOT_READY
        if self.refusal is not None:
            return self.refusal
        self.leg = leg
        leg.send(fx.Started("uid", 1, "token", FORMAT, FORMAT, PlayoutMode.REALTIME, 0.0))
        return None

    def leg_audio(self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int) -> LegRefusal | None:
        if payload == b"break":
            raise RuntimeError("boom")
        if not payload:
            return LegRefusal(
                Status.INVALID_ARGUMENT, "frame-empty", "audio.payload is empty", "audio.payload"
            )
        self.audio.append((payload, sequence, media_time_ms))
        return None

    def leg_message(self, leg: LegPort, message: LegCommand) -> LegRefusal | None:
        self.said.append(message)
        if isinstance(message, Hangup):
            self.end()
        return None

    def leg_room(self, leg: LegPort) -> None:
        self.rooms.append(leg.audio_room())

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        self.lost.append(cause)
        self.forgotten.append(leg.drop_audio())

    def speak(self, frames: int = 1, frame: OutFrame = FRAME) -> None:
        assert self.leg is not None
        for _ in range(frames):
            self.leg.send_audio(frame)

    def end(self) -> None:
        assert self.leg is not None
        self.leg.send(fx.Ended(EndReason.CALLER_HANGUP, "over"))
        self.leg.finish(None)


class Side:
    """The gateway: `say` puts entries in, `told` are the responses so far, with the time of each."""

    def __init__(self) -> None:
        self.told: list[tuple[float, pb.ConverseManyResponse]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.sessions: dict[str, Talk] = {}
        self._asked: asyncio.Queue[Any] = asyncio.Queue()
        self._news = asyncio.Event()

    # The stream, as the server sees it

    async def read(self) -> Any:
        asked = await self._asked.get()
        if isinstance(asked, Exception):
            raise asked
        return asked

    async def write(self, message: pb.ConverseManyResponse) -> None:
        await self.reads.wait()
        self.told.append((asyncio.get_running_loop().time(), message))
        self._news.set()

    # The directory

    def find_by_ticket(self, ticket_sha256: bytes) -> None:
        return None

    find_by_resume = find_by_ticket

    def find_by_uid(self, uid: str) -> Talk | None:
        return self.sessions.get(uid)

    # The test

    def talk(self, uid: str, **how: Any) -> Talk:
        self.sessions[uid] = Talk(**how)
        return self.sessions[uid]

    def request(self, *entries: pb.CallerEntry) -> None:
        self._asked.put_nowait(pb.ConverseManyRequest(entries=entries))

    def say(self, handle: int, **fields: Any) -> None:
        self.request(pb.CallerEntry(handle=handle, **fields))

    def start(self, handle: int, uid: str) -> None:
        self.say(handle, message=starting(uid))

    def half_close(self) -> None:
        self._asked.put_nowait(grpc.aio.EOF)

    def cut(self) -> None:
        self._asked.put_nowait(ConnectionError("cut"))

    def entries(self, handle: int) -> list[pb.AgentEntry]:
        return [e for _, response in self.told for e in response.entries if e.handle == handle]

    def kinds(self, handle: int) -> list[str]:
        """`audio`, `failed`, or the message's kind; `failed` with its reason."""
        kinds = []
        for entry in self.entries(handle):
            kind = entry.WhichOneof("content")
            assert kind is not None
            if kind == "message":
                kind = entry.message.WhichOneof("message") or ""
            kinds.append(f"failed {entry.failed.reason}" if kind == "failed" else kind)
        return kinds

    async def until(self, handle: int, *kinds: str) -> None:
        """Wait until the handle was told exactly these; fails at what cannot become them."""
        while (seen := self.kinds(handle)) != list(kinds):
            assert seen == list(kinds)[: len(seen)], f"{seen} came in place of {kinds}"
            self._news.clear()
            await self._news.wait()


def starting(uid: str) -> pb.ConverseRequest:
    return pb.ConverseRequest(start=pb.Start(session_uid=uid, input_format=ULAW, output_format=ULAW))


@asynccontextmanager
async def serving(
    bounds: ManyBounds | None = None, leg: LegBounds | None = None
) -> AsyncIterator[tuple[Side, asyncio.Task[LegRefusal | None], Metrics]]:
    """A served stream; the task's result is why it ended."""
    side, metrics = Side(), Metrics("test")
    shared = ManyShared(side, metrics, bounds or ManyBounds(), leg or LegBounds(), 15.0, "w")
    task = asyncio.create_task(ManyStream(shared).run(side))
    try:
        yield side, task, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
