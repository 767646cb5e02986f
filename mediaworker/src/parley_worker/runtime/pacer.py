"""One timer for all playout clocks of an event loop."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from itertools import count

log = logging.getLogger(__name__)

Tick = Callable[[float], float | None]
"""Called with the loop's time when due; gives the next due time, or None to stop."""


class Pacer:
    """Wakes each playout clock when its next frame is due, by one timer of the loop.

    A key has at most one due time; scheduling it again moves it. Due times are absolute, so a late wake-up
    does not shift the ones after it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, object]] = []
        self._due: dict[object, tuple[int, Tick]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __len__(self) -> int:
        return len(self._due)

    def schedule(self, key: object, due: float, tick: Tick) -> None:
        """Call `tick` at `due` (the loop's time), and again whenever it asks."""
        number = next(self._numbers)
        self._due[key] = (number, tick)
        heapq.heappush(self._heap, (due, number, key))
        self._arm()

    def cancel(self, key: object) -> None:
        """Forget the key; unknown keys are fine."""
        self._due.pop(key, None)
        if not self._due:
            self._heap.clear()
            self._disarm()

    def _arm(self) -> None:
        if not self._heap:
            self._disarm()
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_at(due, self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now + 0.0005:
            due, number, key = heapq.heappop(self._heap)
            entry = self._due.get(key)
            if entry is None or entry[0] != number:
                continue
            try:
                following = entry[1](max(now, due))
            except Exception:
                # One clock's error must not stop those of others.
                log.exception("a playout clock failed")
                following = None
            if self._due.get(key) is not entry:
                continue
            if following is None:
                del self._due[key]
            else:
                self._due[key] = (number, entry[1])
                heapq.heappush(self._heap, (following, number, key))
        self._arm()
