"""One timer wheel for all playout clocks of an event loop."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Callable

from parley_worker.core.backlog import Backlog
from parley_worker.core.underruns import Lateness
from parley_worker.telemetry.lag import SLEPT_SECONDS

log = logging.getLogger(__name__)

SLOT_SECONDS = 0.005
"""Clocks due within one slot are woken together, at its end. It divides 20 ms: a clock keeps its slot."""
AHEAD_SLOTS = 0.1
"""A wheel that turns late takes the next slot with it when so little is left until then."""
LOOK_SECONDS = 0.25
"""From one look at how busy the event loop is to the next."""
EARLY_SECONDS = 1e-6
"""What is due within this time is due."""

Tick = Callable[[float], float | None]
"""Called with the loop's time when due; gives the next due time, or None to stop."""


class _Entry:
    """A clock in the wheel; `tick` is None once it was cancelled or moved."""

    __slots__ = ("key", "tick")

    def __init__(self, key: object, tick: Tick | None) -> None:
        self.key = key
        self.tick = tick


class Pacer:
    """Wakes each playout clock when its next frame is due, by one timer of the loop.

    A key has at most one due time; scheduling it again moves it. Due times are absolute, so a late wake-up
    does not shift the ones after it. A clock is never woken early, and at most one slot late by design.

    `wanted` tells for how many seconds the event loop had something to do until now; see `Backlog`.
    """

    def __init__(self, wanted: Callable[[], float] = lambda: 0.0) -> None:
        self._wanted = wanted
        self._looked = (0.0, 0.0)
        self._slots: dict[int, list[_Entry]] = {}
        self._order: list[int] = []
        self._entries: dict[object, _Entry] = {}
        self._calls: dict[int, list[Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self.on_sleep: Callable[[], None] = lambda: None
        """Called before anything else when the process did nothing for longer than others wait for it."""
        self.lateness = Lateness()
        """When the loop was late for a playout clock."""
        self.backlog = Backlog()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """True while the key has a due time."""
        return key in self._entries

    def schedule(self, key: object, due: float, tick: Tick) -> None:
        """Call `tick` at `due` (the loop's time), and again whenever it asks."""
        old = self._entries.get(key)
        if old is not None:
            old.tick = None
        entry = self._entries[key] = _Entry(key, tick)
        self._put(entry, _slot(due))
        self._arm()

    def latest_slot(self, now: float) -> float:
        """When the slot ended that was the latest to do so. What is due a number of slots after that time is
        not a moment late; what is due after `now` itself waits for the end of a slot."""
        return math.floor((now + EARLY_SECONDS) / SLOT_SECONDS) * SLOT_SECONDS

    def cancel(self, key: object) -> None:
        """Forget the key; unknown keys are fine."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.tick = None
        if not self._entries and not self._calls:
            self._slots.clear()
            self._order.clear()
            self._disarm()

    def soon(self, callback: Callable[[], None], slots: int = 1) -> None:
        """Call once at the next slot whose number `slots` divides, together with everybody who asked for it.

        What is done for many sessions together costs a fraction of what it costs for each by itself: the
        process wakes once, and the second session finds everything at hand that the first one needed.
        """
        slot = (math.floor(asyncio.get_running_loop().time() / SLOT_SECONDS) // slots + 1) * slots
        calls = self._calls.get(slot)
        if calls is not None:
            calls.append(callback)
            return
        self._calls[slot] = [callback]
        if slot not in self._slots:
            self._slots[slot] = []
            heapq.heappush(self._order, slot)
            self._arm()

    def _put(self, entry: _Entry, slot: int) -> None:
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = [entry]
            heapq.heappush(self._order, slot)
        else:
            entries.append(entry)

    def _arm(self) -> None:
        if not self._order:
            self._disarm()
            return
        slot = self._order[0]
        if self._timer is not None:
            if self._timer_at <= slot:
                return
            self._timer.cancel()
        self._timer_at = slot
        self._timer = asyncio.get_running_loop().call_at(slot * SLOT_SECONDS, self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        late = now - self._timer_at * SLOT_SECONDS
        if late >= SLEPT_SECONDS:
            self.on_sleep()
        self.lateness.note(late, now)
        if now - self._looked[0] >= LOOK_SECONDS:
            self._look(now)
        latest = math.floor(now / SLOT_SECONDS + AHEAD_SLOTS)
        while self._order and self._order[0] <= latest:
            slot = heapq.heappop(self._order)
            self._run(slot, max(now, slot * SLOT_SECONDS))
            for callback in self._calls.pop(slot, ()):
                try:
                    callback()
                except Exception:
                    log.exception("a call that was put off failed")
        self._arm()

    def _look(self, now: float) -> None:
        before, wanted = self._looked
        self._looked = now, self._wanted()
        if before:
            self.backlog.worked((self._looked[1] - wanted) / (now - before))

    def _run(self, slot: int, now: float) -> None:
        for entry in self._slots.pop(slot):
            tick = entry.tick
            if tick is None:
                continue
            try:
                following = tick(now)
            except Exception:
                # One clock's error must not stop those of others.
                log.exception("a playout clock failed")
                following = None
            if entry.tick is None:
                continue
            if following is None:
                del self._entries[entry.key]
            else:
                # Never in the slot that is being run: a clock that asks for it would keep the loop.
                self._put(entry, max(_slot(following), slot + 1))


def _slot(due: float) -> int:
    return math.ceil((due - EARLY_SECONDS) / SLOT_SECONDS)
