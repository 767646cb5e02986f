"""What both gRPC servers have: options, health, reflection, and listening with the port that was got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_concurrent_streams", 4096),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it an unanswered ping counts only after a minute, whatever the keepalive timeout says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


def new_server(interceptors: Sequence[Any] = ()) -> aio.Server:
    """A server with the options of all of the worker's servers. Streams have no maximal age."""
    return aio.server(interceptors=list(interceptors), options=list(OPTIONS))


def listen(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Listen, with TLS when there are credentials; returns the port (0 for a unix socket).

    OSError names the address that cannot be had.
    """
    try:
        if credentials:
            port = server.add_secure_port(address, credentials)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is it in use?") from error
    return 0 if address.startswith("unix:") else port


class Health:
    """The standard health service of one server, with reflection beside it."""

    def __init__(self, server: aio.Server, service: str) -> None:
        self._names = ("", service)
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def serving(self, yes: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, status.SERVING if yes else status.NOT_SERVING)
