"""Opens the WebSocket and says in our own errors why it could not be opened or why it ended."""

from __future__ import annotations

import logging
import socket as sockets
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    WebSocketException,
)

from parley_realtime.errors import ProtocolError, ProviderError, UnavailableError
from parley_realtime.protocol.refusals import ErrorDetail, from_close, from_status
from parley_realtime.redaction import scrub

# The library logs handshake headers, the key among them, when its logger is at DEBUG.
_socket_logger = logging.getLogger("parley_realtime.socket")
_socket_logger.setLevel(logging.INFO)

_OURS = {1002: "is not a WebSocket frame", 1007: "is not UTF-8", 1009: "is larger than max_frame_bytes"}


class _Connect(connect):
    """Follows no redirect: credentials go to the host that was named and to no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _guarded(allow_address: Callable[[str], bool]) -> type[ClientConnection]:
    """A connection that asks about the address the name led to before a byte of the request is sent."""

    class GuardedConnection(ClientConnection):
        async def handshake(self, *args: Any, **kwargs: Any) -> None:
            peer = self.transport.get_extra_info("peername")
            if peer is not None and not allow_address(str(peer[0])):
                raise UnavailableError(
                    f"the provider's host name leads to {peer[0]}, which is not allowed",
                    code="address_refused",
                    retryable=False,
                )
            await super().handshake(*args, **kwargs)

    return GuardedConnection


async def open_socket(
    url: str,
    headers: Mapping[str, str],
    *,
    tls: ssl.SSLContext | None,
    proxy: Literal[True] | str | None,
    ping_interval: float | None,
    ping_timeout: float | None,
    close_timeout: float,
    max_frame_bytes: int,
    allow_address: Callable[[str], bool] | None,
    secrets: tuple[str, ...],
    private: bool = False,
) -> ClientConnection:
    """An open WebSocket; ProviderError when there is none. The caller sets the deadline by cancelling.

    `private`: no error repeats what the provider said.
    """
    opener = partial(_Connect, ssl=tls) if tls is not None and url.startswith("wss:") else _Connect
    try:
        return await opener(
            url,
            additional_headers=dict(headers),
            user_agent_header="parley-realtime",
            compression=None,
            create_connection=None if allow_address is None else _guarded(allow_address),
            logger=_socket_logger,
            proxy=proxy,
            open_timeout=None,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_size=max_frame_bytes,
        )
    except (WebSocketException, OSError, EOFError) as exc:
        raise _open_error(exc, secrets, private) from (None if private else exc)


def _open_error(exc: Exception, secrets: tuple[str, ...], private: bool) -> ProviderError:
    if isinstance(exc, InvalidStatus):
        body = "" if private else (exc.response.body or b"")[:65536].decode("utf-8", "replace").strip()
        return from_status(exc.response.status_code, scrub(body, secrets)[:200])
    if isinstance(exc, ssl.SSLError):
        why = getattr(exc, "verify_message", None) or exc.reason or "no reason given"
        text = f"TLS with the provider failed ({why}): check the URL and the trusted certificates"
        return UnavailableError(text, code="tls", retryable=False)
    if isinstance(exc, sockets.gaierror):
        return UnavailableError("the provider's host name cannot be resolved", code="dns")
    if isinstance(exc, (ProxyError, InvalidURI)):
        return UnavailableError(
            f"no way to the provider ({type(exc).__name__})", code="proxy", retryable=False
        )
    if isinstance(exc, InvalidHandshake) and not isinstance(exc, InvalidMessage):
        why = type(exc).__name__ if private else scrub(str(exc), secrets)
        return ProtocolError(f"the provider does not speak WebSocket ({why})", code="handshake")
    detail = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
    return UnavailableError(f"the provider cannot be reached ({detail})", code="connect")


def closed_error(
    exc: ConnectionClosed,
    last_error: ErrorDetail | None,
    *,
    ready: bool,
    secrets: tuple[str, ...],
    private: bool = False,
) -> ProviderError:
    """Why an open socket ended without our closing it."""
    if exc.rcvd is not None and (exc.sent is None or exc.rcvd_then_sent):
        reason = scrub(exc.rcvd.reason, secrets)
        return from_close(exc.rcvd.code, reason, last_error, ready=ready, private=private)
    if exc.sent is not None and (what := _OURS.get(exc.sent.code)) is not None:
        return ProtocolError(f"the provider sent a frame that {what}", close_code=exc.sent.code)
    if exc.sent is not None and exc.sent.code == 1011:
        return UnavailableError("the provider answers no pings", code="ping_timeout", close_code=1006)
    return UnavailableError(
        "the connection to the provider was lost", code="connection_lost", close_code=1006
    )
