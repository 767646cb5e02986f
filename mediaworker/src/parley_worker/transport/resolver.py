"""Names to addresses in threads of their own: names that nobody answers for hold up no other thread.

A name that is being asked for is asked for once, and what was found is good for a few seconds.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

THREADS = 8
MAX_PENDING = 256
KEPT_SECONDS = 5.0
MAX_KEPT = 256

Found = list[tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it."""
Key = tuple[str, int, int]


@functools.cache
def name_threads() -> ThreadPoolExecutor:
    """The threads that wait for name servers, for all sessions of the process."""
    return ThreadPoolExecutor(THREADS, "names")


class Resolver(AbstractResolver):
    """For one event loop; also what aiohttp asks."""

    def __init__(self) -> None:
        self._asked: dict[Key, asyncio.Future[Found]] = {}
        self._kept: OrderedDict[Key, tuple[float, Found]] = OrderedDict()

    async def lookup(self, host: str, port: int, family: int = 0) -> Found:
        """Every address; OSError when there is none, or when too many names are being asked for."""
        key = (host, port, family)
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        asked = self._asked.get(key)
        if asked is None:
            asked = self._ask(key)
        return await asyncio.shield(asked)

    def _ask(self, key: Key) -> asyncio.Future[Found]:
        if len(self._asked) >= MAX_PENDING:
            raise OSError(f"{MAX_PENDING} names are being resolved: the name servers do not answer")
        host, port, family = key
        find = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        asked = asyncio.get_running_loop().run_in_executor(name_threads(), find)
        self._asked[key] = asked
        asked.add_done_callback(functools.partial(self._answered, key))
        return asked

    def _answered(self, key: Key, asked: asyncio.Future[Found]) -> None:
        del self._asked[key]
        if asked.cancelled() or asked.exception() is not None:
            return
        self._kept[key] = (time.monotonic() + KEPT_SECONDS, asked.result())
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See aiohttp's AbstractResolver."""
        return [
            ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, where in await self.lookup(host, port, family)
        ]

    async def close(self) -> None:
        """Nothing is held: threads end with what they ask for."""
