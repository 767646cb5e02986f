"""`parley bench`: measurements that users run on their own machines, or against their cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from parley_client.bench import density as density_run
from parley_client.bench import events as events_run
from parley_client.bench import latency as latency_run
from parley_client.bench import machine, plot, ratios, rows
from parley_client.bench import report as report_page
from parley_client.bench import soak as soak_run
from parley_client.bench import storm as storm_run
from parley_client.bench.results import read as read_result
from parley_client.bench.runner import Options, opened
from parley_client.bench.systems import Variant

from .bench_options import shared, words
from .console import Output, make_output
from .exits import Exit
from .run import execute

EXAMPLES: Final = """
[bold]Examples[/]

  parley bench density --quick --systems parley,floor

  parley bench latency --capacity 100 --transport converse

  parley bench density --systems parley --worker 10.0.0.7:7071 --worker-tls ./operator-tls
    --provider-listen 0.0.0.0:9100 --provider-url ws://10.0.0.2:9100/v1/realtime

The load program is Go: `make loadgen` in a checkout builds it. Peers need `make bench-peers`.
"""

bench_app = typer.Typer(
    help="Measure what a media worker costs and how late its audio is: on this machine, at a given worker, or"
    " on a cluster.",
    epilog=EXAMPLES,
    no_args_is_help=True,
)
SystemsOption = Annotated[
    str, typer.Option("--systems", help="Some of parley,floor,pipecat,livekit, separated by commas.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
CapacityOption = Annotated[
    int, typer.Option("--capacity", help="Sessions that the worker carries; density's result when 0.", min=0)
]
RATIO_COLUMNS: Final = ("ratio", "value", "goal", "met", "what one side does that the other does not")


@bench_app.command()
@shared(both=True, transport="converse,conversemany")
def density(
    options: Options, systems: SystemsOption = "parley,floor,pipecat,livekit", as_json: JsonOption = False
) -> None:
    """What a session costs, and sessions a core: ours, the bare floor and peers in one table of one run."""
    options = replace(options, systems=words(systems))
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        with opened("density", options, output.note) as bench:
            where = machine.one_line(machine.machine())
            flavours = bench.scenario.density.flavours
            wanted = list(density_run.variants(options.systems, options.transports, options.tls, flavours))
            output.heading(f"Density on {where}")
            found, missing = await density_run.run(bench.system, wanted, bench.scenario, where, bench.note)
            lines = [ratio.shown() for ratio in ratios.ratios(found)]
            path = bench.finish(rows=found, ratios=lines, missing=missing)
            output.rows("row", rows.COLUMNS, [rows.cells(row) for row in found])
            output.rows("ratio", RATIO_COLUMNS, [_ratio_cells(line) for line in lines])
            _plot(output, path)
            return _last(output, path, bool(found), missing)

    execute(output, work)


@bench_app.command()
@shared()
def latency(options: Options, capacity: CapacityOption = 0, as_json: JsonOption = False) -> None:
    """What a worker adds each way at shares of its capacity, with a plot."""
    options = replace(options, capacity=capacity)
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        with opened("latency", options, output.note) as bench:
            where = machine.one_line(machine.machine())
            carried = bench.capacity()
            variants = [Variant("parley", t, secure) for t in options.transports for secure in options.tls]
            output.heading(f"Latency at shares of {carried} sessions on {where}")
            found = await latency_run.run(bench.system, variants, carried, bench.scenario, where, bench.note)
            path = bench.finish(rows=found)
            output.rows("row", latency_run.COLUMNS, [latency_run.cells(row) for row in found])
            _plot(output, path)
            return _last(output, path, good=True)

    execute(output, work)


@bench_app.command()
@shared()
def soak(
    options: Options,
    capacity: CapacityOption = 0,
    minutes: Annotated[float, typer.Option(help="How long; the scenario's when 0.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """A worker at 75 % of its capacity for 30 minutes, calls coming and going: slopes, drops, underruns."""
    options = replace(options, capacity=capacity)
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        with opened("soak", options, output.note) as bench:
            if minutes:
                plan = replace(bench.scenario.soak, minutes=minutes)
                bench.scenario = replace(bench.scenario, soak=plan)
            where = machine.one_line(machine.machine())
            output.heading(f"Soak of {bench.scenario.soak.minutes:g} minutes on {where}")
            parts = await soak_run.run(bench.system, bench.variant(), bench.capacity(), where, bench.note)
            path = bench.finish(**parts)
            output.rows("fact", ("fact", "value"), report_page.soak_facts(parts))
            return _judged(output, path, parts["soak"])

    execute(output, work)


@bench_app.command()
@shared(elsewhere=False)
def storm(options: Options, capacity: CapacityOption = 0, as_json: JsonOption = False) -> None:
    """100 arrivals a second, and half as many again as there are places: those admitted must not notice."""
    options = replace(options, capacity=capacity)
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        with opened("storm", options, output.note) as bench:
            where = machine.one_line(machine.machine())
            carried = bench.capacity()
            output.heading(f"Storm on a worker of {carried} sessions, on {where}")
            parts = await storm_run.run(bench.system, bench.variant(), carried, where, bench.note)
            path = bench.finish(**parts)
            output.rows("phase", storm_run.COLUMNS, [storm_run.cells(row) for row in parts["rows"]])
            output.rows("against", report_page.AGAINST, report_page.against_calm(parts["storm"]))
            return _judged(output, path, parts["storm"])

    execute(output, work)


@bench_app.command()
@shared(elsewhere=False)
def events(options: Options, as_json: JsonOption = False) -> None:
    """Records into JetStream by the worker's bus: what one costs, what listeners cost, nothing lost."""
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        with opened("events", options, output.note, load=False) as bench:
            where = machine.one_line(machine.machine())
            output.heading(f"Events on {where}")
            found = await events_run.run(bench, where)
            verdict = events_run.verdict(found)
            path = bench.finish(rows=found, events=verdict)
            output.rows("row", events_run.COLUMNS, [events_run.cells(row) for row in found])
            return _judged(output, path, verdict)

    execute(output, work)


@bench_app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="NAME.json of one or more runs.")],
    pages: Annotated[Path, typer.Option(help="Folder for NAME.md and its plot.")] = Path("docs/benchmarks"),
    as_json: JsonOption = False,
) -> None:
    """Write report pages from results: table, machine, versions, command, caveats, plot."""
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        pages.mkdir(parents=True, exist_ok=True)
        for file in results:
            result = read_result(file)
            path = pages / f"{result['bench']}.md"
            path.write_text(report_page.page(result))
            output.note(f"wrote {path}", path=str(path))
            if result["bench"] in ("density", "latency"):
                for plotted in plot.plot(result, pages):
                    output.note(f"wrote {plotted}", path=str(plotted))
        return Exit.OK

    execute(output, work)


def _plot(output: Output, path: Path) -> None:
    """Plots beside the result, where matplotlib is installed."""
    if not plot.available():
        output.note("no plot: matplotlib is not installed (pip install 'parley[bench]')")
        return
    for file in plot.plot(read_result(path), path.parent):
        output.note(f"plotted {file}", path=str(file))


def _judged(output: Output, path: Path, found: dict[str, Any]) -> Exit:
    output.rows("verdict", ("what", "verdict"), list(found["verdicts"].items()))
    output.result(f"written to {path}", good=bool(found["passed"]), path=str(path), **found)
    return Exit.OK if found["passed"] else Exit.FAILED


def _ratio_cells(line: dict[str, Any]) -> Sequence[str]:
    met = "yes" if line["met"] else "NO"
    return line["name"], f"{line['value']:.2f}", line["goal"], met, line["sentence"]


def _last(output: Output, path: Path, good: bool, missing: Sequence[str] = ()) -> Exit:
    """The last line: where the result is, and what is not in it."""
    without = f"; not measured: {'; '.join(missing)}" if missing else ""
    output.result(f"written to {path}{without}", good=good and not missing, path=str(path), missing=missing)
    return Exit.OK if good else Exit.FAILED
