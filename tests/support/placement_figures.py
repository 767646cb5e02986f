"""What the bench says: numbers of a phase, medians over the rounds, and the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import median
from typing import Any

PATHS = ("floor", "cr", "service")
NAMES = {"floor": "raw floor", "cr": "kubectl-apply path", "service": "SessionService"}


@dataclass(frozen=True)
class Phase:
    """Of one path: `made` sessions, `lost` ones never Ready. Latencies in ms, CPU in ms a session."""

    made: int
    lost: int
    p50: float
    p99: float
    rate: float
    operator_cpu: float
    api_cpu: float
    workers_cpu: float


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, ceil(share * len(ordered)) - 1))]


def phase(latencies: Sequence[float], made: int, seconds: float, cpu: Mapping[str, float]) -> Phase:
    """`latencies` and `seconds` in seconds; `cpu` in seconds of operator (or floor), api and workers."""
    done = max(1, len(latencies))
    return Phase(
        made=made,
        lost=made - len(latencies),
        p50=round(quantile(latencies, 0.5) * 1000, 1),
        p99=round(quantile(latencies, 0.99) * 1000, 1),
        rate=round(len(latencies) / seconds, 1) if seconds > 0 else 0.0,
        operator_cpu=round(cpu["operator"] / done * 1000, 2),
        api_cpu=round(cpu["api"] / done * 1000, 2),
        workers_cpu=round(cpu["workers"] / done * 1000, 2),
    )


@dataclass
class Round:
    """Phases by path; `bursts` of floor and CR path in pairs that followed each other."""

    idle: dict[str, Phase] = field(default_factory=dict)
    bursts: list[dict[str, Phase]] = field(default_factory=list)
    service: Phase | None = None
    half_load: dict[str, Phase] = field(default_factory=dict)

    def rate(self, path: str) -> float:
        """Sessions a second in a burst: the median."""
        return median(phase.rate for phase in self.burst(path))

    def burst(self, path: str) -> list[Phase]:
        if path == "service":
            return [] if self.service is None else [self.service]
        return [burst[path] for burst in self.bursts]


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians of every number by phase and path, sums of those made and lost, and the CR path's rate over
    the floor's of each pair of bursts."""
    found: dict[str, Any] = {
        "idle": {path: _median([one.idle[path] for one in rounds]) for path in PATHS},
        "burst": {path: _median([each for one in rounds for each in one.burst(path)]) for path in PATHS},
        "half load": {path: _median([one.half_load[path] for one in rounds]) for path in PATHS},
    }
    shares = [round(b["cr"].rate / b["floor"].rate, 3) for one in rounds for b in one.bursts]
    found["rate_over_floor"] = {"cr": {"median": round(median(shares), 3), "pairs": shares}}
    found["lost"] = sum(
        row["lost"] for by_path in found.values() for row in by_path.values() if "lost" in row
    )
    return found


def _median(phases: Sequence[Phase]) -> dict[str, Any]:
    each = [asdict(phase) for phase in phases]
    return {
        key: sum(e[key] for e in each) if key in ("made", "lost") else round(median(e[key] for e in each), 2)
        for key in each[0]
    }


def verdicts(result: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The goals, what was measured, and whether they hold."""
    ratio = result["rate_over_floor"]["cr"]["median"]
    p99 = result["half load"]["service"]["p99"]
    return [
        ("CR path, sessions/s: at least 90 % of the floor's", f"{ratio:.0%}", ratio >= 0.9),
        ("SessionService, p99 warm at half load: under 100 ms", f"{p99:.0f} ms", p99 < 100),
        ("lost", str(result["lost"]), result["lost"] == 0),
    ]


COLUMNS = (
    "phase",
    "path",
    "sessions",
    "lost",
    "p50 ms",
    "p99 ms",
    "sessions/s",
    "operator",
    "API server",
    "workers",
)


def table(result: Mapping[str, Any]) -> str:
    """The whole table as text; the last three columns are CPU ms a session."""
    lines = [COLUMNS]
    for name in ("idle", "burst", "half load"):
        for path in PATHS:
            row = result[name].get(path)
            if row:
                lines.append(
                    (
                        name, NAMES[path], str(row["made"]), str(row["lost"]), f"{row['p50']:.1f}",
                        f"{row['p99']:.1f}", f"{row['rate']:.1f}", f"{row['operator_cpu']:.2f}",
                        f"{row['api_cpu']:.2f}", f"{row['workers_cpu']:.2f}",
                    )
                )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    goals = "\n".join(
        f"{'holds' if good else 'MISSED'}: {goal}: {value}" for goal, value, good in verdicts(result)
    )
    return f"{text}\n\noperator (or floor), API server and workers: CPU ms a session\n{goals}\n"
