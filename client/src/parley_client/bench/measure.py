"""Measuring a point: calls are brought up, windows are taken until enough of them count."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from parley_client.bench import proc
from parley_client.bench.loadgen import CallFailed
from parley_client.bench.systems import System
from parley_client.bench.windows import Machine, Point, Thefts, Window, marks

Note = Callable[[str], None]
_READ_EVERY: Final = 0.05
HOPELESS: Final = 5.0
"""A first window that starves so many times over is enough to know."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """CPU seconds at one moment. `own`: of this program and all its children; `every`: of all processes."""

    at: float
    worker: float | None
    helpers: float
    load: float
    own: float
    every: float
    busy: float
    steal: float


def _cpus(system: System) -> list[proc.CpuTimes]:
    """What the CPUs in use did so far."""
    pins = system.scenario.pinning
    wanted = {*pins.worker, *pins.others} if pins.worker and pins.others else None
    return [cpu for number, cpu in proc.read_cpus().items() if wanted is None or number in wanted]


async def _watch(thefts: Thefts, system: System) -> None:
    """Read what the hypervisor took so far, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        thefts.read(loop.time(), sum(cpu.steal for cpu in _cpus(system)))
        await asyncio.sleep(_READ_EVERY)


async def _moment(system: System) -> _Moment:
    worker = await system.cpu_s()
    stats = proc.read_stats()
    parents = {pid: stat.parent for pid, stat in stats.items()}

    def total(roots: list[int]) -> float:
        return sum(stats[pid].user + stats[pid].system for pid in proc.tree_of(parents, roots))

    cpus = _cpus(system)
    return _Moment(
        at=asyncio.get_running_loop().time(),
        worker=worker,
        helpers=total(list(system.helper_pids())),
        load=total([system.callers.pid]),
        own=total([os.getpid()]),
        every=sum(stat.user + stat.system for stat in stats.values()),
        busy=sum(cpu.busy for cpu in cpus),
        steal=sum(cpu.steal for cpu in cpus),
    )


def _between(before: _Moment, after: _Moment) -> Machine:
    seconds = after.at - before.at
    own = after.own - before.own
    # One estimate sees processes anywhere, the other is coarse: both must say that the CPUs were taken.
    elsewhere = after.every - before.every - own
    here = after.busy - before.busy - own
    worker = None if after.worker is None or before.worker is None else after.worker - before.worker
    return Machine(
        seconds=seconds,
        cpu_s=worker,
        helpers_cpu_s=after.helpers - before.helpers,
        steal=(after.steal - before.steal) / seconds,
        others=max(0.0, min(elsewhere, here)) / seconds,
        load=(after.load - before.load) / seconds,
    )


async def measure_window(system: System, seconds: float) -> Window:
    """One window from now on, with what the machine did meanwhile."""
    pids = system.worker_pids()
    tree = proc.read_tree(pids) if pids else None
    before, thefts = await _moment(system), Thefts()
    watching = asyncio.create_task(_watch(thefts, system), name="thefts")
    try:
        traffic = await system.window(seconds)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    machine = _between(before, await _moment(system))
    machine = replace(machine, steal_ms=round(thefts.most_s * 1000, 1))
    if tree is not None:
        after, told = proc.read_tree(pids), await system.told()
        machine = replace(
            machine,
            user_s=after.user - tree.user,
            system_s=after.system - tree.system,
            run_delay=(after.run_delay - tree.run_delay) / machine.seconds,
            memory_mib=after.memory_mib,
            fds=after.fds,
            threads=after.threads,
            processes=after.processes,
            tasks=told.tasks,
            underruns_told=told.underruns,
        )
    return Window(traffic, machine)


async def measure(system: System, sessions: int, note: Note) -> Point:
    """Have `sessions` calls talk and measure them; calls that fail make a point with `failed`."""
    scenario = system.scenario
    rules, knee = scenario.windows, scenario.knee
    system.failures()
    try:
        await system.grow_to(sessions)
    except CallFailed as failure:
        note(f"{system.variant.label}: {failure}")
        return Point(sessions, (), False, failed=1, cpus=system.cpus)
    await asyncio.sleep(rules.settle_s)
    measured: list[tuple[Window, tuple[str, ...]]] = []
    failed = 0
    while len(measured) < rules.bound and sum(1 for _, why in measured if not why) < rules.wanted:
        window = await measure_window(system, rules.seconds * system.stretch)
        why = marks(window, rules)
        measured.append((window, why))
        failures = system.failures()
        failed += len(failures)
        for lost in failures[:3]:
            note(f"{system.variant.label}: {lost}")
        alone = Point.of(sessions, [(window, ())], failed, system.cpus)
        if failed or (not why and alone.starved(knee, HOPELESS)):
            break
    return Point.of(sessions, measured, failed, system.cpus)
