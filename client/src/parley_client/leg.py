"""One gRPC stream to a worker. Maps gRPC's failures to this package's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import grpc
import grpc.aio
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc as pb_grpc

from .errors import AttachRefused, ConnectError, ParleyError, ProtocolError, StreamError, TlsError
from .target import Target

REASON_KEY: Final = "parley-reason"
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

_RETRYABLE: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"})
_RESUMABLE_REASONS: Final = frozenset(
    {"slow-reader", "draining", "no-caller-audio", "too-many-starts", "session-moved", "session-not-ready"}
)
_NOT_HERE: Final = frozenset({"resume-token-unknown", "ticket-unknown", "ticket-used", "session-ended"})
"""What workers say that do not have the session, or not as the caller knows it."""
_TLS_WORDS: Final = (
    "verification",
    "handshake failed",
    "certificate",
    "ssl_error",
    "peer name",
    "wrong_version_number",
    "tsi_",
)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),
    # A worker that stands still, or whose node is gone, sends no word of its end.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_Stream = grpc.aio.StreamStreamCall[pb.ConverseRequest, pb.ConverseResponse]


class AttachedLeg(Protocol):
    """What a call speaks through: a stream of its own, or its part of a gateway's. See `Leg`."""

    @property
    def started(self) -> pb.Started: ...

    async def read(self) -> pb.ConverseResponse | None: ...

    async def write(self, request: pb.ConverseRequest) -> None: ...

    async def close(self) -> None: ...


LegOpener = Callable[[Target, pb.Start, float], Awaitable[AttachedLeg]]
"""Attaches within so many seconds, as `Leg.open`."""


class Leg:
    """An attached stream. Made by `Leg.open`; `close` is idempotent and never fails."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        stream: _Stream,
        responses: AsyncIterator[pb.ConverseResponse],
        started: pb.Started,
    ) -> None:
        self.started = started
        self._channel = channel
        self._stream = stream
        self._responses = responses

    @classmethod
    async def open(cls, target: Target, start: pb.Start, timeout: float) -> Leg:
        """Connect, attach, wait for Started.

        Raises:
            ConnectError: not reachable within `timeout` seconds.
            TlsError: the certificate was refused.
            AttachRefused: the worker said no.
            ProtocolError: the first answer was not Started.
        """
        channel = channel_to(target)
        try:
            async with asyncio.timeout(timeout):
                stream: _Stream = pb_grpc.MediaServiceStub(channel).Converse()
                try:
                    await stream.write(pb.ConverseRequest(start=start))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass  # the read below tells why
                # Iterated, and never `read()`: a write that fails because the worker has ended the stream
                # makes `read()` forget what came before the end, Ended among it.
                responses = aiter(stream)
                response = await anext(responses, None)
            if response is None:
                raise ProtocolError(f"{target.address} ended the stream without an answer")
            if response.WhichOneof("message") != "started":
                raise ProtocolError(f"{target.address} answered Start with {response.WhichOneof('message')}")
            return cls(channel, stream, responses, response.started)
        except BaseException as error:
            await channel.close(None)
            if isinstance(error, TimeoutError):
                raise ConnectError(f"{target.address} did not answer within {timeout:g} s") from error
            if isinstance(error, grpc.aio.AioRpcError):
                raise refusal_of(target, error) from error
            raise

    async def read(self) -> pb.ConverseResponse | None:
        """Return the next response, or None when the worker ended the stream with OK.

        Raises:
            StreamError: it ended with another status.
        """
        try:
            return await anext(self._responses, None)
        except grpc.aio.AioRpcError as error:
            raise stream_error(error) from error

    async def write(self, request: pb.ConverseRequest) -> None:
        """Send a request; waits while the transport is full.

        Raises:
            StreamError: the stream is over; `read` says why.
        """
        try:
            await self._stream.write(request)
        except grpc.aio.AioRpcError as error:
            raise stream_error(error) from error
        except asyncio.InvalidStateError as error:
            raise StreamError("UNAVAILABLE", "the stream is over") from error

    async def close(self) -> None:
        """Cancel the stream and close the connection."""
        self._stream.cancel()
        await self._channel.close(None)


def is_resumable(error: StreamError) -> bool:
    """True when the session may still be held and an attach with the resume token makes sense."""
    if error.reason:
        return error.reason.lower().replace("_", "-") in _RESUMABLE_REASONS
    return error.status in _RETRYABLE


def is_elsewhere(error: StreamError) -> bool:
    """True when the session may live on another worker, or be on its way to this one."""
    return error.reason.lower().replace("_", "-") in _NOT_HERE


def channel_to(target: Target) -> grpc.aio.Channel:
    """Return a channel to the worker; it connects when it is used."""
    options: list[tuple[str, str | int]] = list(_OPTIONS)
    if not target.tls:
        return grpc.aio.insecure_channel(target.address, options=options)
    if target.tls_server_name:
        options.append(("grpc.ssl_target_name_override", target.tls_server_name))
    roots = target.ca_pem.encode() if target.ca_pem else None
    return grpc.aio.secure_channel(target.address, grpc.ssl_channel_credentials(roots), options=options)


def stream_error(error: grpc.aio.AioRpcError) -> StreamError:
    """Say why a stream ended that was attached."""
    return StreamError(error.code().name, error.details() or "no details given", reason=_reason(error))


def refusal_of(target: Target, error: grpc.aio.AioRpcError) -> ParleyError:
    """Say why a stream ended that was not attached yet."""
    details = error.details() or "no details given"
    reason = _reason(error)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not reason:
        if target.tls and is_tls_trouble(details):
            name = target.tls_server_name or target.address.rpartition(":")[0]
            return TlsError(f"{target.address}: the connection as {name!r} was refused: {details}")
        if not target.tls and "socket closed" in details.lower():
            details += "; it was spoken to in plain text: give its CA where it serves TLS"
        return ConnectError(f"{target.address} cannot be reached: {details}")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED and not reason:
        return ProtocolError(f"{target.address} is no Parley media worker: {details}")
    return AttachRefused(error.code().name, details, reason=reason)


def is_tls_trouble(details: str) -> bool:
    """True when gRPC's words speak of a certificate or a handshake."""
    return any(word in details.lower() for word in _TLS_WORDS)


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return ""
