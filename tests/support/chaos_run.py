"""Runs the chaos suite on a cluster: this checkout's own, or that of KUBECONFIG.

    python tests/support/chaos_run.py [--short] [--out build/chaos.json] [CASE...]
    python tests/support/chaos_run.py --list
    python tests/support/chaos_run.py --report build/chaos.json docs/benchmarks/chaos.md

A case that fails does not stop the others. Exit code 1 when one failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos_cases import CASES, Case
from chaos_ground import Ground, off
from chaos_table import Row, from_json, page, table, to_json
from cluster_fixture import ClusterError, ensure_cluster, why_not
from e2e_release import IMAGES, install

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600.0
"""Seconds that a case may take with its preparations; then it has failed."""


def new_row(case: Case) -> Row:
    return Row(case.name, case.promise, silence_allowed_ms=case.silence_ms)


def why_skipped(ground: Ground, case: Case) -> str:
    """Why a case cannot be run here; empty when it can."""
    if case.own and not ground.own:
        return "the nodes of a cluster of KUBECONFIG are not ours to break"
    if len(ground.nodes()) < case.nodes:
        return f"needs {case.nodes} nodes"
    return ""


async def run_case(ground: Ground, case: Case, *, short: bool) -> Row:
    """One case and what it leaves, mended. Never fails: what goes wrong is in the row."""
    row = new_row(case)
    started = time.monotonic()
    try:
        row.skipped = await off(why_skipped, ground, case)
        if not row.skipped:
            async with asyncio.timeout(LIMIT):
                await case.run(ground, row, short)
            row.judge()
    except Exception as error:  # noqa: BLE001 - one case must not stop the others
        row.judge()
        row.problems.append(_words(error))
        traceback.print_exception(error)
    row.seconds = time.monotonic() - started
    try:
        if not row.skipped:
            await off(ground.restore)
    except (ClusterError, AssertionError, OSError) as error:
        row.problems.append(f"not mended: {_words(error)}")
    return row


def _words(error: BaseException) -> str:
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
    return f"{type(inner).__name__}: {str(inner)[:800]}"


def about(ground: Ground, *, short: bool) -> dict[str, Any]:
    """Where and of what this run was."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    whose = "own, booted by tests/support/cluster" if ground.own else "of KUBECONFIG"
    return {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "form": "short" if short else "full",
        "cluster": f"{whose}, {len(ground.nodes())} nodes",
        "machine": f"{os.cpu_count()} CPUs, {memory:.1f} GiB, Linux {platform.release()}, with the callers",
    }


async def run(ground: Ground, names: Sequence[str], out: Path, *, short: bool) -> list[Row]:
    """The cases in turn; the file is written after each."""
    await off(ground.prepare)
    notes, rows = await off(about, ground, short=short), []
    for number, name in enumerate(names, 1):
        print(f"\n--- {name} ({number} of {len(names)}): {CASES[name].promise}", flush=True)
        row = await run_case(ground, CASES[name], short=short)
        rows.append(row)
        print(table([row]), flush=True)
        _write(out, to_json(rows, notes))
    return rows


def _write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--short", action="store_true", help="the cheap cases, with few callers")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos.json")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--report", nargs=2, type=Path, metavar=("JSON", "PAGE"), help="write the page only")
    given = parser.parse_args(argv)
    if given.list:
        print("\n".join(f"{each.name:16} {each.promise}" for each in CASES.values()))
        return 0
    if given.report:
        source, target = given.report
        target.write_text(page(*from_json(source.read_text())))
        return 0
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; --list names them")
    if reason := why_not():
        print(f"no cluster: {reason}", file=sys.stderr)
        return 1
    names = given.cases or [name for name, case in CASES.items() if case.short or not given.short]
    cluster = ensure_cluster(IMAGES)
    try:
        with cluster.namespace("parley-chaos") as namespace:
            release = install(cluster, namespace)
            try:
                rows = asyncio.run(run(Ground(release), names, given.out, short=given.short))
            finally:
                if not os.environ.get("PARLEY_KEEP_NAMESPACES"):
                    release.remove()
    finally:
        cluster.stop()
    print(f"\n{table(rows)}\n\n{given.out}")
    return 0 if all(row.ok or row.skipped for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
