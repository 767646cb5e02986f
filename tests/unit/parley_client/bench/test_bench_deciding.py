"""The pure parts that decide: the search for the knee, ratios against goals, a soak's verdicts, scenarios."""

from __future__ import annotations

from typing import Any

import pytest
from parley_client.bench.cluster import copy_of
from parley_client.bench.knee import KneeSearch, Tried
from parley_client.bench.ratios import ratios
from parley_client.bench.scenario import Knee, Scenario, Soak, read_scenario
from parley_client.bench.steadiness import Sample, judge, slope
from parley_client.errors import UsageError


def walk(
    search: KneeSearch, capacity: int, cost: float, limit: int = 10_000, at_slo: int = 10_000
) -> list[int]:
    """Search a system of `cost` cores a session that starves past `capacity` and meets the SLO with up to
    `at_slo` sessions; the points in order."""
    tried = []
    while (sessions := search.next()) is not None:
        tried.append(sessions)
        cores = min(1.0, sessions * cost)
        search.add(Tried(sessions, cores, sessions > capacity, sessions >= limit, sessions <= at_slo))
    return tried


def test_the_search_goes_up_by_the_cpu_and_closes_in() -> None:
    search = KneeSearch(Knee(points=6, resolution=0.05), 40)
    tried = walk(search, capacity=180, cost=0.0046)
    assert tried[:2] == [40, 228]
    assert 165 <= search.found.sessions <= 180
    assert not search.found.at_least


def test_the_search_leaps_only_so_far() -> None:
    search = KneeSearch(Knee(points=2), 40)
    assert walk(search, capacity=5000, cost=0.0001) == [40, 320]
    assert search.found.sessions == 320
    assert search.found.at_least


def test_a_full_core_that_does_not_starve_is_passed_in_small_steps() -> None:
    search = KneeSearch(Knee(points=3), 100)
    assert walk(search, capacity=1000, cost=0.0099) == [100, 108, 117]


def test_a_system_that_starves_at_once_is_searched_downwards() -> None:
    search = KneeSearch(Knee(points=5), 40)
    assert walk(search, capacity=12, cost=0.05) == [40, 20, 10, 15, 12]
    assert search.found.sessions == 12
    search = KneeSearch(Knee(points=2), 2)
    assert walk(search, capacity=0, cost=0.5) == [2, 1]
    assert search.found.sessions == 0


def test_the_most_sessions_that_meet_the_slo_are_searched_below_the_knee() -> None:
    search = KneeSearch(Knee(points=3, slo_points=3), 40)
    assert walk(search, capacity=200, cost=0.0065, at_slo=110) == [40, 162, 175, 101, 131, 116]
    assert search.found.sessions == 175
    search = KneeSearch(Knee(points=3, slo_points=3), 40)
    assert walk(search, capacity=200, cost=0.0065, at_slo=30) == [40, 162, 175]


def test_a_point_that_starves_in_the_search_for_the_slo_moves_no_knee() -> None:
    search = KneeSearch(Knee(points=2, slo_points=2), 40)
    for sessions, in_slo in ((40, True), (162, False)):
        assert search.next() == sessions
        search.add(Tried(sessions, min(1.0, sessions * 0.0065), False, in_slo=in_slo))
    assert search.next() == 101
    search.add(Tried(101, 1.0, True))
    assert search.next() == 70
    assert search.found.sessions == 162


def test_the_load_programs_end_ends_the_search() -> None:
    search = KneeSearch(Knee(points=9), 40)
    assert walk(search, capacity=10_000, cost=0.002, limit=300) == [40, 320]
    assert search.found.at_least


def test_no_point_lies_above_the_ceiling() -> None:
    search = KneeSearch(Knee(points=9, ceiling=100), 40)
    assert walk(search, capacity=10_000, cost=0.0001) == [40, 100]


def row(system: str, transport: str, *, tls: bool = True, flavour: str = "", **more: Any) -> dict[str, Any]:
    label = f"{system} {flavour} {transport} {'tls' if tls else 'plain'}".replace("  ", " ")
    return {
        "system": system,
        "transport": transport,
        "tls": tls,
        "label": label,
        "flavour": flavour,
        "sessions_per_core": 100.0,
        "common_sessions": 40,
        "cpu_s_per_session_s": 0.005,
        "cpu_s_per_session_s_common": 0.006,
        "mib_per_session": None,
        **more,
    }


def test_ratios_compare_like_with_like() -> None:
    found = ratios(
        [
            row("parley", "converse", cpu_s_per_session_s_common=0.009, sessions_per_core=120.0),
            row("parley", "converse", tls=False),
            row("floor", "converse", flavour="picows"),
            row("floor", "conversemany", flavour="picows"),
            row("pipecat", "twilio", sessions_per_core=32.0),
            row("livekit", "webrtc", tls=False, sessions_per_core=10.0),
        ]
    )
    lines = {ratio.name: ratio for ratio in found}
    cost = lines["CPU of parley converse tls / floor picows converse tls, at 40 sessions"]
    assert cost.value == pytest.approx(1.5)
    assert cost.met
    assert lines["CPU of parley converse tls / floor picows converse tls, each at its knee"].value == 1.0
    density = lines["sessions a core, parley converse tls / pipecat twilio tls"]
    assert (density.value, density.met) == (pytest.approx(3.75), False)
    assert lines["sessions a core, parley converse tls / livekit webrtc plain"].met
    assert not any("conversemany" in name or "floor picows converse plain" in name for name in lines)


def test_every_ratio_says_what_differs() -> None:
    found = ratios(
        [
            row("parley", "conversemany", mib_per_session=0.4),
            row("parley", "twilio"),
            row("pipecat", "twilio", sessions_per_core=5.0),
            row("floor", "conversemany", flavour="picows"),
        ]
    )
    assert len(found) == 6
    assert all(ratio.sentence and "{" not in ratio.sentence for ratio in found)
    telephony = next(r for r in found if r.name.startswith("sessions a core, parley twilio"))
    assert "Twilio's JSON without resampling" in telephony.sentence
    memory = next(r for r in found if r.name.startswith("MiB"))
    assert memory.met
    assert memory.value == 0.4


def sample(at: float, **more: Any) -> Sample:
    values: dict[str, Any] = {
        "sessions": 75,
        "memory_mib": 100.0,
        "fds": 20 + 2 * 75,
        "tasks": 10 + 3 * 75,
        "underruns": 0,
        "drops": 0,
        "marked": False,
    }
    return Sample(at=at, **{**values, **more})


EMPTY = sample(0.0, sessions=0, memory_mib=60.0, fds=20, tasks=10)


def test_a_flat_soak_passes() -> None:
    series = [sample(10.0 * n, memory_mib=100.0 + n % 2) for n in range(180)]
    found = judge(series, EMPTY, EMPTY, 0, Soak())
    assert found["passed"]
    assert found["fds"] == {"fixed": 20, "each": 2.0}
    assert found["tasks"] == {"fixed": 10, "each": 3.0}
    assert found["fds_deviation"] == 0.0
    assert abs(found["memory_mib_per_hour"]) < 2


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [
        (lambda n: {"memory_mib": 100.0 + n * 0.2}, "memory"),
        (lambda n: {"fds": 170 + n}, "fds"),
        (lambda n: {"tasks": 235 + n}, "tasks"),
        (lambda n: {"drops": n == 3}, "drops"),
        (lambda n: {"underruns": n == 3}, "underruns"),
    ],
)
def test_what_grows_or_is_lost_fails_a_soak(broken: Any, verdict: str) -> None:
    series = [sample(10.0 * n, **broken(n)) for n in range(180)]
    found = judge(series, EMPTY, EMPTY, 0, Soak())
    assert [name for name, word in found["verdicts"].items() if word == "fail"] == [verdict]


def test_descriptors_that_stay_behind_fail_a_soak() -> None:
    left = sample(1800.0, sessions=0, fds=60, tasks=10, memory_mib=70.0)
    found = judge([sample(10.0 * n) for n in range(180)], EMPTY, left, 0, Soak())
    assert found["verdicts"]["fds"] == "fail"


def test_underruns_of_a_disturbed_window_are_explained() -> None:
    series = [sample(10.0 * n, underruns=5 if n == 3 else 0, marked=n == 3) for n in range(180)]
    found = judge(series, EMPTY, EMPTY, 0, Soak())
    assert (found["underruns_explained"], found["underruns_unexplained"]) == (5, 0)
    assert found["passed"]


def test_a_short_soak_says_nothing_of_memory() -> None:
    series = [sample(10.0 * n, memory_mib=100.0 + 5 * n, tasks=None) for n in range(6)]
    verdicts = judge(series, EMPTY, EMPTY, 1, Soak())["verdicts"]
    assert verdicts["memory"] == verdicts["tasks"] == "unknown"
    assert verdicts["failed calls"] == "fail"


def test_a_slope_is_a_straight_line_with_its_error() -> None:
    found = slope([(0.0, 1.0), (3600.0, 3.0), (7200.0, 5.0)])
    assert found is not None
    assert (found.per_hour, found.error) == (pytest.approx(2.0), pytest.approx(0.0))
    assert slope([(0.0, 1.0), (1.0, 2.0)]) is None
    assert slope([(5.0, 1.0)] * 4) is None


def test_scenarios_lie_on_top_of_each_other() -> None:
    below = {"windows": {"seconds": 5, "wanted": 3}, "density": {"common": {"parley": 40, "floor": 40}}}
    above = {"windows": {"wanted": 1}, "density": {"common": {"parley": 8}}, "slo": {"added_p99_ms": 5}}
    found = read_scenario(("a", below), ("b", None), ("c", above))
    assert (found.windows.seconds, found.windows.wanted) == (5.0, 1)
    assert found.density.common == {"parley": 8, "floor": 40}
    assert found.slo.added_p99_ms == 5.0
    assert found.pinning == Scenario().pinning
    assert read_scenario(("a", {"pinning": {"worker": [], "others": [2, 3]}})).pinning.others == (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"window": {}}, "mine.yaml: window is not known; the keys are workload, windows"),
        ({"windows": {"second": 1}}, "windows.second is not known"),
        ({"windows": {"seconds": "long"}}, "windows.seconds is 'long': give a number"),
        ({"windows": {"wanted": 1.5}}, "windows.wanted is 1.5: give a whole number"),
        ({"windows": {"bound": -1}}, "windows.bound is -1"),
        ({"windows": 3}, "windows is 3: give a mapping"),
        ({"pinning": {"worker": 0}}, "pinning.worker is 0: give a list"),
        ({"density": {"common": {"parley": True}}}, "density.common.parley is True"),
        ({"workload": {"format": "mp3"}}, "workload.format is 'mp3': give one of pcm24, ulaw8"),
        (["windows"], "a scenario is a mapping"),
    ],
)
def test_a_wrong_scenario_is_named(data: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        read_scenario(("mine.yaml", data))


def test_a_clusters_session_is_copied_for_each_call() -> None:
    session = {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": "VoiceSession",
        "metadata": {"name": "a" * 60, "namespace": "phones", "labels": {"team": "x"}, "uid": "u"},
        "spec": {"agentRef": {"name": "desk"}, "session": {"instructions": "Be kind.", "tools": []}},
        "status": {"phase": "Ready"},
    }
    made = copy_of(session, "abc123", 7, "ws://10.0.0.2:9100/v1/realtime")
    assert made["metadata"] == {
        "name": f"{'a' * 40}-abc123-7",
        "labels": {"team": "x", "parley.dev/bench": "abc123"},
    }
    assert made["spec"] == {
        "agentRef": {"name": "desk"},
        "provider": {"type": "custom", "url": "ws://10.0.0.2:9100/v1/realtime"},
        "session": {"instructions": "Be kind. sid=7", "tools": []},
    }
    assert "status" not in made
    assert session["spec"] == {
        "agentRef": {"name": "desk"},
        "session": {"instructions": "Be kind.", "tools": []},
    }
