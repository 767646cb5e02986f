"""The garbage collector of a process that speaks in real time: often among the young, among all when it is
quiet."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from parley_worker.core.garbage import CollectionPlan, Moment

log = logging.getLogger(__name__)

YOUNG = 1000
"""Objects until the youngest are looked through, in half a millisecond..."""
MIDDLE = 3
"""...and so many times, until what is left of them is once more, in two."""
NEVER = 1_000_000_000
LOOK_SECONDS = 1.0


def settle() -> None:
    """Call once, when everything is imported and before sessions: what is there now is never looked through
    again, and old objects only when `GarbageKeeper` says so."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


class GarbageKeeper:
    """Looks once a second whether everything should be looked through. `run()` is its task.

    `ended` counts the sessions that ended so far, `live` those that live, `playing` those whose answer plays;
    `told` is given the seconds that a collection took.
    """

    def __init__(
        self,
        ended: Callable[[], int],
        live: Callable[[], int],
        playing: Callable[[], int],
        told: Callable[[float], None],
    ) -> None:
        self._ended, self._live, self._playing, self._told = ended, live, playing, told
        self._plan = CollectionPlan(time.monotonic())
        self._ended_before = 0
        self._memory_before = _resident()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(time.monotonic())

    def look(self, now: float) -> bool:
        """Collect when it is the moment; True when that was done."""
        ended = self._ended()
        moment = Moment(
            ended - self._ended_before, self._live(), self._playing(), _resident() - self._memory_before
        )
        if not self._plan.due(moment, now):
            return False
        began = time.perf_counter()
        gc.collect()
        took = time.perf_counter() - began
        self._told(took)
        self._ended_before, self._memory_before = ended, _resident()
        log.debug("looked for garbage for %.0f ms after %d sessions", took * 1000, moment.ended)
        return True


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident() -> int:
    """Bytes of memory of this process; 0 where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
