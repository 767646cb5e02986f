"""The composition root: settings in, a worker that serves out."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import secrets
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import uvloop
from parley.control.v1 import control_pb2_grpc
from parley_scenario.sandbox import hide_memory

from parley_worker import __version__
from parley_worker.clock import SystemClock
from parley_worker.codec.control_pb import Endpoint
from parley_worker.config import Address, Settings
from parley_worker.core.admission import Admission, WorkerState
from parley_worker.core.agent import ToolRouteKind
from parley_worker.core.model import LimitsConfig, Secret, SessionConfig, SessionReport
from parley_worker.runtime.deps import RunnerDeps, RunnerSettings
from parley_worker.runtime.drain import END_SECONDS, Drain
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.registry import OneShard, Runner, SessionRegistry
from parley_worker.runtime.scenario import Scenarios
from parley_worker.runtime.session_runner import SessionRunner
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.runtime.tool_calls import ToolServices
from parley_worker.telemetry import logging as log_setup
from parley_worker.telemetry.lag import LagProbe
from parley_worker.telemetry.metrics import CONTENT_TYPE, Metrics
from parley_worker.transport import control_server, grpc_base, media_server
from parley_worker.transport.admin_http import AdminServer
from parley_worker.transport.media_websocket import TelephonyServer, TelephonySettings
from parley_worker.transport.nats_bus import BusSettings, NatsBus, NullBus
from parley_worker.transport.nats_connection import ConnectionSettings
from parley_worker.transport.nats_tools import NatsTools
from parley_worker.transport.tls import CertificateFiles, TlsContext
from parley_worker.transport.tool_ports import ToolService
from parley_worker.transport.webhook import Webhooks

log = logging.getLogger(__name__)

SERVER_GRACE = 1.0
GC_THRESHOLDS = (50_000, 50, 50)


class WorkerApp:
    """One worker in the running event loop: `async with WorkerApp(settings) as app: ...`.

    Inside, `media_address`, `control_address`, `admin_address` and `telephony_address` (empty for none) are
    what it listens on (with the ports that port 0 became) and `instance` is the id of this process. Leaving
    the block ends live sessions at once; `drain.begin(seconds)` and then `drain.done.wait()` let them go on.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.validated()
        self.instance = uuid.uuid4().hex
        self.metrics = Metrics(__version__)
        self.media_address = self.control_address = self.admin_address = self.telephony_address = ""
        self.endpoint = Endpoint("")
        self._health: list[grpc_base.Health] = []

    async def __aenter__(self) -> Self:
        self._build()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain.begin(0)
        self.drain.hurry()
        try:
            async with asyncio.timeout(END_SECONDS + 1):
                await self.drain.done.wait()
        except TimeoutError:
            log.error("the drain did not end")
        await self._stop()

    def _build(self) -> None:
        settings, metrics = self.settings, self.metrics
        self.supervisor = Supervisor(metrics)
        clock = SystemClock()
        self.lag = LagProbe(metrics)
        self.bus = _bus(settings, self.instance, clock, metrics)
        self.shards = OneShard()
        self.scenarios = Scenarios(settings.scenario_paths, settings.secret_paths)
        deps = RunnerDeps(
            clock=clock,
            sink=self.bus,
            metrics=metrics,
            pacer=Pacer(),
            on_report=self._on_report,
            new_id=lambda prefix: f"{prefix}_{uuid.uuid4().hex}",
            random_token=lambda: secrets.token_urlsafe(32),
            worker_instance_id=self.instance,
            tools=self._tool_services(clock),
            scenarios=self.scenarios,
            settings=RunnerSettings(provider_transport=settings.provider_transport),
        )

        def make_runner(config: SessionConfig) -> Runner:
            return SessionRunner(config, deps)

        self.registry = SessionRegistry(
            admission=Admission(settings.capacity, self.instance),
            make_runner=make_runner,
            supervisor=self.supervisor,
            shards=self.shards,
            clock=clock,
            metrics=metrics,
            overloaded=self._overloaded,
            watch_buffer=settings.watch_buffer,
        )
        self.drain = Drain(self.registry, self.supervisor, clock, self._on_drain)
        self._control = control_server.ControlService(
            identity=control_server.Identity(settings.name, settings.pod_uid, __version__, self.instance),
            registry=self.registry,
            drain=self.drain,
            sink=self.bus,
            clock=clock,
            metrics=metrics,
            limits=LimitsConfig(
                settings.max_duration,
                settings.idle_timeout,
                settings.attach_timeout,
                settings.reattach_timeout,
            ),
            heartbeat=settings.watch_heartbeat,
        )
        self._admin = AdminServer(metrics.render, CONTENT_TYPE, self._not_ready)
        guard = control_server.OnlyOperator(settings.control_client_name)
        self._control_server = grpc_base.new_server([guard] if settings.control_tls_dir else [])
        self._media_server = grpc_base.new_server()
        self._telephony = TelephonyServer(
            self.registry, metrics, TelephonySettings(auth_token=Secret(settings.twilio_auth_token))
        )

    def _tool_services(self, clock: SystemClock) -> ToolServices:
        settings = self.settings
        self._webhooks = Webhooks(clock)
        services: dict[ToolRouteKind, ToolService] = {ToolRouteKind.WEBHOOK: self._webhooks}
        self._nats_tools = None
        if settings.nats_url:
            self._nats_tools = NatsTools(_nats(settings, "tools"), self.metrics.task_crashed)
            services[ToolRouteKind.NATS] = self._nats_tools
        return ToolServices(services, settings.tool_calls)

    def _on_drain(self) -> None:
        self.supervisor.spawn("health", self._set_health(False))

    async def _set_health(self, serving: bool) -> None:
        for health in self._health:
            await health.serving(serving)

    def _on_report(self, report: SessionReport) -> None:
        self.registry.on_report(report)

    def _overloaded(self) -> str | None:
        lag = self.lag.seconds
        return f"the event loop lags {lag * 1000:.0f} ms" if lag >= self.settings.max_lag else None

    def _not_ready(self) -> str | None:
        state = self.registry.admission.state
        return None if state is WorkerState.READY else state.value

    async def _start(self) -> None:
        settings = self.settings
        self.supervisor.spawn("nats", self.bus.run(), vital=True)
        if self._nats_tools is not None:
            self.supervisor.spawn("nats-tools", self._nats_tools.run(), vital=True)
        self.supervisor.spawn("lag", self.lag.run(), vital=True)
        media = media_server.MediaSettings(self.instance)
        media_server.add_to_server(self._media_server, self.registry, self.metrics, media)
        control_pb2_grpc.add_WorkerControlServiceServicer_to_server(self._control, self._control_server)
        self._health = [
            grpc_base.Health(self._media_server, media_server.SERVICE),
            grpc_base.Health(self._control_server, control_server.SERVICE),
        ]
        media_port = grpc_base.listen(
            self._media_server,
            settings.media_address.grpc,
            _credentials(settings.media_tls_dir, mutual=False),
        )
        self.media_address = settings.media_address.with_port(media_port)
        host = settings.advertised_host or settings.media_address.host
        secure = settings.media_tls_dir is not None
        self.endpoint = Endpoint(
            Address(host, settings.advertised_port or media_port).grpc,
            (settings.tls_server_name or host) if secure else "",
        )
        self.endpoint = replace(self.endpoint, telephony=await self._listen_telephony(host))
        self.shards.listen(self.endpoint)
        control_port = grpc_base.listen(
            self._control_server,
            settings.control_address.grpc,
            _credentials(settings.control_tls_dir, mutual=True),
        )
        self.control_address = settings.control_address.with_port(control_port)
        admin = settings.admin_address
        self.admin_address = admin.with_port(await self._admin.start(admin.host, admin.port))
        await self._media_server.start()
        await self._control_server.start()
        await self._set_health(True)
        self.registry.become(WorkerState.READY)

    async def _listen_telephony(self, host: str) -> str:
        """Serve telephony where it was asked for; the URL that it is told, or nothing."""
        settings = self.settings
        address = settings.telephony_address
        if address is None:
            return ""
        tls = TlsContext(settings.media_tls_dir) if settings.media_tls_dir else None
        port = await self._telephony.start(address.host, address.port, tls)
        self.telephony_address = address.with_port(port)
        told = Address(settings.telephony_advertised_host or host, settings.telephony_advertised_port or port)
        return f"{'wss' if tls else 'ws'}://{told.grpc}/twilio"

    async def _stop(self) -> None:
        self.registry.become(WorkerState.STOPPED)
        await self._telephony.stop()
        await asyncio.gather(self._control_server.stop(SERVER_GRACE), self._media_server.stop(SERVER_GRACE))
        await self.bus.close(self.settings.flush_timeout)
        await self._admin.stop()
        await self._webhooks.close()
        await self.scenarios.close()
        await self.supervisor.stop()

    def ready_line(self) -> str:
        """What the process prints when it is ready: one line of JSON."""
        return json.dumps(
            {
                "ready": True,
                "media": self.media_address,
                "control": self.control_address,
                "admin": self.admin_address,
                "endpoint": self.endpoint.address,
                "telephony": self.endpoint.telephony,
                "instance": self.instance,
            }
        )


def _bus(settings: Settings, instance: str, clock: SystemClock, metrics: Metrics) -> NatsBus | NullBus:
    if not settings.nats_url:
        return NullBus()
    bus_settings = BusSettings(
        url=settings.nats_url,
        name=f"parley-worker {settings.name}",
        creds=settings.nats_creds,
        tls_dir=settings.nats_tls_dir,
        replicas=settings.nats_replicas,
        max_age=settings.nats_max_age,
        max_bytes=settings.nats_max_bytes,
        duplicate_window=settings.nats_duplicate_window,
        buffer_count=settings.event_buffer_count,
        buffer_bytes=settings.event_buffer_bytes,
        window=settings.event_window,
    )
    return NatsBus(bus_settings, worker=settings.name, instance=instance, clock=clock, metrics=metrics)


def _nats(settings: Settings, part: str) -> ConnectionSettings:
    name = f"parley-worker {settings.name} {part}"
    return ConnectionSettings(settings.nats_url, name, settings.nats_creds, settings.nats_tls_dir)


def _credentials(directory: Path | None, *, mutual: bool) -> grpc.ServerCredentials | None:
    return CertificateFiles(directory, mutual=mutual).credentials() if directory else None


async def serve(settings: Settings) -> int:
    """Serve until told to end by SIGTERM or SIGINT, then drain; returns the exit code.

    A second signal ends the sessions that are left at once.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with WorkerApp(settings) as app:
        log.info("ready", extra={"fields": {"settings": settings.shown(), "instance": app.instance}})
        sys.stdout.write(app.ready_line() + "\n")
        sys.stdout.flush()
        first = app.supervisor.spawn("signal", signals.get())
        await asyncio.wait({first, app.supervisor.failed}, return_when=asyncio.FIRST_COMPLETED)
        if app.supervisor.failed.done():
            first.cancel()
            log.critical("a vital task crashed: ending")
            return 1
        app.drain.begin(settings.drain_timeout)
        second = app.supervisor.spawn("signal", signals.get())
        over = app.supervisor.spawn("drained", app.drain.done.wait())
        await asyncio.wait({second, over}, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        over.cancel()
    log.info("ended")
    return 0


def run(settings: Settings) -> int:
    """Run a worker as this process; returns the exit code."""
    # Provider keys live in memory: no core dumps, and nothing else of this user may look in.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hide_memory()
    log_setup.set_up(settings.log_format, settings.log_level, {"worker": settings.name})
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    factory = uvloop.new_event_loop if settings.uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(settings))
