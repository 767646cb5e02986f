"""A TCP proxy that cuts what goes through it: reset, orderly end, or a hole that swallows everything."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

How = Literal["reset", "end", "hole"]


class Link:
    """One connection through the proxy."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._near, self._far = near, far
        self.hole = False
        self.cut_done = False
        self.to_client = 0

    def cut(self, how: How) -> None:
        if self.cut_done:
            return
        self.cut_done = True
        if how == "hole":
            self.hole = True
            return
        for writer in (self._near, self._far):
            if how == "reset":
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()

    def abort(self) -> None:
        self.hole = False
        for writer in (self._near, self._far):
            writer.transport.abort()


class CuttingProxy:
    """Listens on loopback; `links` are all connections that ever went through, the newest last."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 0)
        self._path = parts.path
        self.links: list[Link] = []
        self.url = ""
        self.refusing = False
        self.refused = 0
        self._after: list[tuple[int, How]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, how: How = "reset") -> None:
        """Cut everything that is open."""
        for link in self.links:
            link.cut(how)

    def cut_next_after(self, to_client: int, how: How = "reset") -> None:
        """Cut the next connection once so many bytes went to the client."""
        self._after.append((to_client, how))

    async def serve(self, near_in: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.refused += 1
            near.transport.abort()
            return
        far_in, far = await asyncio.open_connection(self._host, self._port)
        link = Link(near, far)
        limit, how = self._after.pop(0) if self._after else (0, "reset")
        self.links.append(link)

        def count(size: int) -> None:
            link.to_client += size
            if limit and link.to_client >= limit:
                link.cut(how)  # type: ignore[arg-type]

        up = asyncio.create_task(_pipe(near_in, far, link, lambda size: None))
        down = asyncio.create_task(_pipe(far_in, near, link, count))
        self._tasks |= {up, down}
        try:
            await asyncio.wait((up, down))
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._tasks -= {up, down}
            link.abort()


async def _pipe(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, count: Callable[[int], None]
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if link.hole:
                continue
            writer.write(data)
            await writer.drain()
            count(len(data))
        if not link.hole:
            writer.close()


@asynccontextmanager
async def cutting(url: str) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of `url`; everything through it is over when the block ends."""
    proxy = CuttingProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{proxy._path}"
    try:
        yield proxy
    finally:
        server.close()
        for link in proxy.links:
            link.abort()
        await server.wait_closed()
