"""Opens the WebSocket and says in our own errors why it could not be opened.

Two transports behind one seam: `websockets`, the reference, and picows, which spends a fraction of the CPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket as sockets
import ssl
from typing import Literal

from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    WebSocketException,
)
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from parley_realtime.errors import ProtocolError, ProviderError, UnavailableError
from parley_realtime.protocol.refusals import from_status
from parley_realtime.redaction import scrub
from parley_realtime.transport.reference import open_reference
from parley_realtime.transport.seam import Ending as Ending
from parley_realtime.transport.seam import Receiver as Receiver
from parley_realtime.transport.seam import Socket as Socket
from parley_realtime.transport.seam import SocketOptions as SocketOptions
from parley_realtime.transport.seam import closed_error as closed_error

TransportName = Literal["websockets", "picows"]
TRANSPORTS: tuple[TransportName, ...] = ("websockets", "picows")
default: TransportName = "websockets"
"""What is used where a client's parameters name none."""


def installed(name: str) -> bool:
    """Whether its package is there."""
    return importlib.util.find_spec(name) is not None


def fastest() -> TransportName:
    """The one that costs least of those that are installed."""
    return "picows" if installed("picows") else "websockets"


def check_transport(name: str) -> None:
    """ValueError: there is no such transport, or its package is missing."""
    if name not in TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(TRANSPORTS)}, got {name!r}")
    if not installed(name):
        raise ValueError(f"transport: the package {name} is not installed: install parley[fast]")


def preload(name: TransportName) -> None:
    """Import what the first socket would import, on a loop that has other things to do by then."""
    importlib.import_module("encodings.idna")
    if name == "picows":
        importlib.import_module("parley_realtime.transport.fast")


async def open_socket(url: str, options: SocketOptions, name: TransportName | None = None) -> Socket:
    """An open WebSocket; ProviderError when there is none. The caller sets the deadline by cancelling."""
    try:
        if _chosen(url, options, name) == "websockets":
            return await open_reference(url, options)
        from parley_realtime.transport.fast import open_fast

        return await open_fast(url, options)
    except (WebSocketException, OSError, EOFError) as exc:
        raise _open_error(exc, options.secrets, options.private) from (None if options.private else exc)


def _chosen(url: str, options: SocketOptions, name: TransportName | None) -> TransportName:
    """Proxies are the reference's business."""
    proxied = options.proxy is not None and (
        options.proxy is not True or get_proxy(parse_uri(url)) is not None
    )
    return "websockets" if proxied else name or default


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
