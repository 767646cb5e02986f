"""The only reader of the wall clock."""

from __future__ import annotations

import time


def epoch_of_loop(now: float) -> float:
    """What to add to event loop time to get unix time, given the loop's `now`."""
    return time.time() - now
