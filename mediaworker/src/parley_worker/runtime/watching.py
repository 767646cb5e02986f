"""Watches of a worker's sessions: every change to everyone who listens, within bounds."""

from __future__ import annotations

import asyncio
from typing import Protocol

from parley_worker.core.model import SessionReport

Change = SessionReport | None
"""A session's new report, or None for the worker's own state."""


class Listener(Protocol):
    """Whoever is told of changes; must not block or raise."""

    def put(self, change: Change) -> None: ...


class Watcher:
    """One watch: changes in order. Past its bound the watch is over and must be started anew."""

    def __init__(self, bound: int) -> None:
        self._queue: asyncio.Queue[Change] = asyncio.Queue(bound)
        # What was taken out of the queue and not yet told: that the worker itself changed.
        self._worker_too = False
        self.overflowed = False

    def put(self, change: Change) -> None:
        try:
            self._queue.put_nowait(change)
        except asyncio.QueueFull:
            self.overflowed = True

    async def next(self, timeout: float, most: int = 1) -> list[SessionReport]:
        """The next reports in order, `most` of them at most; none when the worker itself changed, or when
        nothing did within `timeout` seconds. The worker's changes among reports are told once, after them."""
        if self._worker_too:
            self._worker_too = False
            return []
        try:
            async with asyncio.timeout(timeout):
                change = await self._queue.get()
        except TimeoutError:
            return []
        if change is None:
            return []
        found = [change]
        while len(found) < most and not self._queue.empty():
            change = self._queue.get_nowait()
            if change is None:
                self._worker_too = True
            else:
                found.append(change)
        return found


class Watchers:
    """Who is told of changes. `buffer` changes wait for one watcher at most."""

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._listeners: set[Listener] = set()

    def add(self) -> Watcher:
        watcher = Watcher(self._buffer)
        self._listeners.add(watcher)
        return watcher

    def discard(self, watcher: Watcher) -> None:
        self._listeners.discard(watcher)

    def listen(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener.put(change)
