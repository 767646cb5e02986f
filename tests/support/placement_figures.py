"""What the bench says: numbers of a phase, medians over the rounds, and the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any

PATHS = ("floor", "cr", "service")
NAMES = {"floor": "raw floor", "cr": "kubectl-apply path", "service": "SessionService"}


# Of the bursts, the key of their rates over the floor's.
RATIOS = {"burst": "rate_over_floor", "apart": "rate_over_floor_apart"}
GOALS = {
    "rate_over_floor_apart": "API server on cores of its own",
    "rate_over_floor": "everything on the same cores",
}


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


def summary(rounds: Sequence[Mapping[str, Mapping[str, Phase]]]) -> dict[str, Any]:
    """Medians of every number by phase and path, sums of those made and lost, and the ratios of one round
    each."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        found[name] = {}
        for path in rounds[0][name]:
            each = [asdict(one[name][path]) for one in rounds]
            found[name][path] = {
                key: sum(e[key] for e in each)
                if key in ("made", "lost")
                else round(median(e[key] for e in each), 2)
                for key in each[0]
            }
    for name, key in RATIOS.items():
        if name in rounds[0]:
            found[key] = {path: _shares(rounds, name, path) for path in ("cr", "service")}
    found["lost"] = sum(found[name][path]["lost"] for name in rounds[0] for path in rounds[0][name])
    return found


def _shares(rounds: Sequence[Mapping[str, Mapping[str, Phase]]], name: str, path: str) -> dict[str, Any]:
    shares = [round(one[name][path].rate / one[name]["floor"].rate, 3) for one in rounds]
    return {"median": median(shares), "rounds": shares}


def verdicts(result: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The goals, what was measured, and whether they hold."""
    p99 = result["half load"]["service"]["p99"]
    ratios = [(words, result[key]["cr"]["median"]) for key, words in GOALS.items() if key in result]
    return [
        *(
            (f"CR path, sessions/s, {words}: at least 90 % of the floor's", f"{r:.0%}", r >= 0.9)
            for words, r in ratios
        ),
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
    for name in ("idle", "burst", "apart", "half load"):
        for path in PATHS:
            row = result.get(name, {}).get(path)
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
