"""`parley bench storm`: many arrivals in a second, more than there is room for: calm for who is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from parley_client.bench.histogram import Histogram
from parley_client.bench.loadgen import CallFailed
from parley_client.bench.measure import Note, measure, measure_window
from parley_client.bench.rows import Row, latencies, number
from parley_client.bench.storm_phases import CALM, Offered, Phase, judge, whole
from parley_client.bench.systems import System, Variant
from parley_client.bench.windows import marks
from parley_client.errors import UsageError

CLEAN: Final = frozenset({"FULL", "OVERLOADED", "DRAINING"})
"""Words with which a worker refuses; anything else is a failure."""
TRIES: Final = 5
FEWER: Final = 0.92
"""Of the places: what is tried next where calm misses the SLO."""
COLUMNS: Final = (
    *("phase", "sessions", "offered", "admitted", "refused", "refused in ms p99", "up p99", "down p99"),
    *("first p99", "underruns", "drops", "cores", "left out"),
)


async def offer(system: System, calls: int, rate: float) -> Offered:
    """So many calls at `rate` a second, on an absolute schedule."""
    result = Offered()
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        result.offered += 1
        asked = time.monotonic()
        try:
            await system.begin_call()
        except CallFailed as failure:
            if failure.status in CLEAN:
                result.refused[failure.status] += 1
                result.refused_ms.append((time.monotonic() - asked) * 1000)
            else:
                result.failed.append(str(failure))
        else:
            result.admitted += 1
            result.started_ms.append((time.monotonic() - asked) * 1000)

    async with asyncio.TaskGroup() as group:
        for number in range(calls):
            group.create_task(one(number))
    return result


class Phases(dict[str, Phase]):
    """By name, in the order of a round."""

    async def measure(self, system: System, name: str, calls: int, note: Note) -> None:
        """One window, with so many calls offered in it."""
        plan = system.scenario.storm
        phase = self.setdefault(name, Phase(name))
        window, offered = await asyncio.gather(
            measure_window(system, plan.window_s), offer(system, calls, plan.arrivals_per_s)
        )
        phase.sessions = len(system.sids)
        phase.windows.append((window, marks(window, system.scenario.windows)))
        phase.offered.add(offered)
        refused = dict(offered.refused)
        note(f"{name}: {phase.sessions} sessions, {offered.admitted} admitted, {refused} refused")


async def fit(make: Callable[..., System], variant: Variant, capacity: int, note: Note) -> tuple[int, bool]:
    """How many sessions the machine as it is now carries within the SLO, of `capacity` at most, and whether
    that many were found: one that has become slower since the capacity was measured is beyond its limit
    before a storm begins."""
    sessions = capacity
    async with make(variant, capacity=capacity) as system:
        for _ in range(TRIES):
            point = await measure(system, sessions, note)
            if point.meets(system.scenario.slo):
                return sessions, True
            note(
                f"{sessions} sessions miss the SLO when calm: {'; '.join(point.misses(system.scenario.slo))}"
            )
            sessions = max(2, round(sessions * FEWER))
    return sessions, False


async def run(
    make: Callable[..., System], variant: Variant, capacity: int, machine: str, note: Note
) -> dict[str, Any]:
    """The phases of all storms, as `rows`, and what follows from them.

    A round: calm at the first sessions; arrivals at the storm's rate; calm again; places filled to the last;
    offers past them, refused; calm. There are as many rounds as it takes for `rounds` that nothing disturbed.
    """
    if capacity < 2:
        raise UsageError(f"--capacity {capacity}: a storm needs a worker of 2 sessions or more")
    places, fits = await fit(make, variant, capacity, note)
    async with make(variant, capacity=places) as system:
        plan, phases = system.scenario.storm, Phases()
        for number in range(max(plan.rounds, plan.rounds_bound)):
            note(f"round {number + 1}")
            await _round(system, phases, places, note)
            if all(len(whole(phases, loud)) >= plan.rounds for loud in CALM):
                break
        failures = [str(failure) for failure in system.failures()]
        rows = [_row(phase, variant, places, system, machine) for phase in phases.values()]
        found = judge(phases, failures, system.scenario, fits=fits)
        return {"rows": rows, "storm": {"places": places, "capacity": capacity, **found}}


async def _round(system: System, phases: Phases, places: int, note: Note) -> None:
    plan = system.scenario.storm
    arrivals = min(plan.arrivals, places - 1)
    first = max(1, min(round(plan.share * places), places - arrivals))
    await _settle(system, first)
    await phases.measure(system, "calm", 0, note)
    await phases.measure(system, "storm", arrivals, note)
    await _settle(system)
    await phases.measure(system, "calm after the storm", 0, note)
    await _settle(system, places)
    await phases.measure(system, "full", 0, note)
    await phases.measure(system, "overload", max(1, round((plan.overload - 1) * places)), note)
    await phases.measure(system, "full after the overload", 0, note)


async def _settle(system: System, sessions: int | None = None) -> None:
    if sessions is not None:
        await system.grow_to(sessions)
    await asyncio.sleep(system.scenario.windows.settle_s)


def _row(phase: Phase, variant: Variant, capacity: int, system: System, machine: str) -> Row:
    point = phase.point(system.cpus)
    return {
        "system": variant.system,
        "transport": variant.transport,
        "tls": variant.tls,
        "label": variant.label,
        "phase": phase.name,
        "capacity": capacity,
        "sessions_per_core": round(capacity / system.cpus, 2),
        "mib_per_session": None,
        **point.shown(system.scenario.slo),
        **latencies(point),
        "offered": phase.offered.offered,
        "admitted": phase.offered.admitted,
        "refused": dict(phase.offered.refused),
        "refused_ms": Histogram.of(phase.offered.refused_ms).shown(),
        "rounds": len(phase.windows),
        "left_out": dict(point.left_out),
        "versions": system.versions(),
        "machine": machine,
    }


def cells(row: Row) -> list[str]:
    ways = [
        number(row["added_ms_p99"]["up"]),
        number(row["added_ms_p99"]["down"]),
        number(row["first_ms_p99"]),
    ]
    return [
        row["phase"],
        str(row["sessions"]),
        str(row["offered"]),
        str(row["admitted"]),
        str(sum(row["refused"].values())),
        number(row["refused_ms"]["p99"]),
        *ways,
        str(row["underruns"]),
        str(row["drops"]),
        number(row["cores"], 2),
        f"{sum(row['left_out'].values())} of {row['rounds']}",
    ]
