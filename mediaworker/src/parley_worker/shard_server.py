"""A shard: what runs sessions, with the supervisor of the worker instead of doors of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from parley.control.v1 import control_pb2 as pb

from parley_worker import scheduling
from parley_worker.app import MediaApp
from parley_worker.codec import control_pb
from parley_worker.codec.shard_frames import Beat, Boot, Kind, Ready
from parley_worker.config import Settings
from parley_worker.core.model import SessionReport
from parley_worker.runtime.garbage import settle
from parley_worker.transport.shard_link import AbortingContext, ShardLink

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25


class ShardServer:
    """Serves the supervisor's requests, and tells it of every change."""

    def __init__(self, app: MediaApp, connection: socket.socket) -> None:
        self._app = app
        self.link = ShardLink(connection, self._hear, self._serve)
        self._context = AbortingContext()

    def put(self, change: SessionReport | None) -> None:
        """A session's new report; what the shard as a whole is like goes by the beats."""
        if change is not None:
            report = control_pb.session_report(change, self._app.endpoint)
            kind = Kind.DEPARTED if change.departed else Kind.REPORT
            self.link.send(kind, report.SerializeToString())

    async def beat(self) -> None:
        """Say that the event loop turns, and how it is, for as long as it does."""
        while True:
            beat = Beat(self._app.overloaded() or "", self._app.bus.degraded)
            self.link.send(Kind.BEAT, beat.encode())
            await asyncio.sleep(BEAT_SECONDS)

    def _hear(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.DRAIN:
            self._app.drain.begin(float(body), exactly=True)
        elif kind is Kind.HURRY:
            self._app.drain.begin(0)
            self._app.drain.hurry()

    async def _serve(self, kind: Kind, body: bytes) -> bytes:
        control, context = self._app.control, self._context
        if kind is Kind.ADMIT:
            admitted = await control.Admit(pb.AdmitRequest.FromString(body), context)
            return admitted.SerializeToString()
        if kind is Kind.TERMINATE:
            ended = await control.Terminate(pb.TerminateRequest.FromString(body), context)
            return ended.SerializeToString()
        if kind is Kind.COMMAND:
            done = await control.Command(pb.CommandRequest.FromString(body), context)
            return done.SerializeToString()
        if kind is Kind.MIGRATE:
            given = await control.Migrate(pb.MigrateRequest.FromString(body), context)
            return given.SerializeToString()
        if kind is Kind.MOVED:
            told = await control.Moved(pb.MovedRequest.FromString(body), context)
            return told.SerializeToString()
        if kind is Kind.METRICS:
            return await self._app.metrics.page()
        raise ValueError(f"no request: {kind.name}")


async def serve(boot: Boot, settings: Settings, connection: socket.socket) -> int:
    """Serve until the supervisor lets go; returns the exit code."""
    app = MediaApp(settings, boot.instance, boot.shard)
    try:
        async with app:
            server = ShardServer(app, connection)
            await server.link.open()
            settle()
            scheduling.normal()
            app.registry.listen(server)
            ready = Ready(app.media_address, app.telephony_address, app.endpoint)
            server.link.send(Kind.READY, ready.encode())
            app.supervisor.spawn("beat", server.beat(), vital=True)
            over = app.supervisor.spawn("link", server.link.run(), vital=True)
            await asyncio.wait({over, app.supervisor.failed}, return_when=asyncio.FIRST_COMPLETED)
            if app.supervisor.failed.done():
                log.critical("a vital task crashed: ending")
                # At once: the supervisor reports what is lost, and starts another shard.
                os._exit(1)
    except OSError as error:
        link = ShardLink(connection, lambda kind, body: None)
        await link.open()
        link.send(Kind.FAILED, str(error).encode())
        await link.flush()
        return 1
    return 0
