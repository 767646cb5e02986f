"""Timers of a scenario: their handlers run in line with those of events, never in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley_scenario.events import ScenarioMistake

MIN_SECONDS = 0.01


class Timer:
    """A timer that was set; `cancel()` forgets it."""

    def __init__(self, timers: Timers, handler: Callable[[], object], seconds: float, repeats: bool) -> None:
        self._timers = timers
        self.handler = handler
        self.seconds, self.repeats = max(seconds, MIN_SECONDS), repeats
        self.waits = False
        """True while a call of the handler is queued."""
        self._handle = asyncio.get_running_loop().call_later(self.seconds, self._due)

    def cancel(self) -> None:
        """Its handler is not called any more."""
        self._handle.cancel()
        self._timers.forget(self)

    @property
    def active(self) -> bool:
        """False once it was cancelled, or called for the only time."""
        return self._timers.knows(self)

    def _due(self) -> None:
        if self.repeats:
            self._handle = asyncio.get_running_loop().call_later(self.seconds, self._due)
        if not self.waits:
            self.waits = True
            self._timers.due(self)


class Timers:
    """The timers of one scenario. `due` is given those whose handler is to be called."""

    def __init__(self, limit: int, due: Callable[[Timer], None]) -> None:
        self._limit = limit
        self.due = due
        self._active: set[Timer] = set()

    def add(self, handler: Callable[[], object], seconds: float, *, repeats: bool) -> Timer:
        """ScenarioMistake past the limit of active timers."""
        if not callable(handler):
            raise ScenarioMistake(f"a timer calls a function, not a {type(handler).__name__}")
        if not seconds >= 0:
            raise ScenarioMistake(f"a timer takes seconds of 0 or more, got {seconds!r}")
        if len(self._active) >= self._limit:
            raise ScenarioMistake(f"{self._limit} timers are active: cancel some before setting more")
        timer = Timer(self, handler, seconds, repeats)
        self._active.add(timer)
        return timer

    def knows(self, timer: Timer) -> bool:
        """True while the timer is active."""
        return timer in self._active

    def forget(self, timer: Timer) -> None:
        self._active.discard(timer)

    def close(self) -> None:
        """Cancel all."""
        for timer in list(self._active):
            timer.cancel()
