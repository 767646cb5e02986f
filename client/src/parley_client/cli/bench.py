"""`parley bench`: measurements that users run on their own machines, or against their cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from parley_client.bench import density as density_run
from parley_client.bench import machine, ratios, rows
from parley_client.bench.runner import Options, opened

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
            wanted = list(density_run.variants(options.systems, options.transports, options.tls))
            output.heading(f"Density on {where}")
            found, missing = await density_run.run(bench.system, wanted, bench.scenario, where, bench.note)
            lines = [ratio.shown() for ratio in ratios.ratios(found)]
            path = bench.finish(rows=found, ratios=lines, missing=missing)
            output.rows("row", rows.COLUMNS, [rows.cells(row) for row in found])
            output.rows("ratio", RATIO_COLUMNS, [_ratio_cells(line) for line in lines])
            return _last(output, path, bool(found), missing)

    execute(output, work)


def _ratio_cells(line: dict[str, Any]) -> Sequence[str]:
    met = "yes" if line["met"] else "NO"
    return line["name"], f"{line['value']:.2f}", line["goal"], met, line["sentence"]


def _last(output: Output, path: Path, good: bool, missing: Sequence[str] = ()) -> Exit:
    """The last line: where the result is, and what is not in it."""
    without = f"; not measured: {'; '.join(missing)}" if missing else ""
    output.result(f"written to {path}{without}", good=good and not missing, path=str(path), missing=missing)
    return Exit.OK if good else Exit.FAILED
