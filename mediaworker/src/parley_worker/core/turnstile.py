"""Who may begin next, when many want to at once: a rate, a bound on those inside, and fairness. Pure.

Those of one group wait in order, groups take turns, and one group never has more than its share of the
places: a provider that answers nobody holds up its own sessions and not those of others. Every `now` is
monotonic seconds.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from parley_worker.core.budget import Budget

T = TypeVar("T")
AT_ONCE = 4
"""So many may begin in one moment after a quiet one."""
LEAST_WAIT = 0.001
NO_BOUND = 1 << 30


class Turnstile(Generic[T]):
    """`rate` a second begin, `places` are inside at most, and `share` of them belong to one group."""

    def __init__(self, rate: float, places: int = NO_BOUND, share: int | None = None) -> None:
        self._budget = Budget(rate, AT_ONCE)
        self._places, self._share = places, share or max(1, places // 2)
        self._inside: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self._waiting.values())

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._inside.total()

    def ask(self, group: str, who: T) -> None:
        """Stand in line."""
        self._waiting.setdefault(group, deque()).append(who)

    def forget(self, group: str, who: T) -> None:
        """It does not wait any more; unknown ones are fine."""
        line = self._waiting.get(group)
        if line is not None and who in line:
            line.remove(who)
            if not line:
                del self._waiting[group]

    def leave(self, group: str) -> None:
        """One of the group is done."""
        self._inside[group] -= 1
        if self._inside[group] <= 0:
            del self._inside[group]

    def next(self, now: float) -> T | float | None:
        """Who goes in now; else seconds until it may be asked again; None: when someone asks or leaves."""
        group = self._group()
        if group is None:
            return None
        if not self._budget.take(now):
            return max(self._budget.wait(now), LEAST_WAIT)
        line = self._waiting.pop(group)
        who = line.popleft()
        if line:
            self._waiting[group] = line
        self._inside[group] += 1
        return who

    def _group(self) -> str | None:
        if self._inside.total() >= self._places:
            return None
        return next((group for group in self._waiting if self._inside[group] < self._share), None)


class Spread:
    """Moments that lie apart by a rate, given away one after the other."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._next = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next free moment, which is taken with that."""
        at = max(now, self._next)
        self._next = at + self._step
        return at - now
