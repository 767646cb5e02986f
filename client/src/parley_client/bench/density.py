"""`parley bench density`: what a session costs, how many a core carries, ours and the peers' in one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from parley_client.bench.knee import KneeSearch, Tried
from parley_client.bench.measure import Note, measure
from parley_client.bench.rows import Row, density_row
from parley_client.bench.scenario import Scenario
from parley_client.bench.systems import AUDIO_ONLY, System, Variant
from parley_client.bench.windows import Point
from parley_client.errors import ParleyError

Make = Callable[[Variant], System]
LOAD_FULL: Final = 0.93
"""Share of its CPUs from which the load program is at its own end."""


def variants(
    systems: Sequence[str], transports: Sequence[str], tls: Sequence[bool], flavours: Sequence[str]
) -> Iterator[Variant]:
    """What is measured, in order: for each transport, ours beside its floor."""
    for transport in transports:
        for secure in tls:
            if "parley" in systems:
                yield Variant("parley", transport, secure)
                if transport != "twilio":
                    yield Variant("parley", transport, secure, AUDIO_ONLY)
            if "floor" in systems and transport != "twilio":
                for flavour in flavours:
                    yield Variant("floor", transport, secure, flavour)
    if "pipecat" in systems:
        for secure in tls:
            yield Variant("pipecat", "twilio", secure)
    if "livekit" in systems:
        yield Variant("livekit", "webrtc", False)


async def search(make: Make, variant: Variant, scenario: Scenario, machine: str, note: Note) -> Row:
    """Walk a variant up to its knee, then to its SLO; its row.

    A point below one that starved is measured on a fresh worker: what a starved one still holds would count.
    """
    common = scenario.density.common.get(variant.system, 10)
    steps = KneeSearch(scenario.knee, common)
    points: list[Point] = []
    base: float | None = None
    versions: dict[str, str] = {}
    wanted = steps.next()
    while wanted is not None:
        system = make(variant)
        async with system:
            versions = versions or system.versions()
            base = system.base_mib if base is None else base
            while wanted is not None:
                point = await measure(system, wanted, note)
                points.append(point)
                seen = tried(point, system, scenario)
                steps.add(seen)
                note(f"{variant.label}: {describe(point)}")
                wanted = steps.next()
                if seen.starved:
                    break
    return density_row(
        variant,
        points,
        steps.found,
        scenario.slo,
        common=common,
        base_mib=base,
        versions=versions,
        machine=machine,
    )


def tried(point: Point, system: System, scenario: Scenario) -> Tried:
    """A point as the search sees it."""
    knee, pins = scenario.knee, scenario.pinning
    load = point.mean("load") or 0.0
    limited = load > LOAD_FULL * (len(pins.others) or 1)
    lag = point.traffic.lag.quantile(0.99) or 0.0
    limited = limited or (not point.clean and lag > scenario.windows.lag_ms and bool(point.windows))
    cores = (point.cores or 0.0) / system.cpus
    return Tried(point.sessions, cores, point.starved(knee), limited, point.meets(scenario.slo))


def describe(point: Point) -> str:
    """A line while the run goes on."""
    if not point.windows:
        return f"{point.sessions} sessions: calls failed"
    traffic = point.traffic
    cost = point.cpu_s_per_session_s
    cpu = "CPU unknown" if cost is None else f"{cost * 1000:.2f} ms CPU a session-second"
    cores = "" if point.cores is None else f" ({point.cores:.2f} cores)"
    late = [f"{name} p99 {getattr(traffic, name).quantile(0.99) or 0:.1f} ms" for name in ("up", "down")]
    left = f", left out {sum(point.left_out.values())}" if point.left_out else ""
    return f"{point.sessions} sessions: {cpu}{cores}, {', '.join(late)}{left}"


async def run(
    make: Make, wanted: Sequence[Variant], scenario: Scenario, machine: str, note: Note
) -> tuple[list[Row], list[str]]:
    """Every variant, one after another; the rows, and what could not be measured with the reason.

    A variant that cannot be run does not end the others.
    """
    rows: list[Row] = []
    missing: list[str] = []
    for variant in wanted:
        try:
            rows.append(await search(make, variant, scenario, machine, note))
        except ParleyError as error:
            missing.append(f"{variant.label}: {error}")
            note(missing[-1])
        await asyncio.sleep(1.0)
    return rows, missing
