"""How much of something may come: a rate with a burst."""

from __future__ import annotations


class Budget:
    """`burst` at once, and `rate` a second after it. Every `now` is monotonic seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._at: float | None = None

    def wait(self, now: float, amount: float = 1) -> float:
        """Seconds until there is so much; 0 when there is."""
        left = self._left if self._at is None else self._left + (now - self._at) * self._rate
        return max(0.0, (amount - left) / self._rate)

    def take(self, now: float, amount: float = 1) -> bool:
        """Take so much; False, and nothing is taken, when less is left."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True
