"""HTTP requests of scenarios: made here, so that hosts, addresses and sizes are judged outside user code."""

from __future__ import annotations

import asyncio
import codecs
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from parley_worker.core.addresses import may_be_reached
from parley_worker.transport.http_pool import AddressRefused, HttpPool, MayReach

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"})
MAX_SECONDS = 30.0
MAX_URL_CHARACTERS = 4096
MAX_CONNECTIONS = 256
_READ_BYTES = 1 << 16
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)
"""Headers that say where a request goes and how long it is: what was judged is what is sent."""
_SLOW_CODECS = frozenset({"punycode", "idna"})


class HttpRefused(Exception):
    """There is no response; the text says why and holds neither path nor query of the URL."""


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

    def __init__(self, may_reach: MayReach = may_be_reached) -> None:
        self._http = HttpPool(
            MAX_CONNECTIONS, may_reach, headers={"Accept-Encoding": "gzip, deflate"}, decompress=False
        )

    async def close(self) -> None:
        """Close idle connections."""
        await self._http.close()

    async def request(self, request: HttpRequest, hosts: tuple[str, ...], max_bytes: int) -> dict[str, Any]:
        """Status, headers and text of the answer, whatever its status; HttpRefused. Redirects are answers."""
        host = check_url(request, hosts)
        try:
            async with asyncio.timeout(min(max(request.timeout, 0.1), MAX_SECONDS)):
                async with self._http.session().request(
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
            if isinstance(error.os_error, AddressRefused):
                raise HttpRefused(f"host {host!r} leads to an address that is refused") from None
            raise HttpRefused(f"host {host!r} cannot be reached") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise HttpRefused(f"the request to host {host!r} failed: {type(error).__name__}") from None


def check_url(request: HttpRequest, hosts: tuple[str, ...]) -> str:
    """The host of a request that may be made; HttpRefused. `hosts` as in MediaAccess."""
    if request.method not in METHODS:
        raise HttpRefused(f"method {request.method[:20]!r}: use one of {', '.join(sorted(METHODS))}")
    for name in request.headers:
        if name.strip().lower() in _OURS:
            raise HttpRefused(f"header {name[:40]!r}: leave it out, it follows from the url and the body")
    try:
        split = urlsplit(request.url)
        host, port = (split.hostname or "").lower(), split.port
    except ValueError:
        raise HttpRefused("the url is none") from None
    if split.scheme not in ("http", "https") or not host or len(request.url) > MAX_URL_CHARACTERS:
        raise HttpRefused("the url must be http or https, with a host")
    port = port or (443 if split.scheme == "https" else 80)
    fitting = [rule for rule in hosts if _fits(host, port, rule)]
    if (
        fitting
        and split.scheme == "http"
        and not _is_loopback(host)
        and not any(":" in rule for rule in fitting)
    ):
        raise HttpRefused(f"host {host!r} is allowed for https only: list it as {host}:{port} for http")
    if not fitting:
        raise HttpRefused(f"host {host!r} is not allowed: the pool lists hosts in media.allowedHosts")
    return host


def _fits(host: str, port: int, rule: str) -> bool:
    name, _, wanted = rule.lower().partition(":")
    if wanted and wanted != str(port):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


async def _answer(response: aiohttp.ClientResponse, max_bytes: int, host: str) -> dict[str, Any]:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise HttpRefused(f"host {host!r} answered more than {max_bytes} bytes")
    headers = dict(list(response.headers.items())[:100])
    plain = _unpacked(bytes(body), response.headers.get("Content-Encoding", ""), max_bytes, host)
    text = plain.decode(_charset(response.charset), errors="replace")
    return {"status": response.status, "headers": headers, "text": text}


def _unpacked(body: bytes, encoding: str, max_bytes: int, host: str) -> bytes:
    """The body without its compression, never more of it than is wanted; HttpRefused."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise HttpRefused(f"host {host!r} answered in an encoding that was not asked for")
    # Deflate is sent with and without the header of zlib.
    raw = encoding == "deflate" and body[0] & 0x0F != 8
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    try:
        plain = unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        raise HttpRefused(f"host {host!r} answered with a damaged body") from None
    if len(plain) > max_bytes:
        raise HttpRefused(f"host {host!r} answered more than {max_bytes} bytes")
    return plain


def _charset(name: str | None) -> str:
    """A character set of Python that the answer names, or UTF-8."""
    try:
        found = codecs.lookup(name or "utf-8").name
        b"x".decode(found, errors="replace")
    except (LookupError, ValueError):
        return "utf-8"
    return "utf-8" if found in _SLOW_CODECS else found
