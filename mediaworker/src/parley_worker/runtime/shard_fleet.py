"""Keeps the shards of a worker alive: starts them, listens for signs of life, starts lost ones again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from parley_worker.clock import Clock
from parley_worker.codec.shard_frames import Boot, Kind, Ready
from parley_worker.core.shards import LossCause, Pauses, Silence
from parley_worker.runtime import orphans
from parley_worker.runtime.front import Front
from parley_worker.runtime.shard_process import ShardProcess
from parley_worker.runtime.starter import Starter
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.telemetry.process_metrics import SupervisorMetrics
from parley_worker.transport.shard_link import LinkLost

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""For a process to import everything and serve."""
LOOK_SECONDS = 0.25
MOST_SLEPT = 0.5
METRICS_SECONDS = 1.0
LOST_GRACE = 0.5
"""For a process whose link is gone to end by itself, and say how."""


class _Shard:
    """One place for a shard and who keeps it."""

    def __init__(self, boot: Boot, now: float) -> None:
        self.boot = boot
        self.pauses = Pauses()
        self.silence = Silence(now, MOST_SLEPT)
        self.process: ShardProcess | None = None
        self.first: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()


class ShardFleet:
    """The processes of all shards.

    `boots` says what each is, `environment` is that of their processes, `starter` starts them. A shard of
    which nothing is heard for `timeout` seconds is killed. `closing` seconds are what a shard may take to end
    when the worker does.
    """

    def __init__(
        self,
        boots: list[Boot],
        *,
        starter: Starter,
        environment: Mapping[str, str],
        front: Front,
        supervisor: Supervisor,
        clock: Clock,
        metrics: SupervisorMetrics,
        timeout: float,
        closing: float,
    ) -> None:
        now = clock.monotonic()
        self._shards = [_Shard(boot, now) for boot in boots]
        self._front, self._supervisor, self._clock, self._metrics = front, supervisor, clock, metrics
        self._timeout, self._closing = timeout, closing
        self._starter, self._environment = starter, environment
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self.starts = 0

    async def start(self) -> list[Ready]:
        """Start every shard and wait until all serve; OSError names one that does not."""
        self._supervisor.spawn("shards-watchdog", self._watch(), vital=True)
        self._keepers = [
            self._supervisor.spawn(f"shard-{shard.boot.shard}", self._keep(shard), vital=True)
            for shard in self._shards
        ]
        return list(await asyncio.gather(*(shard.first for shard in self._shards)))

    async def stop(self) -> None:
        """Let every shard end what it has within the closing time, then kill it."""
        self._stopping.set()
        for shard in self._shards:
            if shard.process is not None:
                shard.process.link.close()
        if self._keepers:
            await asyncio.wait(self._keepers)
        for shard in self._shards:
            shard.first.cancel()

    def pids(self) -> list[int]:
        """Of the shards, in order; 0 for one that is down."""
        return [shard.process.pid if shard.process is not None else 0 for shard in self._shards]

    async def metrics_pages(self) -> dict[str, str]:
        """The metrics of every shard that answers within a second, by its number."""
        links = self._front.links()

        async def page(index: int) -> tuple[str, str] | None:
            try:
                async with asyncio.timeout(METRICS_SECONDS):
                    return str(index), (await links[index].call(Kind.METRICS)).decode()
            except (TimeoutError, LinkLost):
                return None

        found = await asyncio.gather(*(page(index) for index in links))
        return dict(pair for pair in found if pair is not None)

    # One shard

    async def _keep(self, shard: _Shard) -> None:
        index = shard.boot.shard
        while True:
            began = self._clock.monotonic()
            self.starts += 1
            cause, words = await self._live(shard)
            stopping = self._stopping.is_set() or self._front.draining
            self._front.shard_lost(index, f"shard {index} of the worker {words}", again=not stopping)
            if not self._stopping.is_set():
                self._metrics.shard_lost(index, cause)
            if stopping:
                return
            if not shard.first.done():
                shard.first.set_exception(OSError(f"shard {index} {words}"))
                shard.first.exception()
                return
            pause = shard.pauses.after(self._clock.monotonic() - began)
            log.error("shard %d %s; it is started again in %.1f s", index, words, pause)
            if await self._told_to_stop(pause):
                return
            self._front.shard_starting(index)

    async def _live(self, shard: _Shard) -> tuple[LossCause, str]:
        """One process, from its start until it is gone; how it ended."""
        hear = partial(self._front.shard_heard, shard.boot.shard)
        process = ShardProcess(shard.boot, self._starter, self._environment, hear, shard.silence.heard)
        served, failed = False, ""
        try:
            await process.start()
            shard.process = process
            shard.silence.heard()
            if self._stopping.is_set():
                process.link.close()
            served = await self._serve(shard, process)
        except OSError as error:
            failed = f"did not start: {error}"
        finally:
            cause, words = await process.end(self._closing if self._stopping.is_set() else LOST_GRACE)
            shard.process = None
        if served:
            return cause, words
        return LossCause.START, failed or f"{words} before it served"

    async def _serve(self, shard: _Shard, process: ShardProcess) -> bool:
        """Until the process is gone; false when it never served. OSError says why it did not."""
        reading = self._supervisor.spawn(f"shard-{shard.boot.shard}-link", process.link.run())
        try:
            await asyncio.wait(
                {reading, process.ready}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not process.ready.done():
                if not reading.done():
                    raise OSError(f"it did not serve within {START_SECONDS:g} s")
                return False
            ready = process.ready.result()
            self._front.shard_up(shard.boot.shard, process.link, ready.endpoint)
            if not shard.first.done():
                shard.first.set_result(ready)
            await asyncio.wait({reading})
            return True
        finally:
            process.link.close()
            process.ready.cancel()
            await asyncio.wait({reading})

    async def _told_to_stop(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _watch(self) -> None:
        """Kill what gives no sign of life, and bury what dead shards left."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            orphans.bury()
            now = self._clock.monotonic()
            for shard in self._shards:
                quiet = shard.silence.look(now)
                self._front.shard_quiet(shard.boot.shard, quiet)
                if shard.process is None or not shard.process.ready.done() or quiet < self._timeout:
                    continue
                log.error("nothing was heard of shard %d for %.1f s", shard.boot.shard, quiet)
                shard.process.kill_silent()
                shard.silence.heard()
