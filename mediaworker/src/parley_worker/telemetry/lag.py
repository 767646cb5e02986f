"""How late the event loop runs its timers: measured always, and a reason to admit nothing when it is high."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from statistics import median

from parley_worker.telemetry.process_metrics import ProcessMetrics

INTERVAL = 0.1
KEPT = 30
SLEPT_SECONDS = 2.0


class LagProbe:
    """Sleeps 100 ms again and again; the median lateness of the last 30 naps is the loop's lag."""

    def __init__(self, metrics: ProcessMetrics) -> None:
        self._metrics = metrics
        self._last: deque[float] = deque(maxlen=KEPT)
        self.on_sleep: Callable[[], None] = lambda: None
        """Called when the process did nothing at all for longer than others wait for it."""

    @property
    def seconds(self) -> float:
        return median(self._last) if self._last else 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            start = loop.time()
            await asyncio.sleep(INTERVAL)
            self.observe(max(0.0, loop.time() - start - INTERVAL))

    def observe(self, lag: float) -> None:
        if lag >= SLEPT_SECONDS:
            self.on_sleep()
        self._last.append(lag)
        self._metrics.loop_lag(lag)
