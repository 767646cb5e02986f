"""What a worker has with or without shards: doors for the operator (control) and for monitors (admin)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from parley.control.v1 import control_pb2_grpc

from parley_worker import __version__
from parley_worker.clock import SystemClock
from parley_worker.config import Settings
from parley_worker.core.model import LimitsConfig
from parley_worker.telemetry.process_metrics import CONTENT_TYPE
from parley_worker.transport import control_server, grpc_base
from parley_worker.transport.admin_http import AdminServer
from parley_worker.transport.nats_connection import ConnectionSettings
from parley_worker.transport.tls import CertificateFiles

SERVER_GRACE = 1.0


class Doors:
    """The servers of both. `not_ready` gives None when the worker is ready, and else why not."""

    def __init__(
        self,
        settings: Settings,
        service: control_server.ControlBase,
        render: Callable[[], Awaitable[bytes]],
        not_ready: Callable[[], str | None],
    ) -> None:
        self._settings = settings
        guard = control_server.OnlyOperator(settings.control_client_name)
        self._server = grpc_base.new_server([guard] if settings.control_tls_dir else [])
        control_pb2_grpc.add_WorkerControlServiceServicer_to_server(service, self._server)
        self._health = grpc_base.Health(self._server, control_server.SERVICE)
        self._admin = AdminServer(render, CONTENT_TYPE, not_ready)

    async def start(self) -> tuple[str, str]:
        """Serve; the addresses of control and admin. OSError names one that cannot be had."""
        settings = self._settings
        port = grpc_base.listen(
            self._server,
            settings.control_address.grpc,
            credentials(settings.control_tls_dir, mutual=True),
        )
        admin = settings.admin_address
        bound = await self._admin.start(admin.host, admin.port)
        await self._server.start()
        return settings.control_address.with_port(port), admin.with_port(bound)

    async def serving(self, yes: bool) -> None:
        """What the health service of control says."""
        await self._health.serving(yes)

    async def stop(self) -> None:
        """Close both."""
        await self._server.stop(SERVER_GRACE)
        await self._admin.stop()


def identity(settings: Settings, instance: str) -> control_server.Identity:
    """Who the worker is towards the operator."""
    return control_server.Identity(
        settings.name, settings.pod_uid, __version__, instance, settings.revision, SystemClock().wall()
    )


def default_limits(settings: Settings) -> LimitsConfig:
    """Limits of sessions that ask for none."""
    return LimitsConfig(
        settings.max_duration,
        settings.idle_timeout,
        settings.attach_timeout,
        settings.reattach_timeout,
    )


def credentials(directory: Path | None, *, mutual: bool) -> grpc.ServerCredentials | None:
    """Those of a server, from the files of a directory; None for plaintext."""
    return CertificateFiles(directory, mutual=mutual).credentials() if directory else None


def nats_settings(settings: Settings, part: str) -> ConnectionSettings:
    """Where NATS is, for a part of the worker with a connection of its own."""
    name = f"parley-worker {settings.name} {part}"
    return ConnectionSettings(settings.nats_url, name, settings.nats_creds, settings.nats_tls_dir)
