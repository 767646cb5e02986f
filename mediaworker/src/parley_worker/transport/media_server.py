"""MediaService on grpc.aio: reads callers, finds their sessions, and ends streams with clear statuses."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc

from parley_worker.codec import media_pb
from parley_worker.core.events import CredentialKind, LegRefusal, Status
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.leg import Leg, LegBounds
from parley_worker.transport.ports import SessionDirectory, SessionPort

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["MediaService"].full_name
HALF_CLOSED = LegRefusal(
    Status.CANCELLED,
    "half-closed",
    "the caller closed its side of the stream: send hangup to end the session, or attach again",
)
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Waits and bounds of the media server, in seconds."""

    worker_instance_id: str
    start_timeout: float = 10.0
    ready_timeout: float = 15.0
    leg: LegBounds = field(default_factory=LegBounds)


class MediaServer(media_pb2_grpc.MediaServiceServicer):
    """One per process."""

    def __init__(self, directory: SessionDirectory, metrics: Metrics, settings: MediaSettings) -> None:
        self._directory = directory
        self._metrics = metrics
        self._settings = settings

    async def Converse(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> None:
        """See media.proto."""
        refusal = await self._converse(context)
        if refusal is not None:
            code, details, metadata = media_pb.status_details(refusal)
            self._metrics.leg_error(code.name)
            await context.abort(code, details, metadata)

    async def _converse(self, context: Context) -> LegRefusal | None:
        start = await self._read_start(context)
        if isinstance(start, LegRefusal):
            return start
        session = self._find(start)
        if isinstance(session, LegRefusal):
            return session
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.ready_timeout):
                await session.wait_ready()
        request = replace(start.request, credential_sha256=_digest(start))
        leg = Leg(self._settings.leg, self._settings.worker_instance_id)
        leg.on_slow = lambda: session.leg_lost(leg, "slow-reader")
        leg.on_room = lambda: session.leg_room(leg)
        refusal = session.attach(request, leg)
        return refusal or await self._carry(context, session, leg)

    async def _read_start(self, context: Context) -> media_pb.StartMessage | LegRefusal:
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                first = await context.read()
        except TimeoutError:
            text = f"no start came within {self._settings.start_timeout:g} s"
            return LegRefusal(Status.DEADLINE_EXCEEDED, "start-missing", text, "message")
        if first is grpc.aio.EOF:
            text = "the stream was closed before start"
            return LegRefusal(Status.INVALID_ARGUMENT, "start-missing", text, "message")
        return media_pb.read_start(first)

    def _find(self, start: media_pb.StartMessage) -> SessionPort | LegRefusal:
        digest = _digest(start)
        match start.request.credential:
            case CredentialKind.TICKET:
                found = self._directory.find_by_ticket(digest)
                reason, name = "ticket-unknown", "start.ticket"
                text = "no session of this worker has this ticket"
            case CredentialKind.RESUME:
                found = self._directory.find_by_resume(digest)
                reason, name = "resume-token-unknown", "start.resume_token"
                text = "no session of this worker has this resume token: use the one of the last Started"
            case CredentialKind.NONE:
                found = self._directory.find_by_uid(start.request.session_uid)
                reason, name = "session-unknown", "start.session_uid"
                text = "no session of this worker has this uid and asks for no ticket"
        return found or LegRefusal(Status.UNAUTHENTICATED, reason, text, name)

    async def _carry(self, context: Context, session: SessionPort, leg: Leg) -> LegRefusal | None:
        writer = asyncio.create_task(leg.drain(context), name="leg writer")
        reader = asyncio.create_task(self._read(context, session, leg), name="leg reader")
        closing = asyncio.create_task(leg.closing.wait(), name="leg end")
        tasks = (writer, reader, closing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leg.closing.is_set() and leg.refusal is None:
                await asyncio.wait((writer,), timeout=self._settings.leg.flush)
        finally:
            session.leg_lost(leg, "cancelled")
            leg.finish(None)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    log.info("a leg's stream broke: %s", type(outcome).__name__)
        return leg.refusal

    async def _read(self, context: Context, session: SessionPort, leg: Leg) -> None:
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                leg.finish(HALF_CLOSED)
                session.leg_lost(leg, "half-closed")
                return
            refusal: LegRefusal | None
            if message.HasField("audio"):
                audio = message.audio
                refusal = session.leg_audio(leg, audio.payload, audio.sequence, audio.media_time_ms)
            else:
                command = media_pb.read_command(message)
                refusal = command if isinstance(command, LegRefusal) else session.leg_message(leg, command)
            if refusal is not None:
                leg.finish(refusal)
                session.leg_lost(leg, "protocol-error")
                return


def _digest(start: media_pb.StartMessage) -> bytes:
    return hashlib.sha256(start.credential.encode()).digest()


def add_to_server(
    server: grpc.aio.Server, directory: SessionDirectory, metrics: Metrics, settings: MediaSettings
) -> None:
    """Serve MediaService on `server`."""
    servicer = MediaServer(directory, metrics, settings)
    media_pb2_grpc.add_MediaServiceServicer_to_server(servicer, server)
