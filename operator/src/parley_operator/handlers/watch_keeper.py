"""Looks after the watches: asks how many objects there are, tells how far behind a watch is, and lists anew
where one is behind for long, so that work goes on until the kubelet has restarted the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from parley_operator.api.constants import AGENT, POOL, SESSION, Body
from parley_operator.api.v1alpha1 import text_at
from parley_operator.ports import StoreError

from .context import Context

log = logging.getLogger(__name__)
# Pods are watched by a label, and the API server counts only what is not selected.
_COUNTED = (SESSION, AGENT, POOL)
_LOOK_EVERY = 1.0


class WatchKeeper:
    """One for a term. `count` asks the API server, `relist` reads everything again; both raise
    `StoreError`."""

    def __init__(
        self, context: Context, count: Callable[[str], Awaitable[int]], relist: Callable[[], Awaitable[None]]
    ) -> None:
        self._context = context
        self._count = count
        self._relist = relist
        self._relisted = context.clock.monotonic()

    def heard(self, kind: str, body: Body) -> None:
        """The watch told of this object."""
        self._context.watches.heard(kind, text_at(body, "metadata", "resourceVersion"))

    def written(self, kind: str, version: str) -> None:
        """The API server confirmed a write of ours."""
        self._context.watches.written(kind, version, self._context.clock.monotonic())

    async def run(self, started: asyncio.Event) -> None:
        """Until cancelled, from `started` on."""
        await started.wait()
        clock, settings = self._context.clock, self._context.settings
        counted = clock.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                if clock.monotonic() - counted >= settings.count_every:
                    counted = clock.monotonic()
                    await self._compare()
                await self._help_out()
            except StoreError as error:
                # An API server that does not answer proves nothing about the watches.
                log.info("the watches cannot be checked: %s", error)
            except Exception:
                # One object that is odd must not end the term.
                log.exception("the watches cannot be checked")
            self._tell()

    async def _compare(self) -> None:
        context = self._context
        for kind in _COUNTED:
            there = await self._count(kind)
            context.watches.counted(kind, there, context.cache.count(kind), context.clock.monotonic())

    async def _help_out(self) -> None:
        context, now = self._context, self._context.clock.monotonic()
        kind, age = context.watches.oldest(now)
        if age >= context.settings.relist_after and now - self._relisted >= context.settings.relist_after:
            self._relisted = now
            log.warning("the watch of %s owes a change since %.0f s: everything is listed again", kind, age)
            await self._relist()
            context.watches.relisted()

    def _tell(self) -> None:
        now = self._context.clock.monotonic()
        for kind in self._context.watches.kinds:
            self._context.metrics.watch_age(kind, self._context.watches.age(kind, now))
        self._context.metrics.reaping(len(self._context.reaper))
