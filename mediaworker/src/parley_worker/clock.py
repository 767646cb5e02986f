"""The worker's clocks: the only module that reads wall time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks. Durations use `monotonic`, timestamps that leave the process use `wall`."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""

    def wall(self) -> float:
        """Seconds since the Unix epoch."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
