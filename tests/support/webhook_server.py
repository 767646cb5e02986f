"""A webhook server on loopback that keeps what it was asked and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[["Hit"], Awaitable[web.StreamResponse]]


@dataclass
class Hit:
    """One request. `number` counts from 1."""

    number: int
    request: web.Request
    headers: Mapping[str, str]
    body: bytes

    @property
    def call(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass
class WebhookServer:
    """A running server; `url` is what a route names. `cancelled` is set when a request was given up."""

    answer: Answer
    url: str = ""
    hits: list[Hit] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        async with self.news:
            hit = Hit(len(self.hits) + 1, request, dict(request.headers), await request.read())
            self.hits.append(hit)
            self.news.notify_all()
        try:
            return await self.answer(hit)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def expect(self, count: int = 1) -> Hit:
        """The `count`-th request, waiting for it."""
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(lambda: len(self.hits) >= count)
        return self.hits[count - 1]


@asynccontextmanager
async def webhook_server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebhookServer]:
    """Serve `answer` for every path; requests that still run at the end are cancelled."""
    server = WebhookServer(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"{'https' if tls else 'http'}://{host}:{port}/tool"
        yield server
    finally:
        await runner.cleanup()


def result(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Always this JSON."""

    async def answer(hit: Hit) -> web.StreamResponse:
        return web.json_response(value, status=status, headers=headers)

    return answer


async def hang(hit: Hit) -> web.StreamResponse:
    """Never an answer."""
    await asyncio.Event().wait()
    raise AssertionError("never")
