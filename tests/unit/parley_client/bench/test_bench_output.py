"""What comes out of a run: rows, tables, pages and plots; and what the command line takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parley_client.bench import density, latency, plot, report, results, rows, runner, storm
from parley_client.bench.events import verdict
from parley_client.bench.histogram import Histogram
from parley_client.bench.knee import Found
from parley_client.bench.loadgen import find_loadgen
from parley_client.bench.scenario import Scenario, Slo
from parley_client.bench.systems import Variant, pinned
from parley_client.bench.windows import Machine, Point, Traffic, Window
from parley_client.bench.workers import COMPILED, compiled_path, parse_metrics
from parley_client.cli.app import app
from parley_client.errors import MissingProgram, UsageError
from typer.testing import CliRunner

MACHINE = {"virtual": True, "cpus": 2}


def point(sessions: int, late: float = 0.0) -> Point:
    traffic = Traffic(
        sessions=sessions,
        up=Histogram.of([1.5]),
        first=Histogram.of([5.0]),
        down=Histogram.of([late]),
        frames_due=100,
        frames_sent=100,
    )
    machine = Machine(seconds=5.0, cpu_s=0.025 * sessions, memory_mib=60.0 + 0.4 * sessions, fds=20)
    return Point.of(sessions, [(Window(traffic, machine), ())], 0, 1)


def density_row() -> rows.Row:
    return rows.density_row(
        Variant("parley", "converse", True),
        [point(40), point(160, late=12.0), point(200, late=70.0)],
        Found(160, at_least=False),
        Slo(),
        common=40,
        base_mib=60.0,
        versions={"parley": "0.1.0"},
        machine="2 x a CPU",
    )


def test_a_row_holds_the_knee_and_the_common_point() -> None:
    row = density_row()
    wanted = {
        "system": "parley",
        "transport": "converse",
        "tls": True,
        "sessions_per_core": 160.0,
        "sessions_per_core_at_slo": 40.0,
        "cpu_s_per_session_s": 0.005,
        "cpu_s_per_session_s_common": 0.005,
        "mib_per_session": 0.4,
        "added_ms_p99": {"up": 1.5, "down": 12.0},
        "slo": "fail",
        "underruns": 0,
        "drops": 0,
        "machine": "2 x a CPU",
        "versions": {"parley": "0.1.0"},
    }
    assert {key: row[key] for key in wanted} == wanted
    assert [p["sessions"] for p in row["points"]] == [40, 160, 200]
    assert json.loads(json.dumps(row)) == row
    cells = dict(zip(rows.COLUMNS, rows.cells(row), strict=False))
    assert (cells["sess/core"], cells["slo"], cells["at common"]) == ("160", "fail", "5.00 (40)")
    assert len(rows.cells(row)) == len(rows.COLUMNS)


def test_a_system_that_starves_at_once_has_a_row_all_the_same() -> None:
    row = rows.density_row(
        Variant("pipecat", "twilio", False),
        [Point(25, (), False, failed=1)],
        Found(0, at_least=False),
        Slo(),
        common=25,
        base_mib=None,
        versions={},
        machine="",
    )
    assert row["slo"] == "fail"
    assert row["cpu_s_per_session_s"] is None
    assert rows.cells(row)[6] == "-"


def result(name: str, found: list[rows.Row], **more: Any) -> dict[str, Any]:
    import dataclasses

    return {
        "bench": name,
        "format": 1,
        "began": "2026-11-26T00:00:00+00:00",
        "seconds": 60.0,
        "command": f"parley bench {name}",
        "machine": MACHINE,
        "machine_line": "2 x a CPU",
        "versions": {"parley": "0.1.0"},
        "scenario": dataclasses.asdict(Scenario()),
        "rows": found,
        **more,
    }


def test_a_page_tells_table_ratios_machine_and_caveats() -> None:
    ratio = {"name": "a | b", "value": 1.25, "goal": "at most 1.5", "met": True, "sentence": "the same"}
    page = report.page(result("density", [density_row()], ratios=[ratio], missing=["livekit: no root"]))
    for words in (
        "`parley bench density`",
        "2 x a CPU",
        "| parley | converse | tls | 160 |",
        "| a \\| b | 1.25 | at most 1.5 | yes | the same |",
        "livekit: no root",
        "density.svg",
        "virtual",
        "an answer of 3 s each 4 s",
    ):
        assert words in page, words


@pytest.mark.parametrize(("tcp", "said"), [("bbr", True), ("cubic", False), (None, False)])
def test_a_page_says_where_tcp_holds_audio_up(tcp: str | None, said: bool) -> None:
    facts = {**MACHINE, **({"tcp": tcp} if tcp else {})}
    page = report.page({**result("density", [density_row()], ratios=[], missing=[]), "machine": facts})
    assert ("use BBR" in page) is said


def test_every_run_has_a_page() -> None:
    row = {**density_row(), **point(40).shown(Slo()), "share": 0.5, "capacity": 80}
    phase = {**row, "phase": "storm", "offered": 9, "admitted": 5, "refused": {"FULL": 4}}
    phase |= {"rounds": 5, "left_out": {"steal": 1}}
    phase["refused_ms"] = Histogram.of([2.0]).shown()
    assert "50%" in report.page(result("latency", [row]))
    way = {"p99": 5.0, "calm_p99": 4.0, "more_ms": 1.0, "ratio": 1.25}
    against = {"overload": {"rounds": 4, "verdict": "pass", "up": way}}
    page = report.page(
        result("storm", [phase], storm={"verdicts": {"calls lost": "pass"}, "against_calm": against})
    )
    assert "| overload | up | 5.0 | 4.0 | 1.0 | 1.25 | 4 |" in page
    assert "| storm | 40 | 9 | 5 | 4 | 2.0 |" in page
    assert "| 1 of 5 |" in page
    assert "| calls lost | pass |" in page
    assert len(storm.cells(phase)) == len(storm.COLUMNS)
    assert len(latency.cells(row)) == len(latency.COLUMNS)


def test_curves_are_the_points_of_each_label_by_sessions() -> None:
    both = plot.curves(result("density", [density_row(), {**density_row(), "label": "b", "points": []}]))
    assert {label: [p["sessions"] for p in points] for label, points in both.items()} == {
        "parley converse tls": [40, 160, 200]
    }
    single = {key: value for key, value in density_row().items() if key != "points"}
    shares = [{**single, "sessions": n} for n in (90, 30)]
    assert [p["sessions"] for p in plot.curves(result("latency", shares))["parley converse tls"]] == [30, 90]


def test_a_result_is_written_whole_and_read_again(tmp_path: Path) -> None:
    path = results.write(tmp_path / "out", result("events", []))
    assert results.read(path)["bench"] == "events"
    assert [file.name for file in path.parent.iterdir()] == ["events.json"]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no result of `parley bench`"):
        results.read(tmp_path / "other.json")


def test_variants_stand_beside_their_floor() -> None:
    found = density.variants(
        ["parley", "floor", "livekit"], ["converse", "twilio"], [True], ["picows", "websockets"]
    )
    labels = [variant.label for variant in found]
    assert labels == [
        "parley converse tls",
        "parley audio converse tls",
        "floor picows converse tls",
        "floor websockets converse tls",
        "parley twilio tls",
        "livekit webrtc plain",
    ]


def test_what_was_lost_fails_the_events() -> None:
    row = {"system": "parley", "lost": 0, "out_of_order": 0, "delivered": None}
    listened = {**row, "delivered": {"messages": 5, "even": True}}
    assert verdict([row, listened, {**row, "system": "nats-py", "lost": 99}])["passed"]
    assert not verdict([row, {**row, "lost": 1}])["passed"]
    assert not verdict([{**row, "out_of_order": 1}])["passed"]
    assert not verdict([{**row, "delivered": {"messages": 4, "even": False}}])["passed"]
    assert not verdict([])["passed"]


def test_metrics_of_all_shards_add_up() -> None:
    text = '# HELP a b\na_total{shard="0"} 1.5\na_total{shard="1"} 2\nother 7\nnan_one NaN\nbad x\n'
    found = parse_metrics(text)
    assert (found["a_total"], found["other"]) == (3.5, 7.0)
    assert "bad" not in found


def test_a_worker_finds_compiled_sources_before_all_others() -> None:
    assert compiled_path({COMPILED: "/built", "PYTHONPATH": "/mine"}) == {"PYTHONPATH": "/built:/mine"}
    assert compiled_path({COMPILED: "/built"}) == {"PYTHONPATH": "/built"}
    assert compiled_path({COMPILED: "", "PYTHONPATH": "/mine"}) == {}


def test_built_in_scenarios_are_good_and_quick_is_quicker() -> None:
    full = runner.load_scenario(runner.Options())
    quick = runner.load_scenario(runner.Options(quick=True))
    assert full == Scenario()
    assert quick.windows.seconds * quick.windows.wanted < full.windows.seconds * full.windows.wanted
    assert quick.soak.minutes < full.soak.minutes


def test_thresholds_have_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text("{added_p99_ms: 4}")
    assert runner.load_scenario(runner.Options(slo=file)).slo == Slo(added_p99_ms=4.0)
    file.write_text("{p99: 4}")
    with pytest.raises(UsageError, match=r"slo\.p99 is not known"):
        runner.load_scenario(runner.Options(slo=file))


def test_example_files_are_good() -> None:
    folder = Path(__file__).parents[4] / "examples" / "bench"
    found = runner.load_scenario(runner.Options(scenario=folder / "telephony.yaml", slo=folder / "slo.yaml"))
    assert (found.workload.format, found.slo.added_p99_ms) == ("ulaw8", 5.0)


def test_a_worker_elsewhere_is_not_pinned() -> None:
    given = runner.Given(control="10.0.0.7:7071")
    pins = runner.load_scenario(runner.Options(given=given)).pinning
    assert (pins.worker, pins.others) == ((), ())


def test_pins_name_the_cpu_that_is_missing() -> None:
    assert pinned(["worker"], ()) == ["worker"]
    with pytest.raises(UsageError, match="CPU 4096 is asked for"):
        pinned(["worker"], (4096,))


def test_a_missing_load_program_says_how_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PARLEY_CACHE", str(tmp_path))
    with pytest.raises(MissingProgram, match="make loadgen"):
        find_loadgen(None)
    with pytest.raises(MissingProgram, match="--loadgen"):
        find_loadgen(tmp_path / "nothing")
    program = tmp_path / "build" / "bin" / "parley-loadgen"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    assert find_loadgen(None) == program


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["density", "--systems", "parley,elsewhere"], "'elsewhere' is not known"),
        (["latency", "--transport", "pigeon"], "'pigeon' is not known"),
        (["soak", "--worker-admin", "a:1"], "belong to --worker"),
        (["soak", "--session", "a.yaml"], "--session needs --provider-url"),
        (["soak", "--scenario", "missing.yaml"], "missing.yaml"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_starts(arguments: list[str], words: str) -> None:
    ran = CliRunner().invoke(app, ["bench", *arguments])
    assert ran.exit_code == 2
    assert words in " ".join(ran.output.split())


def test_every_command_explains_its_options() -> None:
    for name in ("density", "latency", "soak", "storm", "events"):
        ran = CliRunner().invoke(app, ["bench", name, "--help"], env={"COLUMNS": "200"})
        assert ran.exit_code == 0, ran.output
        assert "--scenario" in ran.output
        assert ("--worker-tls" in ran.output) is (name not in ("storm", "events"))
