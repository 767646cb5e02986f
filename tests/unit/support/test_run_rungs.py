"""The runner of the rungs: what is tried again, and that it is told."""

from __future__ import annotations

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

        def run(name: str, command: list[str]) -> Step:
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
    step, rung = run_rung("integration")
    assert (asked, step.ok, rung.words) == (["integration"], True, "integration 1 passed 1 skipped")


def test_what_passes_the_second_time_is_named_as_flaky(runs: Callable[..., list[str]]) -> None:
    asked = runs(report(a="", b="<failure/>"), report(b=""))
    step, rung = run_rung("integration")
    assert asked == ["integration", "integration-again"]
    assert step.ok
    assert rung.words == "integration 2 passed (1 flaky)"
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


@pytest.mark.parametrize(("rung", "failures"), [("unit", 1), ("integration", 4)])
def test_not_everything_is_tried_again(runs: Callable[..., list[str]], rung: str, failures: int) -> None:
    asked = runs(report(**{f"t{n}": "<failure/>" for n in range(failures)}))
    step, _ = run_rung(rung)
    assert (asked, step.ok) == ([rung], False)
