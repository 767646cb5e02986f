"""/metrics, /healthz and /readyz on one port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from parley_operator.telemetry.metrics import Metrics


@asynccontextmanager
async def serve_admin(
    host: str, port: int, metrics: Metrics, healthy: Callable[[], str], ready: Callable[[], str]
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port. `healthy` and `ready` return what is wrong, empty for
    nothing."""

    def answer(check: Callable[[], str]) -> Callable[[web.Request], object]:
        async def respond(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(status=503 if wrong else 200, text=(wrong or "ok") + "\n")

        return respond

    async def render(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=metrics.render(), headers=headers)

    app = web.Application()
    app.router.add_get("/metrics", render)
    app.router.add_get("/healthz", answer(healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", answer(ready))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
