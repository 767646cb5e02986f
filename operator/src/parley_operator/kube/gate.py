"""How fast this client may ask the API server.

At most a number of writes are under way at a time; the rest wait in order, which bounds what a burst can put
on the API server and leaves it room for others. When the server says 429, nobody of this client asks before
the time that it named.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Those who were told to wait do not come back in the same instant.
_SPREAD = 0.25


class Gate:
    """Used on one event loop. What waits here is bounded by the tasks that call, each with one request."""

    def __init__(self, writes_at_once: int) -> None:
        self._writes = asyncio.Semaphore(writes_at_once)
        self._closed_until = 0.0

    def pause(self, seconds: float) -> None:
        """Nothing passes for so long."""
        until = asyncio.get_running_loop().time() + seconds
        self._closed_until = max(until, self._closed_until)

    @asynccontextmanager
    async def turn(self, *, writes: bool) -> AsyncIterator[None]:
        """Hold a place for one request."""
        if not writes:
            await self._opened()
            yield
            return
        async with self._writes:
            await self._opened()
            yield

    async def _opened(self) -> None:
        while (left := self._closed_until - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - time, no event
            await asyncio.sleep(left * (1 + _SPREAD * random.random()))
