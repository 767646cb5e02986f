"""The composition root of a worker with shards: the supervisor, which runs no session itself."""

from __future__ import annotations

import json
import os
import uuid
from types import TracebackType
from typing import Self

from parley_worker import __version__, cores, heap, scheduling
from parley_worker.clock import SystemClock
from parley_worker.codec.exposition import merge
from parley_worker.codec.shard_frames import Boot, Ready
from parley_worker.compiled import is_compiled
from parley_worker.config import Settings
from parley_worker.core.admission import Admission, WorkerState
from parley_worker.core.lost import LostSession
from parley_worker.doors import Doors, default_limits, identity, nats_settings
from parley_worker.runtime.drain import CLOSING_SECONDS, END_SECONDS, Drain, end_at_once
from parley_worker.runtime.front import Front
from parley_worker.runtime.shard_fleet import ShardFleet
from parley_worker.runtime.starter import Starter
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.sharding import core_of, resolved, settings_of
from parley_worker.telemetry.lag import LagProbe
from parley_worker.telemetry.memory import own_memory
from parley_worker.telemetry.process_metrics import WORKER_WIDE, SupervisorMetrics
from parley_worker.transport.front_server import FrontControl
from parley_worker.transport.nats_ends import LostEnds

ENDS_SECONDS = 2.0
"""For the ends of sessions that were lost at the very end."""


class ShardedApp:
    """One worker of several processes: `async with ShardedApp(settings) as app: ...`.

    Inside, every shard serves; `readies` says where. This process keeps the nice value that it is given.
    Leaving the block ends live sessions at once; `drain.begin(seconds)` and then `drain.done.wait()` let them
    go on. ConfigError: the settings do not fit.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = resolved(settings.validated())
        self.instance = uuid.uuid4().hex
        self.metrics = SupervisorMetrics(__version__)
        self.control_address = self.admin_address = ""
        self.readies: list[Ready] = []

    async def __aenter__(self) -> Self:
        self._starter = Starter()
        scheduling.give_way(self.settings.supervisor_nice)
        self._build()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end_at_once(self.drain)
        await self._stop()

    def _build(self) -> None:
        settings, metrics, clock = self.settings, self.metrics, SystemClock()
        self.supervisor = Supervisor(metrics)
        self.lag = LagProbe(metrics)
        self.front = Front(
            admission=Admission(settings.capacity, self.instance),
            shards=settings.shards,
            clock=clock,
            metrics=metrics,
            on_lost=self._on_lost,
            watch_buffer=settings.watch_buffer,
        )
        self._ends = None
        if settings.nats_url:
            connection = nats_settings(settings, "supervisor")
            self._ends = LostEnds(connection, worker=settings.name, instance=self.instance, metrics=metrics)
        self.drain = Drain(self.front, self.supervisor, clock, self._on_drain)
        control = FrontControl(
            identity=identity(settings, self.instance),
            registry=self.front,
            spawn=self.supervisor.spawn,
            last_word=self._ends.add if self._ends is not None else None,
            drain=self.drain,
            sink=self.front,
            metrics=metrics,
            limits=default_limits(settings),
            heartbeat=settings.watch_heartbeat,
            memory=self._memory,
        )
        self._doors = Doors(settings, control, self._render, self._not_ready)
        self.fleet = ShardFleet(
            self._boots(),
            starter=self._starter,
            environment=heap.environment() if settings.huge_pages else os.environ,
            front=self.front,
            supervisor=self.supervisor,
            clock=clock,
            metrics=metrics,
            timeout=settings.shard_timeout,
            closing=END_SECONDS + settings.flush_timeout + CLOSING_SECONDS,
        )

    def _boots(self) -> list[Boot]:
        available = cores.affinity()
        return [
            Boot(
                shard=index,
                instance=self.instance,
                supervisor_pid=os.getpid(),
                core=core_of(self.settings, index, available),
                settings=settings_of(self.settings, index).environ(),
            )
            for index in range(self.settings.shards)
        ]

    def _on_lost(self, lost: LostSession) -> None:
        if self._ends is not None:
            self._ends.add(lost)

    def _on_drain(self) -> None:
        self.supervisor.spawn("health", self._doors.serving(False))

    def _memory(self) -> int:
        return own_memory(*self.fleet.pids())

    async def _render(self) -> bytes:
        pages = await self.fleet.metrics_pages()
        return merge(self.metrics.render().decode(), pages, WORKER_WIDE).encode()

    def _not_ready(self) -> str | None:
        state = self.front.admission.state
        if state is not WorkerState.READY:
            return str(state.value)
        return None if self.front.up else "no shard is up"

    async def _start(self) -> None:
        self.supervisor.spawn("lag", self.lag.run(), vital=True)
        if self._ends is not None:
            self.supervisor.spawn("lost-ends", self._ends.run(), vital=True)
        self.control_address, self.admin_address = await self._doors.start()
        self.readies = await self.fleet.start()
        await self._doors.serving(True)
        self.front.become(WorkerState.READY)

    async def _stop(self) -> None:
        self.front.become(WorkerState.STOPPED)
        await self.fleet.stop()
        self._starter.close()
        if self._ends is not None:
            await self._ends.close(min(ENDS_SECONDS, self.settings.flush_timeout))
        await self._doors.stop()
        await self.supervisor.stop()

    def ready_line(self) -> str:
        """What the process prints when it is ready: one line of JSON. `media`, for one, is the first's."""
        first, pids = self.readies[0], self.fleet.pids()
        return json.dumps(
            {
                "ready": True,
                "media": first.media,
                "control": self.control_address,
                "admin": self.admin_address,
                "endpoint": first.endpoint.address,
                "telephony": first.endpoint.telephony,
                "instance": self.instance,
                "compiled": is_compiled(),
                "shards": [
                    {
                        "pid": pid,
                        "media": ready.media,
                        "endpoint": ready.endpoint.address,
                        "telephony": ready.endpoint.telephony,
                    }
                    for pid, ready in zip(pids, self.readies, strict=True)
                ],
            }
        )
