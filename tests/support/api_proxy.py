"""A proxy in front of the API server that notes every request, and errs as it is told: refusals, slowness,
cut and poisoned watches. Plain HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from apiserver import TOKEN

# What a watch says when its resource version is too old.
EXPIRED = (
    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure",'
    b'"message":"too old resource version","reason":"Expired","code":410}}\n'
)
_HOPS = {"transfer-encoding", "content-length", "connection", "content-encoding", "host"}


@dataclass(frozen=True)
class Request:
    """One that arrived. `at` is the loop's time."""

    at: float
    verb: str
    path: str

    @property
    def writes(self) -> bool:
        """Whether it is to change an object; the lease apart."""
        return self.verb != "GET" and "/leases" not in self.path


# Seconds that an answer waits, or a status with headers to answer with; `None` to pass the request on.
Fault = Callable[[Request], "float | tuple[int, dict[str, str]] | None"]


@dataclass
class ApiProxy:
    """Faults are plain fields, to be set at any time."""

    target: str
    requests: list[Request] = field(default_factory=list)
    fault: Fault = lambda request: None
    # Watches are kept open and say nothing: what the API server sends is swallowed.
    mute_watches: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that leads through this proxy, as the administrator."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "t", "cluster": {"server": self.url}}],
            "users": [{"name": "t", "user": {"token": TOKEN}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            "current-context": "t",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def since(self, at: float) -> list[Request]:
        return [request for request in self.requests if request.at >= at]

    def cut_watches(self, last_words: bytes = b"") -> int:
        """End every open watch, after `last_words`; returns how many there were."""
        for queue in self._watches:
            queue.put_nowait(last_words)
        return len(self._watches)

    async def start(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._http = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._watches: set[asyncio.Queue[bytes]] = set()
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """As an API server that goes away; `start` brings it back on the same port."""
        self.cut_watches()
        await self._runner.cleanup()
        await self._http.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        seen = Request(asyncio.get_running_loop().time(), request.method, request.path_qs)
        self.requests.append(seen)
        fault = self.fault(seen)
        if isinstance(fault, tuple):
            status, headers = fault
            return web.json_response({"kind": "Status", "code": status}, status=status, headers=headers)
        if fault is not None:
            await asyncio.sleep(fault)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOPS}
        body = await request.read()
        url = self.target + request.path_qs
        try:
            async with self._http.request(
                request.method, url, data=body or None, headers=headers, skip_auto_headers={"Content-Type"}
            ) as answer:
                return await self._pass_on(request, answer)
        except aiohttp.ClientError:
            return web.Response(status=502)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOPS - {"content-encoding"}}
        watching = "watch=true" in request.query_string
        if not watching:
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        cut: asyncio.Queue[bytes] = asyncio.Queue()
        self._watches.add(cut)
        copying = asyncio.create_task(self._copy(answer, response))
        cutting = asyncio.create_task(cut.get())
        try:
            await asyncio.wait({copying, cutting}, return_when=asyncio.FIRST_COMPLETED)
            if cutting.done() and cutting.result():
                await response.write(cutting.result())
        finally:
            self._watches.discard(cut)
            for task in (copying, cutting):
                task.cancel()
            await asyncio.gather(copying, cutting, return_exceptions=True)
        return response

    async def _copy(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async for chunk in answer.content.iter_any():
                if not self.mute_watches:
                    await response.write(chunk)


@asynccontextmanager
async def api_proxy(target: str) -> AsyncIterator[ApiProxy]:
    proxy = ApiProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
