"""A WebSocket proxy that writes down every frame between a client and a provider.

async with recording(provider.url, tls=context) as proxy:
    ...a client of proxy.url...
proxy.sent("conversation.item.truncate")
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PASSED_ON = ("authorization", "openai-beta", "api-key")


@dataclass(frozen=True)
class Frame:
    """One event. `direction` is the client's view, `sent` or `received`; `t` is seconds since the first."""

    t: float
    direction: str
    event: dict[str, Any]


@dataclass
class RecordingProxy:
    """`url` is for clients; `frames` grow while it runs, of all connections in one list."""

    upstream: str
    url: str = ""
    port: int = 0
    frames: list[Frame] = field(default_factory=list)
    started_at: float | None = None

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return self._of("sent", kind)

    def received(self, kind: str) -> list[dict[str, Any]]:
        return self._of("received", kind)

    def _of(self, direction: str, kind: str) -> list[dict[str, Any]]:
        return [f.event for f in self.frames if f.direction == direction and f.event.get("type") == kind]

    def note(self, direction: str, message: str | bytes) -> None:
        now = asyncio.get_running_loop().time()
        self.started_at = now if self.started_at is None else self.started_at
        self.frames.append(Frame(now - self.started_at, direction, json.loads(message)))

    async def handle(self, client: ServerConnection) -> None:
        assert client.request is not None
        _, _, query = client.request.path.partition("?")
        headers = {k: v for k, v in client.request.headers.raw_items() if k.lower() in PASSED_ON}
        url = f"{self.upstream}?{query}" if query else self.upstream
        async with connect(url, additional_headers=headers, max_size=None) as provider:
            up = asyncio.create_task(self._relay(client, provider, "sent"))
            down = asyncio.create_task(self._relay(provider, client, "received"))
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            if provider.close_code is not None:
                await client.close(provider.close_code, provider.close_reason or "")

    async def _relay(
        self,
        source: ServerConnection | ClientConnection,
        target: ServerConnection | ClientConnection,
        direction: str,
    ) -> None:
        try:
            async for message in source:
                self.note(direction, message)
                await target.send(message)
        except ConnectionClosed:
            return


@asynccontextmanager
async def recording(upstream: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[RecordingProxy]:
    proxy = RecordingProxy(upstream)
    async with serve(proxy.handle, "127.0.0.1", 0, ssl=tls, max_size=None, close_timeout=1) as server:
        proxy.port = next(iter(server.sockets)).getsockname()[1]
        proxy.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{proxy.port}/v1/realtime"
        yield proxy
