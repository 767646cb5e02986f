"""A worker as a process: hardened, logging, serving until a signal drains it."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import uvloop
from parley_scenario.sandbox import hide_memory

from parley_worker.compiled import is_compiled
from parley_worker.config import Settings
from parley_worker.runtime import orphans
from parley_worker.runtime.drain import Drain, within_grace
from parley_worker.runtime.garbage import settle
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.telemetry import logging as log_setup

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.001
"""How long a thread that computes may keep the event loop waiting; Python's own default is 5 ms."""


class App(Protocol):
    """A worker, whether it has shards or not."""

    @property
    def instance(self) -> str: ...

    @property
    def supervisor(self) -> Supervisor: ...

    @property
    def drain(self) -> Drain: ...

    def ready_line(self) -> str: ...


async def serve(settings: Settings, worker: AbstractAsyncContextManager[App]) -> int:
    """Serve until told to end by SIGTERM or SIGINT, then drain within the grace given; returns the exit code.

    A second signal ends the sessions that are left at once. In a pod a second SIGTERM does not: there it
    comes from a kubelet that stops the container once more, and not from somebody in a hurry.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with worker as app:
        if not settings.shards:
            settle()
        facts = {"settings": settings.shown(), "instance": app.instance, "compiled": is_compiled()}
        log.info("ready", extra={"fields": facts})
        sys.stdout.write(app.ready_line() + "\n")
        sys.stdout.flush()
        first = app.supervisor.spawn("signal", signals.get())
        await asyncio.wait({first, app.supervisor.failed}, return_when=asyncio.FIRST_COMPLETED)
        if app.supervisor.failed.done():
            first.cancel()
            log.critical("a vital task crashed: ending")
            return 1
        grace, flush = settings.termination_grace, settings.flush_timeout
        app.drain.begin(within_grace(settings.drain_timeout, grace, flush))
        second = app.supervisor.spawn("signal", _in_a_hurry(signals, in_pod=bool(settings.pod_uid)))
        over = app.supervisor.spawn("drained", app.drain.done.wait())
        await asyncio.wait({second, over}, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        over.cancel()
    log.info("ended")
    return 0


async def _in_a_hurry(signals: asyncio.Queue[signal.Signals], *, in_pod: bool) -> None:
    """Until a signal asks to end at once."""
    while await signals.get() is signal.SIGTERM and in_pod:
        log.info("told to end once more: the drain goes on")


def run(settings: Settings, work: Coroutine[Any, Any, int], **log_fields: str) -> int:
    """Run `work` in a hardened process; returns its exit code."""
    harden()
    if settings.shards:
        orphans.adopt()
    log_setup.set_up(settings.log_format, settings.log_level, {"worker": settings.name, **log_fields})
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    factory = uvloop.new_event_loop if settings.uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def harden() -> None:
    """Provider keys live in memory: no core dumps, and nothing else of this user may look in."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hide_memory()
