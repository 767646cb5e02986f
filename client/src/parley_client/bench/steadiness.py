"""Judging a soak: slopes, descriptors by a formula, underruns that a disturbed machine explains. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parley_client.bench.scenario import Soak

LEAST_SPAN_S = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A worker during a window of a soak. Seconds since the first, MiB; None where it cannot be known.
    `steal_ms`: the most that the hypervisor took at once; `stall_ms`: the longest that a CPU stood still;
    `lag_ms`: the latest that the load program was; `underruns_told`: how often the worker itself has seen
    audio run dry, since it began; `late_ms`: the latest piece of an answer, after its first; `starved`: the
    answers that ended and had such a piece."""

    at: float
    sessions: int
    memory_mib: float | None
    fds: int | None
    tasks: int | None
    underruns: int
    drops: int
    marked: bool
    steal_ms: float = 0.0
    stall_ms: float | None = None
    lag_ms: float | None = None
    underruns_told: int | None = None
    late_ms: float | None = None
    starved: int | None = None


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples: `per_hour` and its standard error."""

    per_hour: float
    error: float


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Least squares over (seconds, value); None for fewer than three points or one moment."""
    count = len(points)
    if count < 3:
        return None
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return None
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(rest / (count - 2) / spread)
    return Slope(rise * 3600, error * 3600)


def formula(base: int | None, sample: int | None, sessions: int) -> tuple[int, float] | None:
    """A fixed number and a number for each session; None where either was not read."""
    if base is None or sample is None or not sessions:
        return None
    return base, (sample - base) / sessions


def deviation(found: tuple[int, float] | None, values: Sequence[tuple[int, int | None]]) -> float | None:
    """How far (sessions, value) pairs are at most from the formula."""
    if found is None:
        return None
    base, each = found
    away = [abs(value - base - each * sessions) for sessions, value in values if value is not None]
    return max(away, default=None)


def judge(
    samples: Sequence[Sample],
    base: Sample,
    after: Sample,
    failed: int,
    plan: Soak,
) -> dict[str, Any]:
    """Figures and verdicts of a soak.

    Args:
        samples: one for each window, in order.
        base, after: the worker before the first call and after the last.
        failed: calls that were refused or ended by themselves.
    """
    # The first tenth fills pools and caches.
    settled = samples[len(samples) // 10 :]
    memory = slope([(s.at, s.memory_mib) for s in settled if s.memory_mib is not None])
    first = samples[0] if samples else base
    fds = formula(base.fds, first.fds, first.sessions)
    tasks = formula(base.tasks, first.tasks, first.sessions)
    fds_away = deviation(fds, [*((s.sessions, s.fds) for s in samples), (0, after.fds)])
    tasks_away = deviation(tasks, [*((s.sessions, s.tasks) for s in samples), (0, after.tasks)])
    unexplained = sum(s.underruns for s in samples if not s.marked)
    drops = sum(s.drops for s in samples)
    verdicts = {
        "memory": _verdict(_least(memory, settled), plan.rss_mib_per_hour),
        "fds": _verdict(fds_away, plan.fds_slack),
        "tasks": _verdict(tasks_away, plan.tasks_slack),
        "drops": _verdict(drops, 0),
        "underruns": _verdict(unexplained, 0),
        "failed calls": _verdict(failed, 0),
    }
    return {
        "memory_mib_per_hour": None if memory is None else round(memory.per_hour, 2),
        "memory_error_mib_per_hour": None if memory is None else round(memory.error, 2),
        "fds": None if fds is None else {"fixed": fds[0], "each": round(fds[1], 2)},
        "fds_deviation": None if fds_away is None else round(fds_away, 1),
        "tasks": None if tasks is None else {"fixed": tasks[0], "each": round(tasks[1], 2)},
        "tasks_deviation": None if tasks_away is None else round(tasks_away, 1),
        "underruns_unexplained": unexplained,
        "underruns_explained": sum(s.underruns for s in samples if s.marked),
        "drops": drops,
        "failed_calls": failed,
        "verdicts": verdicts,
        "passed": "fail" not in verdicts.values(),
    }


def _least(memory: Slope | None, samples: Sequence[Sample]) -> float | None:
    """The least slope that the noise allows; None over a time that is too short to tell."""
    if memory is None or samples[-1].at - samples[0].at < LEAST_SPAN_S:
        return None
    return memory.per_hour - 2 * memory.error


def _verdict(value: float | None, limit: float) -> str:
    if value is None:
        return "unknown"
    return "pass" if value <= limit else "fail"
