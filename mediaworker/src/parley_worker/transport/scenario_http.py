"""HTTP requests of scenarios: made here, so that hosts, addresses and sizes are judged outside user code."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from parley_worker.core.addresses import may_be_reached

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"})
MAX_SECONDS = 30.0
MAX_URL_CHARACTERS = 4096
MAX_CONNECTIONS = 256
_READ_BYTES = 1 << 16


class HttpRefused(Exception):
    """There is no response; the text says why and holds neither path nor query of the URL."""


class _AddressRefused(OSError):
    """The name leads to an address that nothing of ours connects to."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `body` is sent as UTF-8; `timeout` is in seconds."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(repr=False)
    timeout: float


class ScenarioHttp:
    """One connection pool for the scenarios of a worker; `close()` ends it."""

    def __init__(self, may_reach: Callable[[str], bool] = may_be_reached) -> None:
        self._may_reach = may_reach
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close idle connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def request(self, request: HttpRequest, hosts: tuple[str, ...], max_bytes: int) -> dict[str, Any]:
        """Status, headers and text of the answer, whatever its status; HttpRefused. Redirects are answers."""
        host = check_url(request, hosts)
        try:
            async with asyncio.timeout(min(max(request.timeout, 0.1), MAX_SECONDS)):
                async with self._session().request(
                    request.method,
                    request.url,
                    headers=dict(request.headers),
                    data=None if request.body is None else request.body.encode(),
                    allow_redirects=False,
                ) as response:
                    return await _answer(response, max_bytes, host)
        except TimeoutError:
            raise HttpRefused(f"host {host!r} did not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _AddressRefused):
                raise HttpRefused(f"host {host!r} leads to an address that is refused") from None
            raise HttpRefused(f"host {host!r} cannot be reached") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise HttpRefused(f"the request to host {host!r} failed: {type(error).__name__}") from None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, socket_factory=self._socket)
            self._http = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._http

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = address
        if not self._may_reach(str(where[0])):
            raise _AddressRefused(f"{where[0]} is refused")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def check_url(request: HttpRequest, hosts: tuple[str, ...]) -> str:
    """The host of a request that may be made; HttpRefused. `hosts` as in MediaAccess."""
    if request.method not in METHODS:
        raise HttpRefused(f"method {request.method[:20]!r}: use one of {', '.join(sorted(METHODS))}")
    try:
        split = urlsplit(request.url)
        host, port = (split.hostname or "").lower(), split.port
    except ValueError:
        raise HttpRefused("the url is none") from None
    if split.scheme not in ("http", "https") or not host or len(request.url) > MAX_URL_CHARACTERS:
        raise HttpRefused("the url must be http or https, with a host")
    port = port or (443 if split.scheme == "https" else 80)
    if not any(_fits(host, port, rule) for rule in hosts):
        raise HttpRefused(f"host {host!r} is not allowed: the pool lists hosts in media.allowedHosts")
    return host


def _fits(host: str, port: int, rule: str) -> bool:
    name, _, wanted = rule.lower().partition(":")
    if wanted and wanted != str(port):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


async def _answer(response: aiohttp.ClientResponse, max_bytes: int, host: str) -> dict[str, Any]:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise HttpRefused(f"host {host!r} answered more than {max_bytes} bytes")
    headers = dict(list(response.headers.items())[:100])
    text = body.decode(response.charset or "utf-8", errors="replace")
    return {"status": response.status, "headers": headers, "text": text}
