"""How many workers a pool with autoscaling is to have.

Enough for its sessions and a buffer at once, fewer only when fewer were enough for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from parley_operator.api.fleet import AutoscalingSpec

RATE_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Sessions that run in the pool, those on draining workers among them, and sessions that wait.

    Not `certain` while a worker is silent: it may have more sessions, so nobody is let go.
    """

    sessions: int
    waiting: int = 0
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Scaling:
    """What has to be remembered from one look to the next. Times are monotonic seconds.

    `peaks` are the recommendations of the stabilization window, each higher than those after it; `steps` is
    how many workers were wanted since when, within the last minute.
    """

    wanted: int
    peaks: tuple[tuple[float, int], ...]
    steps: tuple[tuple[float, int], ...]


def recommend(spec: AutoscalingSpec, per_worker: int, demand: Demand) -> int:
    """Workers for this very demand."""
    load = demand.sessions + demand.waiting
    needed = ceil((load + spec.buffer.of(load)) / per_worker)
    return _within(spec, needed)


def begin(spec: AutoscalingSpec, present: int, now: float) -> Scaling:
    """Nothing is known of the past: for a whole window there are not fewer workers than there are now."""
    wanted = _within(spec, present)
    return Scaling(wanted, ((now, wanted),), ((now, wanted),))


def step(spec: AutoscalingSpec, per_worker: int, demand: Demand, before: Scaling, now: float) -> Scaling:
    """Look at the demand once more."""
    advice = recommend(spec, per_worker, demand)
    if not demand.certain:
        advice = max(advice, _within(spec, before.wanted))
    since = now - spec.stabilization
    kept = [(at, _within(spec, value)) for at, value in before.peaks if at > since and value > advice]
    peaks = (*kept, (now, advice))
    goal = peaks[0][1]
    present = _within(spec, before.wanted)
    if goal > present and spec.most_added:
        floor = min((value for at, value in _recent(before.steps, now)), default=present)
        goal = min(goal, max(present, _within(spec, floor + spec.most_added)))
    steps = _recent(before.steps, now)
    if not steps or steps[-1][1] != goal:
        steps = (*steps, (now, goal))
    return Scaling(goal, peaks, steps)


def _recent(steps: tuple[tuple[float, int], ...], now: float) -> tuple[tuple[float, int], ...]:
    """What held within the last minute: the step that was in force when it began among them."""
    begun = now - RATE_WINDOW
    first = max((n for n, (at, _) in enumerate(steps) if at <= begun), default=0)
    return steps[first:]


def _within(spec: AutoscalingSpec, workers: int) -> int:
    return max(spec.least, min(spec.most, workers))
