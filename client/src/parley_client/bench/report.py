"""Report pages: a result as Markdown, with machine, versions, command and caveats. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from parley_client.bench import events, latency, machine, rows, storm
from parley_client.bench.storm_phases import TRACKS

Result = Mapping[str, Any]
TITLES: Final = {
    "density": "Density: what a session costs, and sessions a core",
    "latency": "Latency: what a worker adds at shares of its capacity",
    "soak": "Soak: calls coming and going for a long time",
    "storm": "Storm and overload: arrivals in a second, and more than there is room for",
    "events": "Events: records into JetStream, and what listeners cost",
}
TABLES: Final[Mapping[str, tuple[Sequence[str], Callable[[Any], Sequence[str]]]]] = {
    "density": (rows.COLUMNS, rows.cells),
    "latency": (latency.COLUMNS, latency.cells),
    "storm": (storm.COLUMNS, storm.cells),
    "events": (events.COLUMNS, events.cells),
}
MEANINGS: Final = {
    "density": (
        "`sess/core` is the system's own starvation knee: the most sessions at which no more than 1 % of"
        " the answers' audio came 60 ms late or never, and of the callers' frames took 500 ms; `≥` where"
        " the load program, the ceiling or the bound of points ended the search. `slo` says whether the"
        " SLO holds at the knee, `sess/core at slo` is the highest measured point that meets it. `cpu` is"
        " utime + stime of the worker's whole process tree by session and second, at the knee and at the"
        " common point. `up` is a caller's frame until the provider has all of it; `down` is answer audio"
        " behind real-time playout; `first` is an answer's first audio; in ms beyond the frame's own 20"
        " ms, at the knee (`first` may take a frame"
        " more)."
    ),
    "latency": "Added latency each way at shares of the capacity; the plot has every quantile.",
    "soak": (
        "Windows of 10 s from the first minute to the last; underruns in windows in which the machine was"
        " disturbed are explained by it."
    ),
    "storm": (
        "`refused in` is the time from asking for a place to the worker's no; `left out`, how many windows"
        " were disturbed and do not count in the table. The verdicts are by rounds: p99 in the loud window"
        " against that of the calm ones of the same round and as many calls, without rounds that were"
        " disturbed; the middle one of the rounds counts. First it was looked for how many of the capacity's"
        " sessions the machine carried within the SLO just then: so many places the worker had."
    ),
    "events": (
        "`events/s/core` is records by CPU second of the publisher, all that it does included. Every record"
        " was read back from the streams."
    ),
}
AGAINST: Final = ("phase", "way", "p99", "calm p99", "more ms", "ratio", "rounds")
CAVEATS: Final = (
    "One machine's figures. CPU time holds better than wall-clock latency; ratios hold better than either.",
    "Caller, provider and worker share the machine and its loopback: no network's delay or loss is in it.",
    "The provider is a stub: it answers by the amount of audio, every few seconds, without a model's delay.",
    "Worker and all else are pinned to CPUs of their own; windows in which the hypervisor or other work took"
    " these CPUs, or the load program itself was late, were left out and are counted.",
)


def page(result: Result) -> str:
    """The whole page. Images are expected beside it as NAME.svg where the result has points to plot."""
    parts = [f"# {TITLES[result['bench']]}\n", _facts(result), MEANINGS[result["bench"]] + "\n"]
    parts += _body(result)
    parts.append("## Caveats\n\n" + "".join(f"- {line}\n" for line in _caveats(result)))
    return "\n".join(parts)


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells' pipes are escaped."""
    every = [columns, ["---"] * len(columns), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in every)


def _facts(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"- command: `{result['command']}`\n"
        f"- machine: {result['machine_line']}\n"
        f"- versions: {versions}\n"
        f"- begun {result['began']}, took {result['seconds'] / 60:.1f} minutes\n"
    )


def _body(result: Result) -> Iterator[str]:
    name = result["bench"]
    if name == "soak":
        yield table(("fact", "value"), soak_facts(result))
    else:
        columns, cells = TABLES[name]
        yield table(columns, [cells(row) for row in result["rows"]])
    if name in ("density", "latency"):
        yield f"![latency and CPU against sessions]({name}.svg)\n"
    if result.get("ratios"):
        yield "## Ratios\n\n" + _ratios(result["ratios"])
    if name == "density":
        yield "## Versions of each system\n\n" + _versions(result["rows"])
    if result.get("missing"):
        yield "## Not measured\n\n" + "".join(f"- {line}\n" for line in result["missing"])
    for part in ("soak", "storm", "events"):
        if part in result:
            if part == "storm":
                yield "## Against calm\n\n" + table(AGAINST, against_calm(result[part]))
            yield "## Verdicts\n\n" + table(("what", "verdict"), list(result[part]["verdicts"].items()))


def against_calm(found: Mapping[str, Any]) -> list[list[str]]:
    """Lines for `AGAINST`: each loud phase and way."""
    return [
        [
            *(loud, track),
            *(rows.number(ways[track][word]) for word in ("p99", "calm_p99", "more_ms")),
            *(rows.number(ways[track]["ratio"], 2), str(ways["rounds"])),
        ]
        for loud, ways in found["against_calm"].items()
        for track in TRACKS
        if track in ways
    ]


def _ratios(lines: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (line["name"], f"{line['value']:.2f}", line["goal"], "yes" if line["met"] else "no", line["sentence"])
        for line in lines
    ]
    return table(("ratio", "value", "goal", "met", "what one side does that the other does not"), cells)


def _versions(found: Sequence[Mapping[str, Any]]) -> str:
    by_system = {row["system"]: row["versions"] for row in found}
    lines = [
        (system, ", ".join(f"{name} {version}" for name, version in versions.items()))
        for system, versions in by_system.items()
    ]
    return table(("system", "versions"), lines)


def soak_facts(result: Result) -> list[tuple[str, str]]:
    """What a soak found, as pairs."""
    row, soak = result["rows"][0], result["soak"]

    slope = f"{soak['memory_mib_per_hour']} ± {soak['memory_error_mib_per_hour']}"

    def line(found: Any, away: float | None) -> str:
        if found is None:
            return "unknown"
        return f"{found['fixed']} + {found['each']:g} a session; away from it {away} at most"

    return [
        ("system", row["label"]),
        ("sessions", f"{row['sessions']} ({row['share']:.0%} of {row['capacity']})"),
        ("calls that came and went", str(row["calls_ended"])),
        ("CPU ms a session-second", rows.number((row["cpu_s_per_session_s"] or 0) * 1000, 2)),
        ("added ms up p50 / p99 / p99.9", _way(row, "up")),
        ("added ms down p50 / p99 / p99.9", _way(row, "down")),
        ("MiB a session", rows.number(row["mib_per_session"], 2)),
        ("memory slope, MiB an hour", slope),
        ("descriptors", line(soak["fds"], soak["fds_deviation"])),
        ("tasks", line(soak["tasks"], soak["tasks_deviation"])),
        (
            "underruns, unexplained / explained",
            f"{soak['underruns_unexplained']} / {soak['underruns_explained']}",
        ),
        ("drops", str(soak["drops"])),
        ("calls that failed", str(soak["failed_calls"])),
        ("windows left out", str(sum(row["windows"]["left_out"].values()))),
    ]


def _way(row: Mapping[str, Any], way: str) -> str:
    return " / ".join(rows.number(row[f"added_ms_{name}"][way]) for name in ("p50", "p99", "p999"))


def _caveats(result: Result) -> Iterator[str]:
    yield from CAVEATS
    if result["machine"]["virtual"]:
        yield "The machine is virtual: other guests may have taken caches and memory bandwidth."
    if machine.is_bbr(str(result["machine"].get("tcp", ""))):
        yield machine.BBR
    scenario = result["scenario"]
    if not scenario["pinning"]["worker"]:
        yield "Nothing was pinned to CPUs."
    load = scenario["workload"]
    answer = f"an answer of {load['answer_s']:g} s each {load['cycle_s']:g} s"
    deltas = f"deltas of {load['chunk_ms']} ms at {load['speed']:g} times real time"
    yield f"Workload: a frame of 20 ms each 20 ms; {answer}, in {deltas}; {load['format']}."
