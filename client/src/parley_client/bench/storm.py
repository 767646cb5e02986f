"""`parley bench storm`: many arrivals in a second, more than there is room for: calm for who is in."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from parley_client.bench.histogram import Histogram
from parley_client.bench.loadgen import CallFailed
from parley_client.bench.measure import Note, measure_window
from parley_client.bench.rows import Row, latencies, number
from parley_client.bench.scenario import Scenario, Storm
from parley_client.bench.systems import System, Variant
from parley_client.bench.windows import Point, Window, marks
from parley_client.errors import UsageError

CLEAN: Final = frozenset({"FULL", "OVERLOADED", "DRAINING"})
"""Words with which a worker refuses; anything else is a failure."""
TRACKS: Final = ("up", "down", "first")
COLUMNS: Final = (
    *("phase", "sessions", "offered", "admitted", "refused", "refused in ms p99", "up p99", "down p99"),
    *("first p99", "underruns", "drops", "cores", "left out"),
)


@dataclass(slots=True)
class Offered:
    """What became of calls that were offered."""

    offered: int = 0
    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    started_ms: list[float] = field(default_factory=list)

    def add(self, more: Offered) -> None:
        self.offered += more.offered
        self.admitted += more.admitted
        self.refused += more.refused
        self.failed += more.failed
        self.refused_ms += more.refused_ms
        self.started_ms += more.started_ms

    @property
    def clean(self) -> bool:
        """Whether every call was admitted, or refused with a reason."""
        return not self.failed


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


@dataclass(slots=True)
class Phase:
    """A part of the run: its windows with their marks, one of each round, and all calls that were offered in
    them."""

    name: str
    sessions: int = 0
    windows: list[tuple[Window, tuple[str, ...]]] = field(default_factory=list)
    offered: Offered = field(default_factory=Offered)

    def point(self, cpus: int) -> Point:
        return Point.of(self.sessions, self.windows, len(self.offered.failed), cpus)


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


async def run(
    make: Callable[..., System], variant: Variant, capacity: int, machine: str, note: Note
) -> dict[str, Any]:
    """The phases of all storms, as `rows`, and what follows from them.

    A round: calm at the first sessions; arrivals at the storm's rate; calm again; places filled to the last;
    offers past them, refused; calm. Rounds are judged together: an answer begins every few seconds, so one
    window holds too few for a p99.
    """
    async with make(variant, capacity=capacity) as system:
        plan, phases = system.scenario.storm, Phases()
        arrivals = min(plan.arrivals, capacity - 1)
        if arrivals < 1:
            raise UsageError(f"--capacity {capacity}: a storm needs a worker of 2 sessions or more")
        first = max(1, min(round(plan.share * capacity), capacity - arrivals))
        over = max(1, round((plan.overload - 1) * capacity))
        for number in range(plan.rounds):
            note(f"round {number + 1} of {plan.rounds}")
            await _settle(system, first)
            await phases.measure(system, "calm", 0, note)
            await phases.measure(system, "storm", arrivals, note)
            await _settle(system)
            await phases.measure(system, "calm after the storm", 0, note)
            await _settle(system, capacity)
            await phases.measure(system, "full", 0, note)
            await phases.measure(system, "overload", over, note)
            await phases.measure(system, "full after the overload", 0, note)
        failures = [str(failure) for failure in system.failures()]
        rows = [_row(phase, variant, capacity, system, machine) for phase in phases.values()]
        return {"rows": rows, "storm": judge(phases, failures, system.scenario)}


async def _settle(system: System, sessions: int | None = None) -> None:
    if sessions is not None:
        await system.grow_to(sessions)
    await asyncio.sleep(system.scenario.windows.settle_s)


def judge(phases: Mapping[str, Phase], failures: list[str], scenario: Scenario) -> dict[str, Any]:
    """The ratios of p99 against calm, and verdicts."""
    plan = scenario.storm
    pairs = {
        "storm": ("calm", "calm after the storm"),
        "overload": ("full", "full after the overload"),
    }
    found: dict[str, Any] = {}
    for loud, calm in pairs.items():
        found[loud] = _against(phases[loud], [phases[name] for name in calm], plan)
    offered = phases["overload"].offered
    lost = [*failures, *(text for phase in phases.values() for text in phase.offered.failed)]
    verdicts = {
        "p99 in the storm": found["storm"]["verdict"],
        "p99 in the overload": found["overload"]["verdict"],
        "refused cleanly": "pass" if offered.clean and offered.admitted == 0 else "fail",
        "calls lost": "pass" if not lost else "fail",
    }
    return {
        "against_calm": found,
        "refused": dict(offered.refused),
        "refused_ms": Histogram.of(offered.refused_ms).shown(),
        "started_ms_in_storm": Histogram.of(phases["storm"].offered.started_ms).shown(),
        "lost": lost[:20],
        "verdicts": verdicts,
        "passed": "fail" not in verdicts.values(),
    }


def _against(loud: Phase, calm: list[Phase], plan: Storm) -> dict[str, Any]:
    """p99 of each way against the higher of the calm phases around: more sessions take longer anyway."""
    result: dict[str, Any] = {}
    good = True
    points = [phase.point(1) for phase in (loud, *calm)]
    for track in TRACKS:
        p99, *quiet = (getattr(point.traffic, track).quantile(0.99) for point in points)
        known = [value for value in quiet if value is not None]
        if p99 is None or not known:
            continue
        base = max(known)
        ratio = p99 / base if base else None
        fine = p99 - base <= plan.floor_ms or (ratio is not None and ratio <= plan.p99_ratio)
        good = good and fine
        result[track] = {"p99": p99, "calm_p99": base, "ratio": None if ratio is None else round(ratio, 3)}
    disturbed = not all(point.clean for point in points)
    result["disturbed"] = disturbed
    result["verdict"] = "pass" if good else "unknown (the machine was disturbed)" if disturbed else "fail"
    return result


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
