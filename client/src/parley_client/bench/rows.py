"""Rows of the density table: one for each system in one way of running it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parley_client.bench.knee import Found
from parley_client.bench.scenario import Slo
from parley_client.bench.systems import Variant
from parley_client.bench.windows import WAYS, Point

Row = dict[str, Any]


def density_row(
    variant: Variant,
    points: Sequence[Point],
    found: Found,
    slo: Slo,
    *,
    common: int,
    base_mib: float | None,
    versions: Mapping[str, str],
    machine: str,
) -> Row:
    """The row of a search that is over; `points` in the order in which they were measured."""
    shown = [point.shown(slo) for point in points]
    best = next((p for p in points if p.sessions == found.sessions and p.windows), None)
    first = next((p for p in points if p.sessions == common), None)
    passing = [p.sessions for p in points if p.meets(slo)]
    measured = best or (points[-1] if points else None)
    cpus = measured.cpus if measured else 1
    row: Row = {
        "system": variant.system,
        "transport": variant.transport,
        "tls": variant.tls,
        "flavour": variant.flavour,
        "label": variant.label,
        "sessions_per_core": round(found.sessions / cpus, 2),
        "at_least": found.at_least,
        "sessions_per_core_at_slo": round(max(passing, default=0) / cpus, 2),
        "cpu_s_per_session_s": _cost(best),
        "cores": None if best is None or best.cores is None else round(best.cores, 3),
        "common_sessions": common,
        "cpu_s_per_session_s_common": _cost(first),
        "base_mib": None if base_mib is None else round(base_mib, 1),
        "mib_per_session": mib_per_session(best, base_mib),
    }
    row |= latencies(measured)
    row |= {
        "underruns": measured.traffic.underruns if measured else 0,
        "drops": measured.traffic.drops_up + measured.traffic.drops_down if measured else 0,
        "slo": "pass" if measured and not measured.misses(slo) else "fail",
        "slo_misses": list(measured.misses(slo)) if measured else ["nothing was measured"],
        "windows": windows_of(points),
        "points": shown,
        "versions": dict(versions),
        "machine": machine,
    }
    return row


def latencies(point: Point | None) -> Row:
    """`added_ms_p50`, `_p99` and `_p999` each way, and the first audio's."""
    traffic = point.traffic if point else None
    row: Row = {}
    for name in ("p50", "p99", "p999"):
        ways = {way: getattr(traffic, way).shown()[name] if traffic else None for way in WAYS}
        row[f"added_ms_{name}"] = ways
        row[f"first_ms_{name}"] = traffic.first.shown()[name] if traffic else None
    return row


def mib_per_session(point: Point | None, base_mib: float | None) -> float | None:
    """Memory beyond the process's base, by session."""
    memory = point.last("memory_mib") if point else None
    if point is None or memory is None or base_mib is None or not point.sessions:
        return None
    return round((float(memory) - base_mib) / point.sessions, 3)


def windows_of(points: Sequence[Point]) -> Row:
    """How many windows counted, and how many were left out for what."""
    reasons: dict[str, int] = {}
    for point in points:
        for reason, count in point.left_out.items():
            reasons[reason] = reasons.get(reason, 0) + count
    counted = sum(len(point.windows) for point in points)
    unclean = sum(1 for point in points if point.windows and not point.clean)
    return {"counted": counted, "left_out": reasons, "points_without_a_clean_window": unclean}


COLUMNS = (
    *("system", "transport", "tls", "sess/core", "slo", "sess/core at slo", "cpu ms/sess-s", "at common"),
    *("mib/sess", "up p50", "p99", "p99.9", "down p50", "p99", "p99.9", "first p99", "underruns", "drops"),
    "left out",
)


def cells(row: Row) -> list[str]:
    """A row of the table on stdout and in report pages."""
    ways = [number(row[f"added_ms_{name}"][way]) for way in WAYS for name in ("p50", "p99", "p999")]
    system = f"{row['system']} {row['flavour']}".strip()
    left_out = sum(row["windows"]["left_out"].values())
    common = number(_ms(row["cpu_s_per_session_s_common"]), 2)
    return [
        system,
        row["transport"],
        "tls" if row["tls"] else "plain",
        ("≥ " if row["at_least"] else "") + number(row["sessions_per_core"], 0),
        row["slo"],
        number(row["sessions_per_core_at_slo"], 0),
        number(_ms(row["cpu_s_per_session_s"]), 2),
        f"{common} ({row['common_sessions']})",
        number(row["mib_per_session"], 2),
        *ways,
        number(row["first_ms_p99"]),
        str(row["underruns"]),
        str(row["drops"]),
        str(left_out),
    ]


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _cost(point: Point | None) -> float | None:
    cost = point.cpu_s_per_session_s if point else None
    return None if cost is None else round(cost, 6)
