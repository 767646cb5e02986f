"""Token buckets by key: how often somebody may do something."""

from __future__ import annotations

from collections import OrderedDict


class Buckets:
    """`rate` a second and `burst` at once for each key; of more than `keys` keys the least recently used is
    forgotten, which only ever forgives."""

    def __init__(self, rate: float, burst: float, keys: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._keys = keys
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def left(self, key: str, now: float) -> float:
        """What may be taken at `now` (seconds of a clock that never goes back)."""
        level, at = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + max(0.0, now - at) * self._rate)

    def take(self, key: str, now: float) -> bool:
        """Take one; false when there is none, and nothing is taken."""
        left = self.left(key, now)
        if left < 1:
            return False
        self._levels[key] = (left - 1, now)
        self._levels.move_to_end(key)
        while len(self._levels) > self._keys:
            self._levels.popitem(last=False)
        return True
