"""What the phases of a storm hold, and whether those who talk notice the loud ones. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from parley_client.bench.histogram import Histogram
from parley_client.bench.scenario import Scenario, Storm
from parley_client.bench.windows import Point, Traffic, Window

TRACKS: Final = ("up", "down", "first")
CALM: Final = {
    "storm": ("calm after the storm",),
    "overload": ("full", "full after the overload"),
}
"""Loud phases, and the phases of the same round, of as many calls, that each is compared with."""


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


def whole(phases: Mapping[str, Phase], loud: str) -> list[tuple[Traffic, Traffic]]:
    """What a loud phase and its calm ones saw, round by round, without rounds in which a window was
    disturbed."""
    windows = [phases[name].windows for name in (loud, *CALM[loud])]
    rounds = zip(*windows, strict=True)
    clean = [[window.traffic for window, _ in parts] for parts in rounds if not any(why for _, why in parts)]
    return [(first, Traffic.merge(calm)) for first, *calm in clean]


def judge(
    phases: Mapping[str, Phase], failures: list[str], scenario: Scenario, *, fits: bool
) -> dict[str, Any]:
    """p99 against calm, round by round, and verdicts.

    `fits`: whether calm itself was within the SLO before the first round; beyond it calls wait for each other
    already, and what a storm adds cannot be told.
    """
    plan = scenario.storm
    found = {loud: _against(whole(phases, loud), plan, fits=fits) for loud in CALM}
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


def _against(rounds: list[tuple[Traffic, Traffic]], plan: Storm, *, fits: bool) -> dict[str, Any]:
    """The middle one of the rounds' p99, and of their ratios to calm: a machine's speed changes within
    minutes, and what lasts for one window of a run is the machine's."""
    result: dict[str, Any] = {"rounds": len(rounds)}
    good = True
    for track in TRACKS:
        pairs = [tuple(getattr(traffic, track).quantile(0.99) for traffic in pair) for pair in rounds]
        known = [(loud, calm) for loud, calm in pairs if loud is not None and calm is not None]
        if not known:
            continue
        more = median(loud - calm for loud, calm in known)
        ratios = [loud / calm for loud, calm in known if calm]
        ratio = median(ratios) if ratios else None
        good = good and (more <= plan.floor_ms or (ratio is not None and ratio <= plan.p99_ratio))
        result[track] = {
            "p99": median(loud for loud, _ in known),
            "calm_p99": median(calm for _, calm in known),
            "more_ms": round(more, 2),
            "ratio": None if ratio is None else round(ratio, 3),
        }
    if not fits:
        result["verdict"] = "unknown (calm misses the SLO)"
    elif len(rounds) * 2 < plan.rounds:
        result["verdict"] = "unknown (the machine was disturbed)"
    else:
        result["verdict"] = "pass" if good else "fail"
    return result
