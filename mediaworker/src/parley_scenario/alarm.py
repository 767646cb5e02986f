"""A limit on how long the event loop may be held: past it the line that holds it raises.

The loop's selector arms the alarm when it hands over events and disarms it when it waits again, so every
handler, step of a coroutine and callback is covered, and nothing else.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.5
"""Code that swallows the first alarm gets another one so much later, and is not asked a third time."""

MAX_POSTPONED = 3
"""How often a process that waited for a CPU meanwhile is given the whole time once more."""


class HandlerTimeout(BaseException):
    """Code held the event loop for too long. Not an Exception: `except Exception` shall not swallow it."""


class Alarm:
    """SIGALRM of this process. `stubborn(frame)` is called when code goes on after the first alarm."""

    def __init__(self, seconds: float, stubborn: Callable[[FrameType | None], None]) -> None:
        self._seconds = seconds
        self._stubborn = stubborn
        self._rung, self._postponed, self._starved = False, 0, 0.0
        signal.signal(signal.SIGALRM, self._ring)

    def arm(self) -> None:
        """Code begins to run."""
        self._rung, self._postponed, self._starved = False, 0, starved_seconds()
        signal.setitimer(signal.ITIMER_REAL, self._seconds, AGAIN_SECONDS)

    def disarm(self) -> None:
        """It has ended."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._postponed < MAX_POSTPONED and starved_seconds() - self._starved > self._seconds / 4:
            self._postponed, self._starved = self._postponed + 1, starved_seconds()
            signal.setitimer(signal.ITIMER_REAL, self._seconds, AGAIN_SECONDS)
            return
        if self._rung:
            self.disarm()
            self._stubborn(frame)
            os._exit(1)
        self._rung = True
        raise HandlerTimeout(f"held the scenario for more than {self._seconds:g} s")


def starved_seconds() -> float:
    """How long this thread was ready to run and had to wait for a CPU; not the scenario's fault."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class GuardedSelector(selectors.DefaultSelector):
    """Disarms the alarm while it waits."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__()
        self._alarm = alarm

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        """See the base class."""
        self._alarm.disarm()
        events = super().select(timeout)
        self._alarm.arm()
        return events
