"""picows: frames are read and written in C, without a task, a queue or an object per frame.

picows reads and writes frames and answers pings. The answer to the opening handshake is judged as in the
reference; fragments, our own pings and the closing handshake are kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket as sockets
from collections.abc import Callable
from typing import Any

import aiofastnet
from picows import WSAutoPingStrategy, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]
from websockets.uri import WebSocketURI, parse_uri
from websockets.utils import accept_key

from parley_realtime.transport import congestion
from parley_realtime.transport.opening import Opening, host_header
from parley_realtime.transport.seam import (
    NO_CLOSE_FRAME,
    USER_AGENT,
    WRITE_HIGH_BYTES,
    Ending,
    Receiver,
    SocketOptions,
    default_tls,
    socket_logger,
)

READ_BYTES = 16 * 1024
"""At most so many are read at once: picows' buffer then grows for a large frame only, not for a burst."""
TLS_BUFFER_BYTES = 16 * 1024 + 512
"""One TLS record, for each direction."""
NO_STATUS = 1005
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
_UPGRADED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PONG, _CLOSE = WSMsgType.PONG, WSMsgType.CLOSE

# What picows would log is told by our errors, and may hold what a provider said.
_silent = socket_logger.getChild("picows")
_silent.setLevel(logging.CRITICAL + 1)
_logger = logging.LoggerAdapter(_silent, {})


async def open_fast(url: str, options: SocketOptions) -> FastSocket:
    """An open WebSocket; what websockets, TLS and the operating system raise goes through."""
    uri = parse_uri(url)
    loop = asyncio.get_running_loop()
    raw = await _connected(loop, uri, options)
    wire = _Wire(uri, options, loop)
    tls: dict[str, Any] = {}
    if uri.secure:
        tls = {
            "ssl": options.tls or default_tls(),
            "server_hostname": uri.host,
            "ssl_shutdown_timeout": options.close_timeout,
            "ssl_incoming_bio_size": TLS_BUFFER_BYTES,
            "ssl_outgoing_bio_size": TLS_BUFFER_BYTES,
        }
    try:
        await aiofastnet.create_connection(loop, lambda: wire, sock=raw, **tls)
        await wire.opened
    except BaseException:
        wire.opened.cancel()
        wire.abort()
        raw.close()
        raise
    return wire.socket


async def _connected(
    loop: asyncio.AbstractEventLoop, uri: WebSocketURI, options: SocketOptions
) -> sockets.socket:
    """A TCP connection to the first address that takes one and is allowed."""
    error: OSError | None = None
    for family, kind, number, _, address in await loop.getaddrinfo(
        uri.host, uri.port, type=sockets.SOCK_STREAM
    ):
        raw = sockets.socket(family, kind, number)
        try:
            raw.setblocking(False)
            congestion.ask(raw.fileno(), options.congestion)
            await loop.sock_connect(raw, address)
            options.guard(str(raw.getpeername()[0]))
            return raw
        except OSError as exc:
            raw.close()
            error = exc
        except BaseException:
            raw.close()
            raise
    raise error or OSError("the host name has no address")


class _Wire(asyncio.BufferedProtocol):
    """Between the transport and picows: HTTP until the upgrade, then frames once somebody wants them."""

    def __init__(self, uri: WebSocketURI, options: SocketOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.opened: asyncio.Future[None] = loop.create_future()
        self.socket = FastSocket(self, options, loop)
        self._uri = uri
        self._opening: Opening | None = None
        self._key = ""
        self._answer: bytearray | None = bytearray(4096)
        self._transport: asyncio.Transport | None = None
        self._frames = WSProtocol(
            host_header(uri),
            uri.resource_name,
            True,
            lambda _request, _response: self.socket,
            _logger,
            True,  # disconnect when a callback raises
            None,  # the caller has the deadline of the handshake
            False,  # our own pings
            0,
            0,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            True,  # its own pongs
            options.max_frame_bytes,
            {"User-Agent": USER_AGENT, **options.headers},
            READ_BYTES + 1024,
        )
        self._get_buffer = self._frames.get_buffer
        self._buffer_updated = self._frames.buffer_updated

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self._frames.connection_made(transport)
        self._key = self._frames.transport.request.headers["Sec-WebSocket-Key"]
        self._opening = Opening(self._uri, self._key)

    def get_buffer(self, sizehint: int) -> Any:
        if self._answer is None:
            return self._get_buffer(sizehint)[:READ_BYTES]
        return self._answer

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None:
            self._buffer_updated(nbytes)
            self.socket.look()
        else:
            self._answered(bytes(self._answer[:nbytes]))

    def _answered(self, data: bytes) -> None:
        assert self._opening is not None
        assert self._transport is not None
        self._opening.received(data)
        if self._opening.done:
            self._transport.pause_reading()
        if (self._opening.done or self._opening.error is not None) and not self.opened.done():
            if self._opening.error is None:
                self.opened.set_result(None)
            else:
                self.opened.set_exception(self._opening.error)

    def start(self) -> WSTransport:
        """Hand over to picows, with what came behind the answer."""
        assert self._opening is not None
        assert self._transport is not None
        self._answer = None
        waiting = _UPGRADED.format(accept_key(self._key)).encode() + self._opening.rest
        self._opening = None
        while waiting:
            buffer = self._get_buffer(-1)
            size = min(len(buffer), len(waiting))
            buffer[:size] = waiting[:size]
            waiting = waiting[size:]
            self._buffer_updated(size)
        self.socket.look()
        if not self._transport.is_closing():
            self._transport.resume_reading()
        transport: WSTransport = self._frames.transport
        return transport

    def pause_reading(self) -> None:
        """Nothing that still comes is of interest."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def abort(self) -> None:
        """Be gone without a word."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.socket.filled()

    def resume_writing(self) -> None:
        self.socket.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._frames.connection_lost(exc)
        # What picows objected to is known; without this the loop would log it as an error nobody looked at.
        with contextlib.suppress(StopIteration, Exception):
            self._frames.transport.wait_disconnected().send(None)
        if not self.opened.done():
            self.opened.set_exception(self._opening.ended() if self._opening is not None else EOFError())
        self.socket.gone()
        # picows, the transport and we refer to each other: a connection that is over is freed at once.
        del self._frames, self._get_buffer, self._buffer_updated
        self._transport = None


class FastSocket(WSListener):
    """See `seam.Socket`."""

    send: Callable[[str | bytes], None]

    def __init__(self, wire: _Wire, options: SocketOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.writable = True
        self.latency = 0.0
        self._wire: _Wire | None = wire
        self._loop = loop
        self._max_bytes = options.max_frame_bytes
        self._close_timeout = options.close_timeout
        self._interval, self._patience = options.ping_interval, options.ping_timeout
        self._receiver: Receiver | None = None
        self._frame: Callable[[bytes], None] | None = None
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._received: tuple[int, str] | None = None
        self._received_first = False
        self._sent_code: int | None = None
        self._told = False
        self._ping_sent = (b"", 0.0)
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = loop.create_future()

    @property
    def close_code(self) -> int:
        return self._received[0] if self._received is not None else NO_CLOSE_FRAME

    @property
    def close_reason(self) -> str:
        return self._received[1] if self._received is not None else ""

    def start(self, receiver: Receiver) -> None:
        """See Socket."""
        self._receiver, self._frame = receiver, receiver.frame
        if self._wire is None:
            self._loop.call_soon(self._tell)
            return
        self._wire.start()
        if self._interval is not None and not self._told:
            self._timer = self._loop.call_later(self._interval, self._ping)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """picows is ready to send."""
        self._transport = transport
        self.send = functools.partial(transport.send, _TEXT)

    # What comes

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Nearly always a whole text."""
        if (
            frame.msg_type is _TEXT
            and frame.fin
            and not (self._parts_bytes or self._told or frame.rsv1 or frame.rsv2 or frame.rsv3)
        ):
            assert self._frame is not None
            self._frame(frame.get_payload_as_bytes())
        else:
            self._other(frame)

    def _other(self, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _CLOSE:
            self._goodbye(frame)
        elif self._told:
            return
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(1002)
        elif kind is _PONG:
            self._pong(frame.get_payload_as_bytes())
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._part(kind, frame)

    def _part(self, kind: WSMsgType, frame: WSFrame) -> None:
        if (kind is _CONTINUATION) is not bool(self._parts):
            self._fail(1002)
            return
        self._parts.append(frame.get_payload_as_bytes())
        # An empty first fragment counts too: whether one is open is asked by its size.
        self._parts_bytes += frame.payload_size + (len(self._parts) == 1)
        if self._parts_bytes > self._max_bytes + 1:
            self._fail(1009)
        elif frame.fin:
            whole = b"".join(self._parts)
            self._parts, self._parts_bytes = [], 0
            assert self._frame is not None
            self._frame(whole)

    def look(self) -> None:
        """Whether picows found something that is no frame: it has said so to the other side."""
        transport = self._transport
        if transport is not None and transport.is_close_frame_sent and self._sent_code is None:
            sent = transport.close_handshake.sent
            self._sent_code = _number(sent.code) if sent is not None else 1002
            if self._wire is not None:
                self._wire.pause_reading()
            self._tell()

    def filled(self) -> None:
        """The buffer holds enough."""
        self.writable = False
        if self._receiver is not None and not self._told:
            self._receiver.filled()

    def resumed(self) -> None:
        """The buffer is empty enough again."""
        self.writable = True
        if self._receiver is not None and not self._told:
            self._receiver.drained()

    # Pings

    def _ping(self) -> None:
        assert self._transport is not None
        assert self._interval is not None
        payload = os.urandom(4)
        self._ping_sent = (payload, self._loop.time())
        self._transport.send_ping(payload)
        wait = self._interval if self._patience is None else self._patience
        self._timer = self._loop.call_later(wait, self._unanswered)

    def _unanswered(self) -> None:
        if self._patience is None:
            self._ping()
        else:
            self._fail(1011)

    def _pong(self, payload: bytes) -> None:
        if not payload or payload != self._ping_sent[0] or self._interval is None:
            return
        self.latency = self._loop.time() - self._ping_sent[1]
        self._ping_sent = (b"", 0.0)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self._interval - self.latency), self._ping)

    # The end

    def _goodbye(self, frame: WSFrame) -> None:
        if self._received is not None:
            return
        code = _number(frame.get_close_code())
        if frame.payload_size and code not in _CLOSE_CODES:
            self._fail(1002)
            return
        self._received = (code or NO_STATUS, frame.get_close_reason() or "")
        if self._sent_code is None:
            self._received_first = True
            self._say(code or 1000, "")
        self._tell()

    def _fail(self, code: int) -> None:
        if self._sent_code is None:
            self._say(code, "")
        self._parts, self._parts_bytes = [], 0
        self._tell()

    def _say(self, code: int, reason: str) -> None:
        self._sent_code = code
        if self._transport is not None:
            self._transport.send_close(code, reason.encode())  # type: ignore[arg-type]

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        if self._timer is not None:
            self._timer.cancel()
        receiver, self._receiver, self._frame = self._receiver, None, None
        if receiver is not None:
            code, reason = self._received or (None, "")
            receiver.lost(Ending(code, reason, self._sent_code, self._received_first))

    def gone(self) -> None:
        """Nothing is left of the connection; what is sent from now on goes nowhere."""
        if not self._gone.done():
            self._gone.set_result(None)
        if self._receiver is not None:
            self._tell()
        self._wire = self._transport = None
        self.send = _nowhere

    async def close(self, code: int, reason: str) -> None:
        """See Socket."""
        if self._gone.done():
            return
        if self._sent_code is None:
            self._say(code, reason)
        try:
            async with asyncio.timeout(self._close_timeout):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self.abort()
            await self._gone

    def abort(self) -> None:
        """See Socket."""
        if self._wire is not None:
            self._wire.abort()


def _nowhere(data: str | bytes) -> None:
    return None


def _number(code: Any) -> int:
    """picows' close codes are numbers, whatever its annotations say."""
    return int(code)
