"""HTTP requests to others: a pool of connections without cookies, proxies and forbidden addresses."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from parley_worker.core.addresses import may_be_reached
from parley_worker.transport.resolver import Resolver

MayReach = Callable[[str], bool]


class AddressRefused(OSError):
    """The name leads to an address that nothing of ours connects to."""


class HttpPool:
    """Connections that are kept, `connections` at most (0: any number); `close()` ends them."""

    def __init__(
        self,
        connections: int,
        may_reach: MayReach = may_be_reached,
        *,
        headers: Mapping[str, str] | None = None,
        decompress: bool = True,
    ) -> None:
        self._connections = connections
        self._may_reach = may_reach
        self._headers = headers
        self._decompress = decompress
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """To make requests with; made by the first call, on its loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, socket_factory=self._socket, resolver=Resolver()
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                auto_decompress=self._decompress,
                trust_env=False,
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for an address that a name leads to, or that the URL names itself."""
        family, kind, protocol, _, where = address
        if not self._may_reach(str(where[0])):
            raise AddressRefused(f"{where[0]} is refused")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def close(self) -> None:
        """Close idle connections; requests that run fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None
