"""ConverseMany: reads what the callers of many sessions say, and attaches and ends each by itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from parley.media.v1 import media_pb2 as pb

from parley_worker.codec import many_pb, media_pb
from parley_worker.core.attach_rules import NOT_READY
from parley_worker.core.events import ClientEventInvalid, LegRefusal, Status
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.attaching import attach, attach_now, find_session
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_leg import ManyLeg
from parley_worker.transport.many_reader import BROKEN, take_entries
from parley_worker.transport.many_turns import ManyTurns, WriterBounds
from parley_worker.transport.many_writer import write_turns
from parley_worker.transport.ports import LegPort, SessionDirectory, SessionPort

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ManyBounds:
    """What one stream of many sessions may hold, and how long it waits (seconds)."""

    handles: int = 4096
    """In use at a time. As many more may wait for their last word to be read."""
    starts: int = 256
    """Attaches that wait for their providers."""
    entries: int = 4096
    """Of one request."""
    idle: float = 60.0
    """Without a handle in use."""
    writer: WriterBounds = field(default_factory=WriterBounds)


@dataclass(frozen=True, slots=True)
class ManyShared:
    """What all streams of a process have in common."""

    directory: SessionDirectory
    metrics: Metrics
    bounds: ManyBounds
    leg: LegBounds
    ready_timeout: float
    worker_instance_id: str


def _refusal(status: Status, reason: str, message: str, name: str = "") -> LegRefusal:
    return LegRefusal(status, reason, message, name)


START_MISSING: Final = _refusal(
    Status.INVALID_ARGUMENT,
    "start-missing",
    "the handle is not in use: its first entry must be start",
    "message",
)
NOT_STARTED: Final = _refusal(
    Status.FAILED_PRECONDITION, "not-started", "the session is not attached yet: wait for started", "message"
)
DETACHED: Final = _refusal(
    Status.CANCELLED,
    "half-closed",
    "the caller gave up the leg: send hangup to end the session, or attach again",
)
UNREAD: Final = _refusal(
    Status.RESOURCE_EXHAUSTED,
    "slow-reader",
    "the stream is not read: read faster, then attach the sessions again",
)


class ManyStream:
    """One stream. `run` carries it to its end."""

    def __init__(self, shared: ManyShared) -> None:
        self._shared = shared
        self._legs: dict[int, ManyLeg] = {}
        self._turns = ManyTurns(shared.bounds.writer, self._legs, self._over)
        self._used: dict[int, None] = {}
        self._starts: asyncio.Queue[tuple[ManyLeg, media_pb.StartMessage]] = asyncio.Queue()
        self._attaching: dict[ManyLeg, asyncio.Task[None] | None] = {}
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._refusal: LegRefusal | None = None
        self._cause = "cancelled"

    async def run(self, stream: Any) -> LegRefusal | None:
        """Carry the sessions until the stream ends; why it ends in error, or None."""
        self._await_use()
        writing = write_turns(self._turns, stream, self._unread)
        writer = asyncio.create_task(writing, name="writer of many legs")
        reader = asyncio.create_task(self._read(stream), name="reader of many legs")
        starter = asyncio.create_task(self._attach_by_turns(), name="attaches of many legs")
        ended = asyncio.create_task(self._ended.wait(), name="end of many legs")
        try:
            await asyncio.wait((writer, reader, starter, ended), return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not reader.cancelled() and reader.exception() is None:
                await asyncio.wait(
                    (writer, ended), timeout=self._shared.leg.flush, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            waiting = [task for task in self._attaching.values() if task is not None]
            self._cut()
            tasks = (writer, reader, starter, ended, *waiting)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                log.info("a stream of many legs broke: %s", type(outcome).__name__)
        return self._refusal

    def _unread(self) -> None:
        self._end(UNREAD, "slow-reader")

    def _end(self, refusal: LegRefusal, cause: str) -> None:
        self._refusal = self._refusal or refusal
        self._cause = cause
        self._ended.set()

    def _cut(self) -> None:
        """The stream is gone: every session on it is held until its caller comes back."""
        if self._idle is not None:
            self._idle.cancel()
        legs = list(self._legs.values())
        self._legs.clear()
        for leg in legs:
            if leg.session is not None and not leg.closing:
                leg.session.leg_lost(leg, self._cause)
            leg.cut()

    # Reading

    async def _read(self, stream: Any) -> None:
        most = self._shared.bounds.entries
        while (request := await stream.read()) is not grpc.aio.EOF:
            entries = request.entries
            if len(entries) > most:
                text = f"entries has {len(entries)}; at most {most} are taken: split the request"
                refusal = LegRefusal(Status.INVALID_ARGUMENT, "too-many-entries", text, "entries")
                self._end(refusal, "protocol-error")
                return
            self._take(entries)
        for leg in list(self._legs.values()):
            self._detach(leg)
        self._turns.end()

    def _take(self, entries: Any) -> None:
        take_entries(entries, self._legs, self._other, self._broke_rules)

    def _other(self, leg: ManyLeg | None, entry: pb.CallerEntry) -> None:
        if leg is None:
            self._stranger(entry)
        else:
            self._message(leg, entry)

    def _broke_rules(self, leg: ManyLeg, refusal: LegRefusal) -> None:
        self._fail(leg, refusal, "protocol-error")

    def _stranger(self, entry: pb.CallerEntry) -> None:
        """An entry under a handle that is not in use."""
        if entry.message.HasField("start"):
            self._start(entry.handle, entry.message)
        elif entry.handle in self._used:
            if entry.audio:
                self._drop(None, b"", 0, 0)
        elif (leg := self._open(entry.handle)) is not None:
            leg.finish(START_MISSING)

    def _message(self, leg: ManyLeg, entry: pb.CallerEntry) -> None:
        """Anything but audio, of a leg in use."""
        if leg.closing:
            return
        refusal: LegRefusal | None = None
        kind = entry.WhichOneof("content")
        session = leg.session
        if kind == "credit":
            refusal = leg.give_credit(entry.credit)
        elif kind == "detach":
            self._detach(leg)
        elif leg in self._attaching:
            refusal = NOT_STARTED
        elif session is None:
            return
        elif kind == "audio":
            refusal = leg.hear(leg, b"", entry.sequence, entry.media_time_ms)
        elif kind is None:
            text = "the entry is empty or of a kind that this worker does not know"
            refusal = session.leg_message(leg, ClientEventInvalid(text))
        elif entry.message.HasField(many_pb.AUDIO_MESSAGE):
            audio = entry.message.audio
            refusal = leg.hear(leg, audio.payload, audio.sequence, audio.media_time_ms)
        else:
            command = media_pb.read_command(entry.message)
            refusal = command if isinstance(command, LegRefusal) else session.leg_message(leg, command)
        if refusal is not None:
            self._fail(leg, refusal, "protocol-error")

    def _drop(self, leg: LegPort | None, payload: bytes, sequence: int, media_time_ms: int) -> None:
        self._shared.metrics.frames_dropped("in", "unattached")

    # One leg's life

    def _open(self, handle: int) -> ManyLeg | None:
        """A leg under the handle, which is in use from now on; None when the stream has to end."""
        shared = self._shared
        if len(self._legs) >= 2 * shared.bounds.handles:
            text = f"{len(self._legs)} handles are in use or wait to be read: use fewer, and read faster"
            self._end(
                LegRefusal(Status.RESOURCE_EXHAUSTED, "too-many-handles", text, "handle"), "slow-reader"
            )
            return None
        leg = ManyLeg(handle, self._turns, shared.leg, shared.worker_instance_id, self._drop)
        self._legs[handle] = leg
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        return leg

    def _start(self, handle: int, message: pb.ConverseRequest) -> None:
        leg = self._open(handle)
        if leg is None:
            return
        bounds = self._shared.bounds
        start = media_pb.read_start(message)
        if isinstance(start, LegRefusal):
            leg.finish(start)
            return
        if len(self._legs) > bounds.handles:
            text = f"{bounds.handles} handles are in use on this stream: open another one"
            leg.finish(LegRefusal(Status.RESOURCE_EXHAUSTED, "too-many-handles", text, "handle"))
            return
        self._attaching[leg] = None
        self._starts.put_nowait((leg, start))

    async def _attach_by_turns(self) -> None:
        """One attach between any two turns of the loop: a gateway that comes back brings all its sessions."""
        while True:
            leg, start = await self._starts.get()
            if leg in self._attaching:
                try:
                    self._attach(leg, start)
                except Exception as exc:  # noqa: BLE001 - the border of a session: the others attach
                    log.error("an attach of one of many failed: %s", type(exc).__name__)
                    self._attached(leg, BROKEN)
            await asyncio.sleep(0)

    def _attach(self, leg: ManyLeg, start: media_pb.StartMessage) -> None:
        session = find_session(self._shared.directory, start)
        if isinstance(session, LegRefusal):
            self._attached(leg, session)
            return
        leg.session = session
        refusal = attach_now(session, start, leg)
        most = self._shared.bounds.starts
        if refusal is None or refusal.reason != NOT_READY:
            self._attached(leg, refusal)
        elif self._waiting >= most:
            text = f"{most} attaches of this stream wait for their providers: try again"
            self._attached(leg, LegRefusal(Status.RESOURCE_EXHAUSTED, "too-many-starts", text, "start"))
        else:
            waiting = self._attach_when_ready(session, leg, start)
            self._attaching[leg] = asyncio.create_task(waiting, name="attach of one of many")

    async def _attach_when_ready(
        self, session: SessionPort, leg: ManyLeg, start: media_pb.StartMessage
    ) -> None:
        self._waiting += 1
        try:
            refusal = await attach(session, start, leg, self._shared.ready_timeout)
        except Exception as exc:  # noqa: BLE001 - the border of a session: the stream goes on
            log.error("an attach of one of many failed: %s", type(exc).__name__)
            refusal = BROKEN
        finally:
            self._waiting -= 1
        self._attached(leg, refusal)

    def _attached(self, leg: ManyLeg, refusal: LegRefusal | None) -> None:
        self._attaching.pop(leg, None)
        if refusal is not None:
            leg.session = None
            leg.finish(refusal)
        elif not leg.closing and leg.session is not None:
            leg.hear = leg.session.leg_audio

    def _detach(self, leg: ManyLeg) -> None:
        self._fail(leg, DETACHED, "half-closed")

    def _fail(self, leg: ManyLeg, refusal: LegRefusal, cause: str) -> None:
        """End the leg and not its session."""
        if leg.closing:
            return
        if leg in self._attaching:
            attaching = self._attaching.pop(leg)
            if attaching is not None:
                attaching.cancel()
            leg.session = None
        leg.finish(refusal)
        if leg.session is not None:
            leg.session.leg_lost(leg, cause)

    def _over(self, leg: ManyLeg) -> None:
        """The leg's last word is on its way; its handle may be used again."""
        del self._legs[leg.handle]
        self._used.pop(leg.handle, None)
        self._used[leg.handle] = None
        while len(self._used) > self._shared.bounds.handles:
            del self._used[next(iter(self._used))]
        if leg.refusal is not None:
            self._shared.metrics.leg_error(leg.refusal.status.value)
        if not self._legs:
            self._await_use()

    def _await_use(self) -> None:
        idle = self._shared.bounds.idle
        text = f"no handle was in use for {idle:g} s: open the stream again when there is a session"
        refusal = LegRefusal(Status.DEADLINE_EXCEEDED, "stream-idle", text)
        self._idle = asyncio.get_running_loop().call_later(idle, self._end, refusal, "cancelled")
