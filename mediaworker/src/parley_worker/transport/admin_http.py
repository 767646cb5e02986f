"""/metrics, /healthz and /readyz over a plain HTTP/1.1 server with strict bounds, a request a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

MAX_HEAD = 8192
MAX_CONNECTIONS = 64
DEADLINE = 5.0
TEXT = "text/plain; charset=utf-8"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

Answer = tuple[int, str, bytes]


class AdminServer:
    """Serves what monitors ask for. `ready` gives None when ready and else a word that says why not."""

    def __init__(
        self,
        render: Callable[[], Awaitable[bytes]],
        content_type: str,
        ready: Callable[[], str | None],
    ) -> None:
        self._render, self._content_type, self._ready = render, content_type, ready
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._open):
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(DEADLINE):
                await self._answer(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = None
        status, kind, body = await self._respond(head)
        lines = (
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        )
        shown = b"" if head is not None and head.startswith(b"HEAD ") else body
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + shown)
        await writer.drain()

    async def _respond(self, head: bytes | None) -> Answer:
        if head is None:
            return 431, TEXT, b"request header too large\n"
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return 400, TEXT, b"not an HTTP/1 request\n"
        method, target = parts[0], parts[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return 405, TEXT, b"use GET\n"
        if target == b"/metrics":
            return 200, self._content_type, await self._render()
        if target == b"/healthz":
            return 200, TEXT, b"ok\n"
        if target == b"/readyz":
            word = self._ready()
            return (200, TEXT, b"ready\n") if word is None else (503, TEXT, f"{word}\n".encode())
        return 404, TEXT, b"paths: /metrics /healthz /readyz\n"
