"""What an open WebSocket is to a connection, whoever speaks the protocol underneath.

Nothing here waits but `Socket.close`. A frame goes from the event loop's read straight to `Receiver.frame`.
"""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from parley_realtime.errors import ProtocolError, ProviderError, UnavailableError
from parley_realtime.protocol.refusals import ErrorDetail, from_close
from parley_realtime.redaction import scrub

# Both libraries log handshake headers, the key among them, when their logger is at DEBUG.
socket_logger = logging.getLogger("parley_realtime.socket")
socket_logger.setLevel(logging.INFO)

WRITE_HIGH_BYTES = 32 * 1024
"""So many bytes may wait in a socket's own buffer before it counts as not writable."""
NO_CLOSE_FRAME = 1006
USER_AGENT = "parley-realtime"

_OURS = {1002: "is not a WebSocket frame", 1007: "is not UTF-8", 1009: "is larger than max_frame_bytes"}


@functools.cache
def default_tls() -> ssl.SSLContext:
    """What trusts the machine's certificates: read once, because that takes tens of milliseconds."""
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """How a WebSocket is opened and kept. Times in seconds.

    max_frame_bytes: bound of a message, however many frames it comes in. private: no error repeats what the
    provider said. The other fields are those of `RealtimeAPIClientParameters`.
    """

    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    proxy: Literal[True] | str | None
    ping_interval: float | None
    ping_timeout: float | None
    close_timeout: float
    max_frame_bytes: int
    allow_address: Callable[[str], bool] | None
    secrets: tuple[str, ...]
    private: bool = False
    congestion: tuple[str, ...] = ()

    def guard(self, address: str) -> None:
        """UnavailableError when the address a name led to is not allowed."""
        if self.allow_address is not None and not self.allow_address(address):
            raise UnavailableError(
                f"the provider's host name leads to {address}, which is not allowed",
                code="address_refused",
                retryable=False,
            )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a WebSocket ended: the close frames of both sides, and whose came first."""

    received_code: int | None = None
    received_reason: str = ""
    sent_code: int | None = None
    received_first: bool = False


class Receiver(Protocol):
    """Who is told what a socket does, from the event loop; none of these may raise or wait."""

    def frame(self, data: bytes) -> None:
        """A whole message, text or binary."""

    def filled(self) -> None:
        """The socket is not writable any more."""

    def drained(self) -> None:
        """The socket is writable again."""

    def lost(self, ending: Ending) -> None:
        """The last call: no frame comes any more. Made after our own `close` too."""


class Socket(Protocol):
    """An open WebSocket."""

    @property
    def writable(self) -> bool:
        """False once WRITE_HIGH_BYTES wait to be written: `Receiver.filled` and `drained` tell."""

    @property
    def latency(self) -> float:
        """Round trip of the last answered ping, in seconds; 0 before."""

    def start(self, receiver: Receiver) -> None:
        """Called once: what came since the upgrade, and what comes, is handed over from now on."""

    def send(self, data: str | bytes) -> None:
        """A text message, UTF-8 when bytes. Never waits; of no effect once either side has said goodbye."""

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, wait for the other side within `close_timeout`, and be gone. May be called again."""

    def abort(self) -> None:
        """Be gone without a word."""

    @property
    def close_code(self) -> int:
        """What the other side closed with; 1006 when it did not."""

    @property
    def close_reason(self) -> str:
        """What the other side said when it closed."""


def closed_error(
    ending: Ending,
    last_error: ErrorDetail | None,
    *,
    ready: bool,
    secrets: tuple[str, ...],
    private: bool = False,
) -> ProviderError:
    """Why an open socket ended without our closing it."""
    sent = ending.sent_code
    if ending.received_code is not None and (sent is None or ending.received_first):
        reason = scrub(ending.received_reason, secrets)
        return from_close(ending.received_code, reason, last_error, ready=ready, private=private)
    if sent is not None and (what := _OURS.get(sent)) is not None:
        return ProtocolError(f"the provider sent a frame that {what}", close_code=sent)
    if sent == 1011:
        return UnavailableError("the provider answers no pings", code="ping_timeout", close_code=1006)
    return UnavailableError(
        "the connection to the provider was lost", code="connection_lost", close_code=1006
    )
