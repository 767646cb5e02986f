"""One connection to NATS: used until it breaks, then thrown away."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nats.errors
from nats.aio.client import Client

log = logging.getLogger(__name__)

FAILURES = (OSError, nats.errors.Error, TimeoutError, ValueError)
"""What a broken connection or server raises; anything else is an error of the client library."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where NATS is. Seconds. URLs may hold passwords: not in reprs."""

    url: str = field(repr=False)
    name: str = "parley-worker"
    creds: Path | None = None
    tls_dir: Path | None = None
    connect_timeout: float = 3.0
    ping_interval: float = 5.0
    retry_min: float = 0.1
    retry_max: float = 2.0


async def open_client(client: Client, settings: ConnectionSettings, lost: Callable[[], None]) -> None:
    """Connect; raises one of FAILURES. `lost` is called when the connection is gone."""

    async def on_error(error: Exception) -> None:
        log.debug("nats client: %s", error)

    async def on_disconnect() -> None:
        lost()

    async with asyncio.timeout(settings.connect_timeout):
        await client.connect(
            servers=settings.url.split(","),
            name=settings.name,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            closed_cb=on_disconnect,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, round(settings.connect_timeout)),
            ping_interval=settings.ping_interval,  # type: ignore[arg-type]
            max_outstanding_pings=2,
            user_credentials=str(settings.creds) if settings.creds else None,
            tls=_tls(settings.tls_dir),
            inbox_prefix=b"_INBOX",
        )


async def close_client(client: Client) -> None:
    """Throw the connection away, in whatever state it is."""
    try:
        async with asyncio.timeout(2):
            await client.close()
    except Exception as error:  # noqa: BLE001 - it is being thrown away
        log.debug("closing NATS: %s", error)
    # A connection that breaks while it is closed leaves the tasks of its subscriptions behind.
    for subscription in client._subs.values():
        if subscription._wait_for_msgs_task is not None:
            subscription._wait_for_msgs_task.cancel()


def _tls(directory: Path | None) -> ssl.SSLContext | None:
    if directory is None:
        return None
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if (directory / "tls.crt").is_file():
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return context
