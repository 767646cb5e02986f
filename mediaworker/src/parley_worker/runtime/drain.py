"""Draining: no admissions, a deadline that callers are told, and the end of what is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from parley_worker.clock import Clock
from parley_worker.core.model import EndReason
from parley_worker.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""How long sessions that were ended at the deadline have for their last work."""


CLOSING_SECONDS = 3.0
"""Beyond the delivery of records, for a shard to end when the worker does."""


def within_grace(drain_timeout: float, grace: float, flush_timeout: float) -> float:
    """Seconds that sessions may go on after SIGTERM, when SIGKILL follows after `grace` seconds (0: unknown).

    What is done after the last session is done before that.
    """
    if not grace:
        return drain_timeout
    return min(drain_timeout, max(0.0, grace - END_SECONDS - flush_timeout - CLOSING_SECONDS))


class Sessions(Protocol):
    """What is drained."""

    def drain(self, deadline_unix: float) -> None: ...

    def terminate_all(self, reason: EndReason, message: str) -> None: ...

    async def wait_empty(self, timeout: float) -> bool: ...


class Drain:
    """One drain of the worker. Asking again is harmless; a later deadline wins."""

    def __init__(
        self,
        registry: Sessions,
        supervisor: Supervisor,
        clock: Clock,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry, self._supervisor, self._clock = registry, supervisor, clock
        self._on_begin = on_begin
        self._deadline: float | None = None
        self._moved = asyncio.Event()
        self._now = asyncio.Event()
        self.done = asyncio.Event()

    @property
    def deadline_unix(self) -> float | None:
        """When sessions are ended, in Unix seconds; None while not draining."""
        if self._deadline is None:
            return None
        return self._clock.wall() + self._deadline - self._clock.monotonic()

    def begin(self, timeout: float, *, exactly: bool = False) -> float:
        """Drain; returns the deadline that holds, in Unix seconds. `exactly`: also an earlier one."""
        asked = self._clock.monotonic() + max(timeout, 0.0)
        first = self._deadline is None
        if self._deadline is None or asked > self._deadline or (exactly and asked < self._deadline):
            self._deadline = asked
            self._registry.drain(self._clock.wall() + max(timeout, 0.0))
            self._moved.set()
        if first:
            log.info("draining: sessions may go on for %.1f s", timeout)
            self._supervisor.spawn("drain", self._run(), vital=True)
            self._on_begin()
        return self.deadline_unix or 0.0

    def hurry(self) -> None:
        """Make the deadline now."""
        self._now.set()
        self._moved.set()

    async def _run(self) -> None:
        while True:
            self._moved.clear()
            left = 0.0 if self._now.is_set() else (self._deadline or 0.0) - self._clock.monotonic()
            if left <= 0 or await self._empty_or_moved(left):
                break
        self._registry.terminate_all(EndReason.DRAIN_DEADLINE, "the worker went away")
        if not await self._registry.wait_empty(END_SECONDS):
            log.warning("sessions did not end within %.0f s of the drain deadline", END_SECONDS)
        self.done.set()

    async def _empty_or_moved(self, left: float) -> bool:
        """True when no session is left; false when the deadline passed or moved."""
        async with asyncio.TaskGroup() as group:
            moved = group.create_task(self._moved.wait())
            empty = group.create_task(self._registry.wait_empty(left))
            await asyncio.wait({moved, empty}, return_when=asyncio.FIRST_COMPLETED)
            over = empty.done() and empty.result()
            moved.cancel()
            empty.cancel()
        return over


async def end_at_once(drain: Drain) -> None:
    """End what is left now, within the time for its last work."""
    drain.begin(0)
    drain.hurry()
    try:
        async with asyncio.timeout(END_SECONDS + 1):
            await drain.done.wait()
    except TimeoutError:
        log.error("the drain did not end")
