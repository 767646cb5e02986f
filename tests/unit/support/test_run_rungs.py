"""The runner of the rungs: what is tried again, and that it is told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import run_rungs
from run_rungs import Step, run_rung

CASE = '<testcase classname="m" name="{name}" time="0.1">{outcome}</testcase>'


def report(**tests: str) -> str:
    cases = "".join(CASE.format(name=name, outcome=outcome) for name, outcome in tests.items())
    return f"<testsuites><testsuite>{cases}</testsuite></testsuites>"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Give the reports of the runs to come; returns the names of the runs that were asked for."""

    def plan(*reports: str) -> list[str]:
        waiting, asked = list(reports), []
        one_by_one = threading.Lock()

        def run(name: str, command: list[str], log: Path | None = None) -> Step:
            with one_by_one:
                text = waiting.pop(0)
                asked.append(name)
            run_rungs.report_of(name).write_text(text)
            return Step(name, "<failure" not in text, 1.0)

        monkeypatch.setattr(run_rungs, "BUILD", tmp_path)
        monkeypatch.setattr(run_rungs, "run", run)
        return asked

    return plan


def test_a_green_rung_runs_once(runs: Callable[..., list[str]]) -> None:
    asked = runs(report(a="", b="<skipped/>"))
    step, rung = run_rung("conformance")
    assert (asked, step.ok, rung.words) == (["conformance"], True, "conformance 1 passed 1 skipped")


def test_parts_run_side_by_side_and_count_as_one_rung(runs: Callable[..., list[str]]) -> None:
    asked = runs(report(a="", b="<skipped/>"), report(a=""))
    step, rung = run_rung("integration")
    assert sorted(asked) == sorted(run_rungs.PARTS["integration"])
    assert (step.ok, rung.words) == (True, "integration 2 passed 1 skipped")


def test_only_the_part_that_failed_is_tried_again(runs: Callable[..., list[str]]) -> None:
    asked = runs(report(a="", b="<failure/>"), report(a=""), report(b=""))
    step, rung = run_rung("integration")
    assert (len(asked), asked[2].removesuffix("-again")) == (3, asked[0])
    assert (step.ok, rung.words, rung.flaky) == (True, "integration 3 passed (1 flaky)", ["m::b"])


def test_every_test_of_a_rung_is_in_one_of_its_parts() -> None:
    for rung, parts in run_rungs.PARTS.items():
        whole, apart = {f"tests/{rung}"}, {path for paths in parts.values() for path in paths}
        left_out = {path.removeprefix("--ignore=") for path in apart if path.startswith("--ignore=")}
        assert whole <= apart
        assert left_out == apart - whole - {f"--ignore={path}" for path in left_out}


def test_what_is_said_in_a_log_is_shown_at_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    assert not run_rungs.run("x", [sys.executable, "-c", "print('words'); raise SystemExit(3)"], log).ok
    assert "=== x said:\nwords\n=== x: FAILED (exit 3)" in capfd.readouterr().out


def test_what_passes_the_second_time_is_named_as_flaky(runs: Callable[..., list[str]]) -> None:
    asked = runs(report(a="", b="<failure/>"), report(b=""))
    step, rung = run_rung("conformance")
    assert asked == ["conformance", "conformance-again"]
    assert step.ok
    assert rung.words == "conformance 2 passed (1 flaky)"
    assert rung.flaky == ["m::b"]


def test_what_fails_twice_has_failed(runs: Callable[..., list[str]]) -> None:
    runs(report(a="", b="<failure/>"), report(b="<failure/>"))
    step, rung = run_rung("e2e")
    assert not step.ok
    assert rung.words == "e2e 1 passed 1 failed"


def test_a_second_run_that_ran_nothing_proves_nothing(runs: Callable[..., list[str]]) -> None:
    runs(report(a="", b="<failure/>"), report(a="<skipped/>"))
    step, rung = run_rung("e2e")
    assert not step.ok
    assert rung.failed == 1


@pytest.mark.parametrize(("rung", "failures"), [("unit", 1), ("conformance", 4)])
def test_not_everything_is_tried_again(runs: Callable[..., list[str]], rung: str, failures: int) -> None:
    asked = runs(report(**{f"t{n}": "<failure/>" for n in range(failures)}))
    step, _ = run_rung(rung)
    assert (asked, step.ok) == ([rung], False)
