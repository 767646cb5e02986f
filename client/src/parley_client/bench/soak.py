"""`parley bench soak`: a worker at a share of its capacity for a long time, with calls coming and going."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from parley_client.bench import proc
from parley_client.bench.loadgen import CallFailed
from parley_client.bench.measure import Note, measure_window
from parley_client.bench.rows import Row, latencies, mib_per_session
from parley_client.bench.steadiness import Sample, judge
from parley_client.bench.systems import System, Variant
from parley_client.bench.windows import Point, Window, marks
from parley_client.errors import ParleyError

WINDOW_S: Final = 10.0
COOL_S: Final = 5.0
"""After the last call: what its end leaves behind is gone by then."""
NOTE_EACH: Final = 6


class Churn:
    """Keeps so many calls talking: each lasts half to one and a half times the mean, another follows."""

    def __init__(self, system: System, mean_s: float, seed: int = 1) -> None:
        self._system, self._mean = system, mean_s
        self._random = random.Random(seed)
        self.ended = 0
        self.failed: list[CallFailed] = []

    async def run(self, sessions: int) -> None:
        """Until cancelled; the calls that talk stay."""
        async with asyncio.TaskGroup() as group:
            for number in range(sessions):
                group.create_task(self._line(number / sessions))

    async def _line(self, phase: float) -> None:
        # The calls that talk already end one by one over the first mean length.
        length = phase * self._mean
        while True:
            await asyncio.sleep(length)
            try:
                if self._system.sids:
                    await self._system.end_call(self._system.sids[0])
                    self.ended += 1
                await self._system.begin_call()
            except CallFailed as failure:
                self.failed.append(failure)
            length = self._mean * self._random.uniform(0.5, 1.5)


async def alone(system: System, at: float) -> Sample:
    """The worker without a call."""
    pids = system.worker_pids()
    tree = await asyncio.to_thread(proc.read_tree, pids) if pids else None
    told = await system.told()
    return Sample(
        at=at,
        sessions=len(system.sids),
        memory_mib=tree.memory_mib if tree else None,
        fds=tree.fds if tree else None,
        tasks=told.tasks,
        underruns=0,
        drops=0,
        marked=False,
        underruns_told=told.underruns,
    )


def sample(sessions: int, window: Window, at: float, marked: bool) -> Sample:
    """What a window saw, and the worker at its end: reading that anew would disturb the next window."""
    traffic, machine = window.traffic, window.machine
    return Sample(
        at=at,
        sessions=sessions,
        memory_mib=machine.memory_mib,
        fds=machine.fds,
        tasks=machine.tasks,
        underruns=traffic.underruns,
        drops=traffic.drops_up + traffic.drops_down,
        marked=marked,
        steal_ms=machine.steal_ms,
        stall_ms=traffic.stall.quantile(1.0),
        lag_ms=traffic.lag.quantile(1.0),
        underruns_told=machine.underruns_told,
        late_ms=traffic.down.quantile(1.0),
        starved=traffic.starved,
    )


async def run(
    make: Callable[[Variant], System], variant: Variant, capacity: int, machine: str, note: Note
) -> dict[str, Any]:
    """One soak: `rows` with one row, `series` with a sample for each window, and the verdicts."""
    async with make(variant) as system:
        scenario = system.scenario
        plan = scenario.soak
        sessions = max(1, round(capacity * plan.share))
        base = await alone(system, 0.0)
        await system.grow_to(sessions)
        await asyncio.sleep(scenario.windows.settle_s)
        churn = Churn(system, plan.call_s)
        coming = asyncio.create_task(churn.run(sessions), name="calls that come and go")
        loop = asyncio.get_running_loop()
        began = loop.time()
        measured: list[tuple[Window, tuple[str, ...]]] = []
        series: list[Sample] = []
        try:
            while loop.time() - began < plan.minutes * 60 and not coming.done():
                window = await measure_window(system, WINDOW_S)
                why = marks(window, scenario.windows)
                measured.append((window, why))
                series.append(sample(len(system.sids), window, loop.time() - began, bool(why)))
                if len(series) % NOTE_EACH == 0:
                    note(_words(series, churn))
        finally:
            coming.cancel()
            await asyncio.wait([coming])
        if not coming.cancelled() and coming.exception() is not None:
            raise ParleyError(f"the calls stopped coming: {coming.exception()!r}")
        churn.failed += system.failures()
        point = Point.of(sessions, measured, len(churn.failed), system.cpus)
        memory = mib_per_session(point, system.base_mib)
        await system.grow_to(0)
        await asyncio.sleep(COOL_S)
        after = await alone(system, loop.time() - began)
        verdict = judge(series, base, after, len(churn.failed), plan)
        row: Row = {
            "system": variant.system,
            "transport": variant.transport,
            "tls": variant.tls,
            "label": variant.label,
            "capacity": capacity,
            "share": plan.share,
            "sessions_per_core": round(capacity / system.cpus, 2),
            "mib_per_session": memory,
            **point.shown(scenario.slo),
            **latencies(point),
            "underruns": verdict["underruns_unexplained"] + verdict["underruns_explained"],
            "drops": verdict["drops"],
            "calls_ended": churn.ended,
            "versions": system.versions(),
            "machine": machine,
        }
        return {
            "rows": [row],
            "soak": verdict,
            "failures": [str(failure) for failure in churn.failed[:20]],
            "base": _shown(base),
            "after": _shown(after),
            "series": [_shown(s) for s in series],
        }


def _shown(s: Sample) -> dict[str, Any]:
    return {
        "at_s": round(s.at, 1),
        "steal_ms": s.steal_ms,
        "stall_ms": s.stall_ms,
        "lag_ms": s.lag_ms,
        "underruns_told": s.underruns_told,
        "sessions": s.sessions,
        "memory_mib": None if s.memory_mib is None else round(s.memory_mib, 2),
        "fds": s.fds,
        "tasks": s.tasks,
        "underruns": s.underruns,
        "late_ms": s.late_ms,
        "starved": s.starved,
        "drops": s.drops,
        "marked": s.marked,
    }


def _words(series: Sequence[Sample], churn: Churn) -> str:
    s = series[-1]
    underruns, drops = sum(each.underruns for each in series), sum(each.drops for each in series)
    memory = "" if s.memory_mib is None else f", {s.memory_mib:.0f} MiB"
    return (
        f"{s.at / 60:.1f} min: {s.sessions} sessions, {churn.ended} calls ended{memory}, {s.fds} descriptors,"
        f" {underruns} underruns, {drops} drops"
    )
