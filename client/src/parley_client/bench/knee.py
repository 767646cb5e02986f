"""The search for a system's knee, the most sessions before audio starves, and for its SLO. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from parley_client.bench.scenario import Knee

GROWTH = 8.0
"""The next point is at most this many times the last."""
STEP = 1.08
"""Where the CPU says that there is no room, the least step up."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A point that was measured.

    Attributes:
        sessions: how many.
        cores: share of the worker's own CPUs that it took, 0 to 1.
        starved: whether audio starved.
        limited: the load program or the machine was at its end, not the worker: no higher point means
            anything.
        in_slo: whether it met the SLO.
    """

    sessions: int
    cores: float
    starved: bool
    limited: bool = False
    in_slo: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Attributes: sessions: the knee, 0 when the first point starved; at_least: nothing higher was tried."""

    sessions: int
    at_least: bool


@dataclass(slots=True)
class KneeSearch:
    """Says which point to measure next: upwards by the CPU it took, then between the best and the worst; when
    the knee is found, between the most sessions that met the SLO and the fewest more that did not.

    Args:
        plan: bounds.
        first: sessions of the first point.
    """

    plan: Knee
    first: int
    tried: list[Tried] = field(default_factory=list)
    for_slo: list[Tried] = field(default_factory=list)
    """Points after the knee was found; they do not move it."""

    def add(self, point: Tried) -> None:
        (self.for_slo if self._to_knee() is None else self.tried).append(point)

    @property
    def clean(self) -> Tried | None:
        """The highest point that did not starve, below every one that did."""
        worst = self._worst()
        good = [t for t in self.tried if not t.starved and (worst is None or t.sessions < worst)]
        return max(good, key=lambda t: t.sessions, default=None)

    @property
    def found(self) -> Found:
        best = self.clean
        return Found(best.sessions if best else 0, at_least=best is not None and self._worst() is None)

    def next(self) -> int | None:
        """Sessions of the next point; None when the search is over."""
        wanted = self._to_knee()
        return self._to_slo() if wanted is None else wanted

    def _to_slo(self) -> int | None:
        if len(self.for_slo) >= self.plan.slo_points:
            return None
        points = [*self.tried, *self.for_slo]
        most = max((t.sessions for t in points if t.in_slo), default=0)
        missed = min((t.sessions for t in points if not t.in_slo and t.sessions > most), default=0)
        return self._between(most, missed) if most and missed else None

    def _between(self, low: int, high: int) -> int | None:
        middle = (low + high) // 2
        return None if high - low <= max(1.0, self.plan.resolution * low) else middle

    def _to_knee(self) -> int | None:
        if not self.tried:
            return min(self.first, self.plan.ceiling)
        if len(self.tried) >= self.plan.points:
            return None
        best, worst = self.clean, self._worst()
        if worst is None:
            return self._up(best) if best else None
        return self._between(best.sessions if best else 0, worst)

    def _up(self, best: Tried) -> int | None:
        if best.limited or best.sessions >= self.plan.ceiling:
            return None
        room = self.plan.target_cores / best.cores if best.cores > 0 else GROWTH
        wanted = round(best.sessions * min(GROWTH, max(STEP, room)))
        return min(max(wanted, best.sessions + 1), self.plan.ceiling)

    def _worst(self) -> int | None:
        return min((t.sessions for t in self.tried if t.starved), default=None)
