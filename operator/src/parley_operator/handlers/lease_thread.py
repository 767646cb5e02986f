"""A thread with an event loop of its own for the lease.

Keeping the lease takes a few small steps within seconds. On the loop that does the work, each of them would
wait behind everything else that is due there: with thousands of objects and little CPU, long enough to lose
the lease without need. The loop that does the work must still be alive: where it stands still, the lease is
let go.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_BEAT = 0.5


class LeaseThread:
    """Use as an async context manager on the loop that does the work, whose pulse it takes."""

    def __init__(self, patience: float = 10.0) -> None:
        self._patience = patience
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease", daemon=True)
        self._beat = 0.0
        self._beating: asyncio.Task[None] | None = None

    def alive(self) -> bool:
        """Whether the working loop turned within the last `patience` seconds."""
        return time.monotonic() - self._beat < self._patience

    async def __aenter__(self) -> Self:
        self._beat = time.monotonic()
        self._thread.start()
        self._beating = asyncio.create_task(self._pulse(), name="pulse")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _pulse(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run there, wait here; cancelled here means cancelled there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call there, without waiting."""
        self._loop.call_soon_threadsafe(function, *arguments)
