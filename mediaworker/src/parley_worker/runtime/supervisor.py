"""Owns every task of the process: names them, catches their crashes, ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from parley_worker.telemetry.process_metrics import ProcessMetrics

log = logging.getLogger(__name__)


class Supervisor:
    """The only creator of tasks.

    A crash is logged, counted and told to `on_crash`; it touches no other task. The crash of a task spawned
    with `vital=True` takes the process down: `failed` then holds its error.
    """

    def __init__(self, metrics: ProcessMetrics) -> None:
        self._metrics = metrics
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def spawn(
        self,
        name: str,
        work: Coroutine[Any, Any, Any],
        *,
        on_crash: Callable[[BaseException], None] | None = None,
        vital: bool = False,
    ) -> asyncio.Task[Any]:
        """Run `work` until it ends or `stop` cancels it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is None:
                return
            self._metrics.task_crashed()
            log.error("task %s crashed: %s", name, type(error).__name__, exc_info=error)
            if on_crash:
                on_crash(error)
            if vital and not self.failed.done():
                self.failed.set_result(error)

        task.add_done_callback(done)
        return task

    async def stop(self, timeout: float = 5.0) -> None:
        """Cancel every task and wait for the end of all, `timeout` seconds at most."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                log.error("task %s did not end when cancelled", task.get_name())
