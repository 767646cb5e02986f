"""MediaService on grpc.aio: reads callers, finds their sessions, and ends streams with clear statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc

from parley_worker.codec import media_pb
from parley_worker.core.events import LegRefusal, Status
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.attaching import attach, find_session
from parley_worker.transport.leg import Leg, LegBounds, carry
from parley_worker.transport.many_server import ManyBounds, ManyShared, ManyStream
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
    many: ManyBounds = field(default_factory=ManyBounds)


class MediaServer(media_pb2_grpc.MediaServiceServicer):
    """One per process."""

    def __init__(self, directory: SessionDirectory, metrics: Metrics, settings: MediaSettings) -> None:
        self._directory = directory
        self._metrics = metrics
        self._settings = settings
        self._many = ManyShared(
            directory,
            metrics,
            settings.many,
            settings.leg,
            settings.ready_timeout,
            settings.worker_instance_id,
        )

    async def Converse(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> None:
        """See media.proto."""
        await self._close(context, await self._converse(context))

    async def ConverseMany(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.ConverseManyRequest], context: Any
    ) -> None:
        """See media.proto."""
        await self._close(context, await ManyStream(self._many).run(context))

    async def _close(self, context: Context, refusal: LegRefusal | None) -> None:
        if refusal is not None:
            code, details, metadata = media_pb.status_details(refusal)
            self._metrics.leg_error(code.name)
            await context.abort(code, details, metadata)

    async def _converse(self, context: Context) -> LegRefusal | None:
        start = await self._read_start(context)
        if isinstance(start, LegRefusal):
            return start
        session = find_session(self._directory, start)
        if isinstance(session, LegRefusal):
            return session
        packets = start.request.output_codec is not None
        leg = Leg(self._settings.leg, self._settings.worker_instance_id, alone=packets)
        refusal = await attach(session, start, leg, self._settings.ready_timeout)
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

    async def _carry(self, context: Context, session: SessionPort, leg: Leg) -> LegRefusal | None:
        broken = await carry(
            leg,
            leg.drain(context),
            self._read(context, session, leg),
            lambda: session.leg_lost(leg, "cancelled"),
            self._settings.leg.flush,
        )
        for error in broken:
            log.info("a leg's stream broke: %s", type(error).__name__)
        return leg.refusal

    async def _read(self, context: Context, session: SessionPort, leg: Leg) -> None:
        hear = session.leg_audio
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                leg.finish(HALF_CLOSED)
                session.leg_lost(leg, "half-closed")
                return
            refusal: LegRefusal | None
            if message.HasField("audio"):
                audio = message.audio
                refusal = hear(leg, audio.payload, audio.sequence, audio.media_time_ms)
            else:
                command = media_pb.read_command(message)
                refusal = command if isinstance(command, LegRefusal) else session.leg_message(leg, command)
            if refusal is not None:
                leg.finish(refusal)
                session.leg_lost(leg, "protocol-error")
                return


def add_to_server(
    server: grpc.aio.Server, directory: SessionDirectory, metrics: Metrics, settings: MediaSettings
) -> None:
    """Serve MediaService on `server`."""
    servicer = MediaServer(directory, metrics, settings)
    media_pb2_grpc.add_MediaServiceServicer_to_server(servicer, server)
