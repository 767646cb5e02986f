"""What every process of a worker measures: itself, its event loop, and the places that it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from parley_worker.compiled import is_compiled

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "parley_worker_"
LATENESS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
SLICE_SECONDS = 0.001
"""For so long a page is written before others have their turn."""
WORKER_WIDE = frozenset(
    PREFIX + name
    for name in (
        *("build_info", "capacity_sessions", "draining", "admissions_total", "admission_refusals_total"),
        *("sessions_ended_total", "shard_up", "shard_losses_total", "shard_ends_written_total"),
    )
)
"""Families that the process that gives the places shows for the whole worker, without a label `shard`."""

# The client library would add a `_created` series to every counter and histogram.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class _One(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class ProcessMetrics:
    """The numbers of a process, in a registry of its own; one method per fact, no label per session."""

    def __init__(self, version: str = "") -> None:
        self.registry = r = CollectorRegistry()
        self._refresh: list[Callable[[], None]] = []
        prometheus_client.ProcessCollector(registry=r)
        prometheus_client.GCCollector(registry=r)
        p = PREFIX
        text = "Version of the worker, and whether its hot modules are compiled; always 1."
        info = Gauge(p + "build_info", text, ["version", "compiled"], registry=r)
        info.labels(version or "unknown", str(is_compiled()).lower()).set(1)
        self._capacity = Gauge(p + "capacity_sessions", "Sessions that this worker runs at most.", registry=r)
        self._draining = Gauge(p + "draining", "1 while the worker drains.", registry=r)
        self._admissions = Counter(p + "admissions_total", "Sessions admitted.", registry=r)
        self._refusals = Counter(
            p + "admission_refusals_total", "Admissions refused, by reason.", ["reason"], registry=r
        )
        self._ended = Counter(
            p + "sessions_ended_total", "Sessions ended, by endReason.", ["reason"], registry=r
        )
        self._lag = Histogram(
            p + "event_loop_lag_seconds",
            "How late timers of the event loop fire.",
            buckets=LATENESS,
            registry=r,
        )
        self._crashes = Counter(
            p + "task_crashes_total", "Tasks that ended with an unexpected error.", registry=r
        )

        self._tasks = Gauge(p + "tasks", "Tasks of the event loop.", registry=r)
        self._refresh.append(self._count_tasks)

    def refreshed_by(self, refresh: Callable[[], None]) -> None:
        """Call it before the metrics are told: for gauges of what changes more often than anybody looks."""
        self._refresh.append(refresh)

    def render(self) -> bytes:
        """The text exposition of every metric, at once."""
        return b"".join(self._families())

    async def page(self) -> bytes:
        """As `render`, by turns with whatever else the event loop has to do: a page takes it as long as a
        hundred frames of audio."""
        pieces: list[bytes] = []
        began = perf_counter()
        for piece in self._families():
            pieces.append(piece)
            if perf_counter() - began > SLICE_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
        return b"".join(pieces)

    def _families(self) -> Iterator[bytes]:
        for refresh in self._refresh:
            refresh()
        for family in self.registry.collect():
            yield generate_latest(_One(family))

    def _count_tasks(self) -> None:
        try:
            self._tasks.set(len(asyncio.all_tasks()))
        except RuntimeError:
            self._tasks.set(0)  # No loop runs here.

    def capacity(self, sessions: int) -> None:
        self._capacity.set(sessions)

    def draining(self) -> None:
        self._draining.set(1)

    def admitted(self) -> None:
        self._admissions.inc()

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def session_ended(self, reason: str) -> None:
        self._ended.labels(reason).inc()

    def task_crashed(self) -> None:
        self._crashes.inc()

    def loop_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)


class SupervisorMetrics(ProcessMetrics):
    """The numbers of the process that supervises shards."""

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        r, p = self.registry, PREFIX
        self._up = Gauge(p + "shard_up", "1 while the shard serves.", ["shard"], registry=r)
        self._losses = Counter(
            p + "shard_losses_total",
            "Shards that were lost and started again, by shard and cause (start, exit, signal, silent).",
            ["shard", "cause"],
            registry=r,
        )
        self._written = Counter(
            p + "shard_ends_written_total",
            "Sessions of lost shards by what became of the records of their end (written, fenced, dropped).",
            ["outcome"],
            registry=r,
        )

    def shard_up(self, shard: int, up: bool) -> None:
        self._up.labels(str(shard)).set(up)

    def shard_lost(self, shard: int, cause: str) -> None:
        self._losses.labels(str(shard), cause).inc()

    def end_written(self, outcome: str) -> None:
        """`outcome` is `written`, `fenced` (a newer attempt writes) or `dropped`."""
        self._written.labels(outcome).inc()
