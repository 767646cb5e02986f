"""The queue between the reader and the listeners of one client, and the task that empties it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from parley_realtime.client.listeners import Listeners, RealtimeEvent
from parley_realtime.errors import ScenarioError

FIRST_LISTENER_WAIT = 1.0


class Dispatcher:
    """Dispatches in order, one event at a time.

    Nothing is dispatched before the loop has come round once after the first listener was registered, or
    before `FIRST_LISTENER_WAIT` seconds have passed since `ready`: so who gets a connected client from a
    factory and registers listeners at once misses no event, `SessionCreated` included.
    """

    def __init__(
        self, listeners: Listeners, timeout: float, max_pending: int, failed: Callable[[ScenarioError], None]
    ) -> None:
        self._listeners = listeners
        self._timeout = timeout
        self._max_pending = max_pending
        self._failed = failed
        self._events: deque[RealtimeEvent[Any, Any]] = deque()
        self._wake = asyncio.Event()
        self._released = asyncio.Event()
        self._release_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="realtime-dispatch")

    def ready(self) -> None:
        """The client is connected."""
        if not self._released.is_set():
            self._release_timer = asyncio.get_running_loop().call_later(
                FIRST_LISTENER_WAIT, self._released.set
            )

    def listener_added(self) -> None:
        """Release what waits for a first listener, after the code that registers it has gone on."""
        if self._task is None:
            self._released.set()
        elif not self._released.is_set():
            self._task.get_loop().call_soon(self._released.set)

    def takes(self, name: str) -> bool:
        """False for an event that `put` would forget."""
        return not self._ending and (self._listeners.wants(name) or not self._released.is_set())

    def put(self, event: RealtimeEvent[Any, Any]) -> None:
        """Queue an event. When too many wait the scenario has failed, unless nobody listens to this one."""
        if not self.takes(event.name):
            return
        if len(self._events) >= self._max_pending:
            if not self._listeners.wants(event.name):
                return
            self._failed(
                ScenarioError(f"listeners are slower than the provider: {len(self._events)} events wait")
            )
            return
        self._events.append(event)
        self._wake.set()

    def end(self, *, forget: bool) -> None:
        """Nothing more comes. `forget`: what waits is not dispatched either."""
        self._ending = True
        if forget:
            self._events.clear()
        if self._release_timer is not None:
            self._release_timer.cancel()
        self._released.set()
        self._wake.set()

    async def finished(self) -> None:
        """After `end`: wait for the listener that runs and for what waits, at most one handler timeout."""
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=self._timeout)
        self._task.cancel()
        await asyncio.wait({self._task})

    def runs_here(self) -> bool:
        """Whether the caller is a listener of this client."""
        return self._task is not None and asyncio.current_task() is self._task

    async def _run(self) -> None:
        await self._released.wait()
        while True:
            while self._events:
                try:
                    await self._listeners.dispatch(self._events.popleft())
                except ScenarioError as error:
                    self._failed(error)
                    return
            if self._ending:
                return
            self._wake.clear()
            await self._wake.wait()
