"""The reference: `websockets`, with a task that reads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import broadcast
from websockets.exceptions import ConnectionClosed

from parley_realtime.transport import congestion
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


class _Connect(connect):
    """Follows no redirect: credentials go to the host that was named and to no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Connection(ClientConnection):
    """Asks about the address before a byte of the request is sent, and tells when it can be written to."""

    def __init__(self, *args: Any, options: SocketOptions, **kwargs: Any) -> None:
        self._options = options
        self.receiver: Receiver | None = None
        super().__init__(*args, **kwargs)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        peer = self.transport.get_extra_info("peername")
        if peer is not None:
            self._options.guard(str(peer[0]))
        tcp = self.transport.get_extra_info("socket")
        if tcp is not None:
            congestion.ask(tcp.fileno(), self._options.congestion)
        await super().handshake(*args, **kwargs)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.receiver is not None:
            self.receiver.filled()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.receiver is not None:
            self.receiver.drained()


class ReferenceSocket:
    """See `seam.Socket`."""

    def __init__(self, connection: _Connection, close_timeout: float) -> None:
        self._connection = connection
        self._close_timeout = close_timeout
        self._reader: asyncio.Task[None] | None = None

    @property
    def writable(self) -> bool:
        return not self._connection.paused

    @property
    def latency(self) -> float:
        return self._connection.latency

    @property
    def close_code(self) -> int:
        return self._connection.close_code or NO_CLOSE_FRAME

    @property
    def close_reason(self) -> str:
        return self._connection.close_reason or ""

    def start(self, receiver: Receiver) -> None:
        """See Socket."""
        self._connection.receiver = receiver
        self._reader = asyncio.get_running_loop().create_task(self._read(receiver), name="realtime-read")

    async def _read(self, receiver: Receiver) -> None:
        try:
            while True:
                receiver.frame(await self._connection.recv(decode=False))
        except ConnectionClosed as exc:
            received, sent = exc.rcvd, exc.sent
            receiver.lost(
                Ending(
                    received.code if received is not None else None,
                    received.reason if received is not None else "",
                    sent.code if sent is not None else None,
                    bool(exc.rcvd_then_sent),
                )
            )

    def send(self, data: str | bytes) -> None:
        """See Socket."""
        broadcast((self._connection,), data, text=True)

    async def close(self, code: int, reason: str) -> None:
        """See Socket."""
        try:
            async with asyncio.timeout(self._close_timeout * 2):
                await self._connection.close(code, reason)
        except TimeoutError:
            self.abort()
            await self._connection.wait_closed()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def abort(self) -> None:
        """See Socket."""
        self._connection.transport.abort()


async def open_reference(url: str, options: SocketOptions) -> ReferenceSocket:
    """An open WebSocket; what websockets, TLS and the operating system raise goes through."""
    opener = partial(_Connect, ssl=options.tls or default_tls()) if url.startswith("wss:") else _Connect
    connection = await opener(
        url,
        additional_headers=dict(options.headers),
        user_agent_header=USER_AGENT,
        compression=None,
        create_connection=partial(_Connection, options=options),  # type: ignore[arg-type]
        logger=socket_logger,
        proxy=options.proxy,
        open_timeout=None,
        ping_interval=options.ping_interval,
        ping_timeout=options.ping_timeout,
        close_timeout=options.close_timeout,
        max_size=options.max_frame_bytes,
        write_limit=WRITE_HIGH_BYTES,
    )
    assert isinstance(connection, _Connection)
    return ReferenceSocket(connection, options.close_timeout)
