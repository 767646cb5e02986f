"""Watches of a worker's sessions: every change to everyone who listens, within bounds."""

from __future__ import annotations

import asyncio
from typing import Protocol

from parley_worker.transport.control_server import Change


class Listener(Protocol):
    """Whoever is told of changes; must not block or raise."""

    def put(self, change: Change) -> None: ...


class Watcher:
    """One watch: changes in order. Past its bound the watch is over and must be started anew."""

    def __init__(self, bound: int) -> None:
        self._queue: asyncio.Queue[Change] = asyncio.Queue(bound)
        self.overflowed = False

    def put(self, change: Change) -> None:
        try:
            self._queue.put_nowait(change)
        except asyncio.QueueFull:
            self.overflowed = True

    async def next(self, timeout: float) -> Change | None:
        """The next change; None when `timeout` seconds pass without one."""
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError:
            return None


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
