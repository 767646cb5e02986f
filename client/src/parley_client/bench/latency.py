"""`parley bench latency`: what a worker adds at shares of its capacity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from parley_client.bench.measure import Note, measure
from parley_client.bench.rows import Row, latencies, mib_per_session, number, windows_of
from parley_client.bench.scenario import Scenario
from parley_client.bench.systems import System, Variant
from parley_client.bench.windows import WAYS

COLUMNS: Final = (
    *("system", "transport", "tls", "share", "sessions", "cpu ms/sess-s", "cores", "slo"),
    *("up p50", "p99", "p99.9", "down p50", "p99", "p99.9", "first p50", "first p99", "underruns", "drops"),
)


async def run(
    make: Callable[[Variant], System],
    variants: Sequence[Variant],
    capacity: int,
    scenario: Scenario,
    machine: str,
    note: Note,
) -> list[Row]:
    """A row for each variant and share, on one worker that calls are added to."""
    rows: list[Row] = []
    for variant in variants:
        async with make(variant) as system:
            for share in scenario.latency.shares:
                sessions = max(1, round(share * capacity))
                point = await measure(system, sessions, note)
                row: Row = {
                    "system": variant.system,
                    "transport": variant.transport,
                    "tls": variant.tls,
                    "label": variant.label,
                    "share": share,
                    "capacity": capacity,
                    "sessions_per_core": round(capacity / system.cpus, 2),
                    "mib_per_session": mib_per_session(point, system.base_mib),
                    **point.shown(scenario.slo),
                    **latencies(point if point.windows else None),
                    "left_out": windows_of([point]),
                    "versions": system.versions(),
                    "machine": machine,
                }
                rows.append(row)
                note(f"{variant.label} at {share:.0%}: {sessions} sessions, SLO {row['slo']}")
    return rows


def cells(row: Row) -> list[str]:
    cost = row["cpu_s_per_session_s"]
    ways = [number(row[f"added_ms_{name}"][way]) for way in WAYS for name in ("p50", "p99", "p999")]
    return [
        row["system"],
        row["transport"],
        "tls" if row["tls"] else "plain",
        f"{row['share']:.0%}",
        str(row["sessions"]),
        number(None if cost is None else cost * 1000, 2),
        number(row["cores"], 2),
        row["slo"],
        *ways,
        number(row["first_ms_p50"]),
        number(row["first_ms_p99"]),
        str(row["underruns"]),
        str(row["drops"]),
    ]
