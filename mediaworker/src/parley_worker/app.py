"""The composition root of what runs sessions: settings in, a worker or a shard that serves out."""

from __future__ import annotations

import json
import logging
import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from parley_realtime.transport import preload

from parley_worker import __version__
from parley_worker.clock import SystemClock
from parley_worker.codec.control_pb import Endpoint
from parley_worker.compiled import is_compiled
from parley_worker.config import Address, Settings
from parley_worker.core.admission import Admission, WorkerState
from parley_worker.core.agent import ToolRouteKind
from parley_worker.core.model import Secret, SessionConfig, SessionKey, SessionReport
from parley_worker.doors import SERVER_GRACE, Doors, credentials, default_limits, identity, nats_settings
from parley_worker.runtime.deps import RunnerDeps, RunnerSettings
from parley_worker.runtime.drain import Drain, end_at_once
from parley_worker.runtime.garbage import GarbageKeeper
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.registry import OneShard, Runner, SessionRegistry
from parley_worker.runtime.restoring import Restorer
from parley_worker.runtime.scenario import Scenarios
from parley_worker.runtime.session_runner import SessionRunner
from parley_worker.runtime.setting_up import SettingUp
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.runtime.tool_calls import ToolServices
from parley_worker.telemetry import logging as log_setup
from parley_worker.telemetry.lag import LagProbe
from parley_worker.telemetry.memory import own_memory
from parley_worker.telemetry.metrics import Metrics
from parley_worker.telemetry.own_time import wanted_seconds
from parley_worker.transport import congestion, control_server, grpc_base, media_server
from parley_worker.transport.media_websocket import TelephonyServer, TelephonySettings
from parley_worker.transport.nats_bus import BusSettings, NatsBus, NullBus
from parley_worker.transport.nats_journal import Journals
from parley_worker.transport.nats_tools import NatsTools
from parley_worker.transport.tls import TlsContext, trusting
from parley_worker.transport.tool_ports import ToolService
from parley_worker.transport.webhook import Webhooks

log = logging.getLogger(__name__)


class MediaApp:
    """What runs sessions: everything of a worker but the doors of operator and monitors.

    `shard` is its number among the shards of worker `instance`.
    """

    def __init__(self, settings: Settings, instance: str, shard: int = 0) -> None:
        self.settings = settings.validated()
        preload(self.settings.provider_transport)
        self.instance, self.shard = instance, shard
        self.metrics = Metrics(__version__)
        self.media_address = self.telephony_address = ""
        self.endpoint = Endpoint("")

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
        await end_at_once(self.drain)
        await self._stop()

    def _build(self) -> None:
        settings, metrics = self.settings, self.metrics
        self.supervisor = Supervisor(metrics)
        clock = SystemClock()
        self.lag = LagProbe(metrics)
        self.bus = _bus(settings, self.instance, clock, metrics, lambda key: self.registry.fenced(key))
        self.shards = OneShard(self.shard)
        self.scenarios = Scenarios(settings.scenario_paths, settings.secret_paths)
        self._congestion = congestion.instead(settings.congestion_control)
        pacer = Pacer(wanted_seconds)
        pacer.on_sleep = self.lag.on_sleep = lambda: self.registry.doubt()
        deps = RunnerDeps(
            clock=clock,
            sink=self.bus,
            metrics=metrics,
            pacer=pacer,
            on_report=self._on_report,
            new_id=lambda prefix: f"{prefix}_{uuid.uuid4().hex}",
            random_token=lambda: secrets.token_urlsafe(32),
            worker_instance_id=self.instance,
            shard=self.shard,
            tools=self._tool_services(clock),
            scenarios=self.scenarios,
            restorer=Restorer(_journals(settings, self.instance, clock), self.bus),
            settings=RunnerSettings.of(settings, settings.provider_transport, self._congestion),
            setting_up=SettingUp(
                settings.setup_connect_rate, settings.setup_connects, settings.setup_attach_rate
            ),
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
            overloaded=self.overloaded,
            watch_buffer=settings.watch_buffer,
        )
        self.garbage = GarbageKeeper(
            ended=lambda: self.registry.ended,
            live=lambda: self.registry.live,
            playing=lambda: len(pacer),
            told=metrics.collected,
        )
        log_setup.on_drop(metrics.log_line_dropped)
        trusting("")
        self.drain = Drain(self.registry, self.supervisor, clock, self._on_drain)
        self.control = control_server.ControlService(
            identity=identity(settings, self.instance),
            registry=self.registry,
            drain=self.drain,
            sink=self.bus,
            metrics=metrics,
            limits=default_limits(settings),
            heartbeat=settings.watch_heartbeat,
            memory=own_memory,
        )
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
            self._nats_tools = NatsTools(nats_settings(settings, "tools"), self.metrics.task_crashed)
            services[ToolRouteKind.NATS] = self._nats_tools
        return ToolServices(services, settings.tool_calls)

    def _on_drain(self) -> None:
        self.supervisor.spawn("health", self._set_health(False))

    async def _set_health(self, serving: bool) -> None:
        await self._health.serving(serving)

    def _on_report(self, report: SessionReport) -> None:
        self.registry.on_report(report)

    def overloaded(self) -> str | None:
        """What is short for more sessions, or None."""
        lag = self.lag.seconds
        return f"the event loop lags {lag * 1000:.0f} ms" if lag >= self.settings.max_lag else None

    async def _start(self) -> None:
        settings = self.settings
        self.supervisor.spawn("nats", self.bus.run(), vital=True)
        if self._nats_tools is not None:
            self.supervisor.spawn("nats-tools", self._nats_tools.run(), vital=True)
        self.supervisor.spawn("lag", self.lag.run(), vital=True)
        self.supervisor.spawn("garbage", self.garbage.run(), vital=True)
        media = media_server.MediaSettings(self.instance)
        media_server.add_to_server(self._media_server, self.registry, self.metrics, media)
        self._health = grpc_base.Health(self._media_server, media_server.SERVICE)
        media_port = grpc_base.listen(
            self._media_server,
            settings.media_address.grpc,
            credentials(settings.media_tls_dir, mutual=False),
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
        await self._media_server.start()
        congestion.settle(self._congestion, self._caller_ports())
        await self._set_health(True)
        self.registry.become(WorkerState.READY)

    def _caller_ports(self) -> set[int]:
        addresses = (self.media_address, self.telephony_address)
        return {int(address.rpartition(":")[2]) for address in addresses if address}

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
        await self._media_server.stop(SERVER_GRACE)
        await self.bus.close(self.settings.flush_timeout)
        await self._webhooks.close()
        await self.scenarios.close()
        await self.supervisor.stop()


class WorkerApp(MediaApp):
    """One worker in the running event loop: `async with WorkerApp(settings) as app: ...`.

    Inside, `media_address`, `control_address`, `admin_address` and `telephony_address` (empty for none) are
    what it listens on (with the ports that port 0 became) and `instance` is the id of this process. Leaving
    the block ends live sessions at once; `drain.begin(seconds)` and then `drain.done.wait()` let them go on.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, uuid.uuid4().hex)
        self.control_address = self.admin_address = ""

    def _build(self) -> None:
        super()._build()
        self._doors = Doors(self.settings, self.control, self._render, self._not_ready)

    async def _render(self) -> bytes:
        return await self.metrics.page()

    def _not_ready(self) -> str | None:
        state = self.registry.admission.state
        return None if state is WorkerState.READY else state.value

    async def _set_health(self, serving: bool) -> None:
        await super()._set_health(serving)
        await self._doors.serving(serving)

    async def _start(self) -> None:
        self.control_address, self.admin_address = await self._doors.start()
        await super()._start()

    async def _stop(self) -> None:
        await self._doors.stop()
        await super()._stop()

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
                "compiled": is_compiled(),
            }
        )


def _journals(settings: Settings, instance: str, clock: SystemClock) -> Journals | None:
    if not settings.nats_url:
        return None
    connection = nats_settings(settings, "takeover")
    return Journals(connection, worker=settings.name, instance=instance, clock=clock)


def _bus(
    settings: Settings,
    instance: str,
    clock: SystemClock,
    metrics: Metrics,
    on_fenced: Callable[[SessionKey], None],
) -> NatsBus | NullBus:
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
    return NatsBus(
        bus_settings,
        worker=settings.name,
        instance=instance,
        clock=clock,
        metrics=metrics,
        on_fenced=on_fenced,
    )
