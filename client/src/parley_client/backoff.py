"""When to try again. Pure: the random source is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter between the floor and a growing ceiling.

    Args:
        first: ceiling of the first delay, in seconds.
        highest: no ceiling is above this.
        factor: growth of the ceiling.
        floor: no delay is below this.
    """

    first: float = 0.2
    highest: float = 3.0
    factor: float = 2.0
    floor: float = 0.05

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the seconds to wait before try number `attempt` (1 is the first repetition).

        `random` gives numbers from 0 to 1.
        """
        ceiling = min(self.highest, self.first * self.factor ** min(attempt - 1, 32))
        return self.floor + (ceiling - self.floor) * random()
