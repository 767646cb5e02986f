"""Runs every check and every rung of tests in order and ends with one line that counts each rung.

Called by `make test`. Each step's output goes to the terminal as it comes; the steps run to the end even when
one fails, so that one run tells everything. Exit code 0 only when every step passed and every rung ran tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "junit"
RUNGS = ("unit", "integration", "conformance", "e2e")
# These rungs meet real sockets, processes and a shared machine: up to so many failures are tried once more.
# What passes only then is named as flaky in the last lines: a bug to mend, but no reason to refuse a change.
# In e2e one failed fixture fails every test of its file.
TRIED_AGAIN = {"integration": 3, "conformance": 3, "e2e": 15}
# A rung that mostly waits is run in parts side by side, each a process of its own.
WORKER = "tests/integration/parley_worker"
PARTS = {
    "integration": {
        "integration-worker": (WORKER,),
        "integration-others": ("tests/integration", f"--ignore={WORKER}"),
    }
}
CHECKS = ("lint", "types", "verify-gen", "verify-docs", "chart-test")
SLOW_TESTS_SHOWN = 15


@dataclass
class Rung:
    """What one rung of tests gave."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    flaky: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slow: list[tuple[float, str]] = field(default_factory=list)

    @property
    def words(self) -> str:
        text = f"{self.name} {self.passed} passed"
        if self.failed:
            text += f" {self.failed} failed"
        if self.skipped:
            text += f" {self.skipped} skipped"
        if self.flaky:
            text += f" ({len(self.flaky)} flaky)"
        return text


@dataclass(frozen=True)
class Step:
    """One step with its duration in seconds."""

    name: str
    ok: bool
    seconds: float


def run(name: str, command: Sequence[str], log: Path | None = None) -> Step:
    """With a log its output is shown when it has ended, in one piece."""
    print(f"\n=== {name}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    if log is None:
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        said = ""
    else:
        with log.open("wb") as output:
            code = subprocess.run(command, cwd=ROOT, check=False, stdout=output, stderr=output).returncode
        said = f"\n=== {name} said:\n{log.read_text(errors='replace')}"
    seconds = time.monotonic() - start
    end = "ok" if code == 0 else f"FAILED (exit {code})"
    print(f"{said}=== {name}: {end} in {seconds:.0f} s", flush=True)
    return Step(name, code == 0, seconds)


def run_side_by_side(commands: dict[str, list[str]]) -> list[Step]:
    """All at once, the first one's output as it comes."""
    (first, command), *others = commands.items()
    with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
        later = [pool.submit(run, name, given, BUILD / f"{name}.log") for name, given in others]
        return [run(first, command), *(each.result() for each in later)]


def report_of(rung: str) -> Path:
    return BUILD / f"{rung}.xml"


def read(rung: str, runs: Sequence[str]) -> Rung:
    """What these runs of the rung gave together."""
    result = Rung(rung)
    for report in filter(Path.exists, map(report_of, runs)):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            outcome = {child.tag for child in case}
            name = f"{case.get('classname')}::{case.get('name')}"
            if outcome & {"failure", "error"}:
                result.failed += 1
                result.failures.append(name)
            elif "skipped" in outcome:
                result.skipped += 1
            else:
                result.passed += 1
            result.slow.append((float(case.get("time", 0)), name))
    return result


def run_rung(name: str) -> tuple[Step, Rung]:
    parts = PARTS.get(name, {name: (f"tests/{name}",)})
    steps = run_side_by_side({part: pytest(part, part, *paths) for part, paths in parts.items()})
    rung = read(name, list(parts))
    step = Step(name, all(each.ok for each in steps), max(each.seconds for each in steps))
    if step.ok or not 0 < rung.failed <= TRIED_AGAIN.get(name, 0):
        return step, rung
    failed = [each.name for each in steps if not each.ok]
    last = ("--last-failed", "--last-failed-no-failures=none")
    second = [run(f"{part}-again", pytest(f"{part}-again", part, *parts[part], *last)) for part in failed]
    retried = read(name, [each.name for each in second])
    if not all(each.ok for each in second) or retried.passed < rung.failed:
        return step, rung
    rung.flaky, rung.failures = rung.failures, []
    rung.passed, rung.failed = rung.passed + rung.failed, 0
    return Step(name, True, step.seconds + sum(each.seconds for each in second)), rung


def pytest(report: str, cache: str, *arguments: str) -> list[str]:
    """A run of tests; what failed in it is known to the next one with the same cache."""
    report_of(report).unlink(missing_ok=True)
    kept = f"cache_dir={BUILD / 'cache' / cache}"
    return [sys.executable, "-m", "pytest", *arguments, f"--junitxml={report_of(report)}", "-o", kept]


def main(argv: list[str]) -> int:
    wanted = argv[1:] if argv[1:] not in ([], ["all"]) else [*CHECKS, *RUNGS]
    BUILD.mkdir(parents=True, exist_ok=True)
    steps: list[Step] = []
    rungs: list[Rung] = []
    make = os.environ.get("MAKE", "make")
    for name in wanted:
        if name not in RUNGS:
            steps.append(run(name, [make, "--no-print-directory", name]))
            continue
        if name != "unit":
            steps.append(run(f"{name} ground", [make, "--no-print-directory", f"ground-{name}"]))
        step, rung = run_rung(name)
        steps.append(step)
        rungs.append(rung)
    print("\nSlowest tests")
    for seconds, test in sorted((s for rung in rungs for s in rung.slow), reverse=True)[:SLOW_TESTS_SHOWN]:
        print(f"  {seconds:7.1f} s  {test}")
    print("\nSteps")
    for step in steps:
        print(f"  {step.seconds:7.0f} s  {step.name}{'' if step.ok else '  FAILED'}")
    for failed_step in (step for step in steps if not step.ok):
        print(f"failed: {failed_step.name}")
    for rung in rungs:
        for test in rung.flaky:
            print(f"flaky: {rung.name}: {test} failed once and passed when tried again")
    empty = [rung.name for rung in rungs if rung.passed == 0]
    if empty:
        print(f"rungs without a passed test: {', '.join(empty)}")
    in_ci_skipped = os.environ.get("CI") == "true" and any(r.skipped for r in rungs if r.name == "e2e")
    if in_ci_skipped:
        print("e2e tests were skipped in CI: that is a failure")
    totals = [sum(getattr(r, what) for r in rungs) for what in ("passed", "failed", "skipped")]
    print(f"\n{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    print("rungs: " + ", ".join(rung.words for rung in rungs))
    return 0 if all(step.ok for step in steps) and not empty and not in_ci_skipped else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
