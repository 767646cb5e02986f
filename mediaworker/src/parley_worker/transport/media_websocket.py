"""WebSocket server of media streams: Twilio's at `/twilio`, VoxEngine's raw ones at `/media`.

A stream is a leg of its session like a gRPC caller's. The ticket stands in the start or is the last part of
the path. Every end has a close code and a reason: 1000 the session is over, 1003 binary frames, 1008 the
stream or its ticket cannot be taken, 1009 a frame is too large, 1011 an error of ours, 1013 try again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from parley_worker.codec.media_json import CallerAudio, Dialect, Frame
from parley_worker.codec.media_pb import StartMessage
from parley_worker.codec.raw_media_json import RawMediaDialect
from parley_worker.codec.twilio_json import TwilioDialect
from parley_worker.core.events import LegRefusal, Status
from parley_worker.core.secret import Secret
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.attaching import attach, find_session
from parley_worker.transport.leg import LegBounds, LegQueue, carry
from parley_worker.transport.ports import SessionDirectory, SessionPort
from parley_worker.transport.tls import TlsContext

log = logging.getLogger(__name__)
# The library tells of every port scanner, with paths, which hold tickets.
_quiet = logging.getLogger(f"{__name__}.library")
_quiet.setLevel(logging.CRITICAL)

DIALECTS: dict[str, Callable[[str], Dialect]] = {"twilio": TwilioDialect, "media": RawMediaDialect}
SIGNED = "twilio"
SIGNATURE = "X-Twilio-Signature"
MAX_FRAME = 96 * 1024
QUEUED_FRAMES = 64
MAX_REASON = 120
SEND_BUFFER = 16 * 1024
"""The system's, for each connection: about a second of audio, so that who does not read is noticed."""
FRAMES_BEFORE_START = 4
_CLOSE_CODES = {
    Status.UNAVAILABLE: 1013,
    Status.RESOURCE_EXHAUSTED: 1013,
    Status.CANCELLED: 1013,
    Status.INTERNAL: 1011,
}
_BINARY = LegRefusal(Status.INVALID_ARGUMENT, "frame-binary", "send JSON as text frames", "frame")


@dataclass(frozen=True, slots=True)
class TelephonySettings:
    """Waits (seconds) and bounds. With `auth_token` every Twilio stream must carry Twilio's signature."""

    start_timeout: float = 10.0
    ready_timeout: float = 15.0
    ping_interval: float = 10.0
    ping_timeout: float = 10.0
    close_timeout: float = 2.0
    unattached: int = 256
    """Connections that have not attached yet; more are refused, and twice as many cut off without a word."""
    auth_token: Secret = field(default_factory=lambda: Secret(""), repr=False)
    leg: LegBounds = field(default_factory=lambda: LegBounds(messages=512, bytes=1024 * 1024))


class TelephonyServer:
    """One per process."""

    def __init__(self, directory: SessionDirectory, metrics: Metrics, settings: TelephonySettings) -> None:
        self._directory = directory
        self._metrics = metrics
        self._settings = settings
        self._server: Server | None = None
        self._strangers: set[ServerConnection] = set()

    async def start(self, host: str, port: int, tls: TlsContext | None) -> int:
        """Listen; returns the port."""
        s = self._settings
        self._server = await serve(
            self._handle,
            host,
            port,
            ssl=tls.context if tls else None,
            ssl_handshake_timeout=s.start_timeout if tls else None,
            create_connection=_counted(self._strangers, 2 * s.unattached),
            process_request=self._check,
            compression=None,
            max_size=MAX_FRAME,
            max_queue=QUEUED_FRAMES,
            write_limit=SEND_BUFFER // 4,
            open_timeout=s.start_timeout,
            ping_interval=s.ping_interval,
            ping_timeout=s.ping_timeout,
            close_timeout=s.close_timeout,
            server_header=None,
            logger=_quiet,
        )
        for listening in self._server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        number: int = next(iter(self._server.sockets)).getsockname()[1]
        return number

    async def stop(self) -> None:
        """Close every connection and wait for its end."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    # The handshake

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        found = _dialect(request.path)
        if found is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "streams attach at /twilio and /media\n")
        if found[0] == SIGNED and not self._signed(request):
            self._metrics.leg_error(Status.PERMISSION_DENIED.value)
            return connection.respond(HTTPStatus.FORBIDDEN, f"{SIGNATURE} is missing or does not fit\n")
        if len(self._strangers) > self._settings.unattached:
            self._metrics.leg_error(Status.RESOURCE_EXHAUSTED.value)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams wait to attach\n")
        return None

    def _signed(self, request: Request) -> bool:
        token = self._settings.auth_token.reveal()
        if not token:
            return True
        given = request.headers.get(SIGNATURE, "")
        url = f"wss://{request.headers.get('Host', '')}{request.path}"
        return any(hmac.compare_digest(given.encode(), signature(token, form)) for form in (url, url + "/"))

    # One connection

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        found = _dialect(connection.request.path)
        assert found is not None
        dialect = DIALECTS[found[0]](found[1])
        try:
            refusal = await self._converse(connection, dialect)
        except ConnectionClosed:
            return
        if refusal is not None:
            self._metrics.leg_error(refusal.status.value)
            code = 1003 if refusal is _BINARY else _CLOSE_CODES.get(refusal.status, 1008)
            await connection.close(code, _fitting(f"{refusal.reason}: {refusal.message}"))
            return
        last = dialect.last()
        if last is not None:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(json.dumps(last))
        await connection.close(1000, "the session is over")

    async def _converse(self, connection: ServerConnection, dialect: Dialect) -> LegRefusal | None:
        start = await self._read_start(connection, dialect)
        if isinstance(start, LegRefusal):
            return start
        session = find_session(self._directory, start)
        if isinstance(session, LegRefusal):
            return session
        leg: LegQueue[Frame] = LegQueue(self._settings.leg, dialect)
        refusal = await attach(session, start, leg, self._settings.ready_timeout)
        if refusal is not None:
            return refusal
        self._strangers.discard(connection)
        return await self._carry(connection, dialect, session, leg)

    async def _read_start(self, connection: ServerConnection, dialect: Dialect) -> StartMessage | LegRefusal:
        waited = self._settings.start_timeout
        try:
            async with asyncio.timeout(waited):
                for _ in range(FRAMES_BEFORE_START):
                    text = await connection.recv()
                    if not isinstance(text, str):
                        return _BINARY
                    start = dialect.begin(text)
                    if start is not None:
                        return start
        except TimeoutError:
            text = f"no start came within {waited:g} s"
            return LegRefusal(Status.DEADLINE_EXCEEDED, "start-missing", text, "event")
        text = f"no start came in the first {FRAMES_BEFORE_START} frames"
        return LegRefusal(Status.INVALID_ARGUMENT, "start-missing", text, "event")

    async def _carry(
        self, connection: ServerConnection, dialect: Dialect, session: SessionPort, leg: LegQueue[Frame]
    ) -> LegRefusal | None:
        broken = await carry(
            leg,
            leg.drain(_Out(connection)),
            self._read(connection, dialect, session, leg),
            lambda: session.leg_lost(leg, "cancelled"),
            self._settings.leg.flush,
        )
        for error in broken:
            if not isinstance(error, ConnectionClosed):
                log.error("a telephony stream broke: %s", type(error).__name__)
        return leg.refusal

    async def _read(
        self, connection: ServerConnection, dialect: Dialect, session: SessionPort, leg: LegQueue[Frame]
    ) -> None:
        while True:
            try:
                text = await connection.recv()
            except ConnectionClosed as exc:
                said = dialect.closed(exc.rcvd.code if exc.rcvd else None)
                if said is not None:
                    session.leg_message(leg, said)
                return
            refusal: LegRefusal | None = None
            read = dialect.read(text) if isinstance(text, str) else _BINARY
            if isinstance(read, CallerAudio):
                refusal = session.leg_audio(leg, read.payload, read.sequence, read.media_time_ms)
            elif isinstance(read, LegRefusal):
                refusal = read
            elif read is not None:
                refusal = session.leg_message(leg, read)
            if refusal is not None:
                leg.finish(refusal)
                session.leg_lost(leg, "protocol-error")
                return


def _counted(strangers: set[ServerConnection], most: int) -> type[ServerConnection]:
    """Connections that stand in `strangers` from the first moment until they are gone; `most` of them."""

    class Counted(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            strangers.add(self)
            if len(strangers) > most:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            strangers.discard(self)
            super().connection_lost(exc)

    return Counted


class _Out:
    """The writing half of a connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def write(self, message: Frame, /) -> None:
        await self._connection.send(json.dumps(message, separators=(",", ":")))


def signature(token: str, url: str) -> bytes:
    """What Twilio sends as X-Twilio-Signature of a WebSocket's URL."""
    return base64.b64encode(hmac.new(token.encode(), url.encode(), hashlib.sha1).digest())


def _dialect(path: str) -> tuple[str, str] | None:
    """The kind of stream and the ticket of a path; None for another path.

    What stands before the kind is a gateway's own: it may keep the path that it was called with.
    """
    before, _, last = urlsplit(path).path.strip("/").rpartition("/")
    if last in DIALECTS:
        return last, ""
    kind = before.rpartition("/")[2]
    return (kind, unquote(last)) if kind in DIALECTS else None


def _fitting(reason: str) -> str:
    """A close reason has at most 123 bytes."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
