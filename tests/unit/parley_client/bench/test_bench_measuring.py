"""The pure parts that windows and points are made of: histograms, /proc, marks, starvation, the SLO."""

from __future__ import annotations

import dataclasses

import pytest
from parley_client.bench import correlate, proc
from parley_client.bench.histogram import Histogram
from parley_client.bench.scenario import Knee, Slo, Windows
from parley_client.bench.windows import Machine, Point, Thefts, Traffic, Window, marks


def test_a_histogram_is_read_merged_and_asked() -> None:
    one = Histogram.read({"buckets": [[1.0, 98], [5.0, 1]], "max": 4.9})
    two = Histogram.read({"buckets": [[1.0, 1], [50.0, 0]], "max": 0.9})
    both = Histogram.merge([one, two])
    assert both.count == 100
    assert both.quantile(0.5) == 1.0
    assert both.quantile(0.99) == 1.0
    assert both.quantile(1.0) == 4.9
    assert both.above(1.0) == 1
    assert both.shown() == {"p50": 1.0, "p99": 1.0, "p999": 4.9, "max": 4.9, "count": 100}


def test_a_histogram_without_values_has_no_quantiles() -> None:
    assert Histogram().quantile(0.99) is None
    assert Histogram.read(None).shown()["p50"] is None
    assert Histogram.of([0.0, 0.001, 20.0]).quantile(0.99) == 20.0


STAT = "4711 (a (strange) name) S 12 4711 4711 0 -1 4194304 10 20 0 0 150 50 30 20 20 0 7 0 98765 1 2 3"
CPUS = """cpu  100 0 100 0 0 0 0 0 0 0
cpu0 100 50 150 1000 9 5 15 20 0 0
cpu11 200 0 100 900 0 0 0 0 0 0
intr 12345
"""


def test_a_process_is_read_with_the_children_that_it_waited_for() -> None:
    stat = proc.parse_stat(STAT, 100.0)
    assert (stat.parent, stat.user, stat.system, stat.threads, stat.began) == (12, 1.8, 0.7, 7, 98765)


def test_cpus_are_read_by_number() -> None:
    found = proc.parse_cpus(CPUS, 100.0)
    assert set(found) == {0, 11}
    assert found[0] == proc.CpuTimes(busy=3.0, interrupts=0.2, steal=0.2)


def test_memory_and_waiting_are_read() -> None:
    assert proc.parse_rollup("00-ff ---p [rollup]\nRss: 999 kB\nPss:    2048 kB\nPss_Dirty: 1 kB\n") == 2.0
    assert proc.parse_rollup("") == 0.0
    assert proc.parse_run_delay("100 2500000000 3\n") == 2.5


def test_a_tree_is_all_that_is_below_its_roots() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    assert sorted(proc.tree_of(parents, [10])) == [10, 11, 12]
    assert sorted(proc.tree_of(parents, [10, 11])) == [10, 11, 12]
    assert proc.tree_of(parents, [99]) == []


def window(**machine: float) -> Window:
    traffic = Traffic(
        sessions=10,
        up=Histogram.of([1.0] * 100),
        first=Histogram.of([25.0] * 10),
        down=Histogram.of([0.0] * 99 + [4.0]),
        lag=Histogram.of([0.1] * 100),
        frames_sent=1000,
        frames_due=1000,
        frames_received=1000,
    )
    return Window(traffic, Machine(**{"seconds": 5.0, "cpu_s": 0.5, **machine}))


def changed(given: Window, **traffic: object) -> Window:
    return dataclasses.replace(given, traffic=dataclasses.replace(given.traffic, **traffic))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (window(), ()),
        (window(steal=0.02), ("steal",)),
        (window(steal=0.001, steal_ms=40.0), ("steal",)),
        (window(steal=0.009, steal_ms=30.0), ()),
        (window(others=0.5), ("others",)),
        (changed(window(), lag=Histogram.of([9.0])), ("load program late",)),
        (window(steal=1.0, others=1.0), ("steal", "others")),
        (changed(window(), stall=Histogram.of([0.1] * 999 + [17.0])), ("standstill",)),
        (changed(window(), stall=Histogram.of([9.0])), ()),
    ],
)
def test_windows_are_marked_with_what_disturbed_them(given: Window, wanted: tuple[str, ...]) -> None:
    assert marks(given, Windows()) == wanted


def test_what_is_taken_at_once_is_told_from_what_is_taken_little_by_little() -> None:
    slowly, burst = Thefts(), Thefts()
    for number in range(100):
        slowly.read(number * 0.05, number * 0.005)
        burst.read(number * 0.05, 0.09 if number >= 50 else 0.0)
    assert slowly.most_s == pytest.approx(0.015)
    assert burst.most_s == pytest.approx(0.09)
    # A reader that was stopped meanwhile sees one long slice.
    late = Thefts()
    late.read(0.0, 0.0)
    late.read(2.0, 0.05)
    assert late.most_s == pytest.approx(0.05)
    assert Thefts().most_s == 0.0


def test_a_point_counts_its_clean_windows_alone() -> None:
    bad = changed(window(steal=0.5), underruns=9)
    point = Point.of(10, [(bad, ("steal",)), (window(), ()), (window(), ())], 0, 1)
    assert len(point.windows) == 2
    assert point.clean
    assert point.left_out == {"steal": 1}
    assert point.traffic.underruns == 0
    assert point.cores == pytest.approx(0.1)
    assert point.cpu_s_per_session_s == pytest.approx(0.01)


def test_a_point_without_a_clean_window_keeps_the_least_disturbed_one_and_says_so() -> None:
    worse, better = window(steal=0.5), window(steal=0.1)
    point = Point.of(10, [(worse, ("steal",)), (better, ("steal",))], 0, 1)
    assert point.windows == (better,)
    assert not point.clean
    assert point.left_out == {"steal": 2}


def test_the_cpu_of_a_worker_elsewhere_is_not_known() -> None:
    point = Point.of(10, [(window(cpu_s=None), ())], 0, 1)  # type: ignore[arg-type]
    assert point.cpu_s_per_session_s is None
    assert point.shown(Slo())["cores"] is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"up": Histogram.of([11.0])}, "up p99"),
        ({"down": Histogram.of([12.0])}, "down p99"),
        ({"first": Histogram.of([31.0])}, "first p99"),
        ({"underruns": 1}, "1 underruns"),
        ({"drops_up": 1, "drops_down": 2}, "3 drops"),
        ({"down": Histogram()}, "no audio"),
    ],
)
def test_what_misses_the_slo_is_named(changes: dict[str, object], word: str) -> None:
    misses = Point.of(10, [(changed(window(), **changes), ())], 0, 1).misses(Slo())
    assert [word in miss for miss in misses] == ([True] if word else [])


def test_a_first_piece_may_wait_for_its_frame() -> None:
    point = Point.of(10, [(changed(window(), first=Histogram.of([29.9])), ())], 0, 1)
    assert not point.misses(Slo())


@pytest.mark.parametrize(
    ("changes", "starved"),
    [
        ({}, False),
        ({"down": Histogram.of([0.0] * 98 + [61.0] * 2)}, True),
        ({"down": Histogram.of([0.0] * 100 + [61.0])}, False),
        ({"drops_down": 20}, True),
        ({"drops_up": 11}, True),
        ({"up": Histogram.of([160.0] * 97 + [501.0] * 2)}, True),
        ({"up": Histogram.of([160.0] * 100)}, False),
        ({"down": Histogram()}, True),
    ],
)
def test_a_point_starves_by_late_or_lost_audio(changes: dict[str, object], starved: bool) -> None:
    point = Point.of(10, [(changed(window(), **changes), ())], 0, 1)
    assert point.starved(Knee()) is starved


def test_a_failed_call_starves_a_point() -> None:
    assert Point(5, (), False, failed=1).starved(Knee())
    assert Point.of(10, [(window(), ())], 1, 1).starved(Knee())


def answer(began: float) -> list[float]:
    return [began + 0.06 * n for n in range(20)]


def test_raw_times_of_callers_become_a_windows_traffic() -> None:
    times = [101.05 + 0.02 * n for n in range(150)]
    times[100] += 0.05
    callers = {"rx_bytes_ms": 48.0, "sessions": [{"sid": 3, "rx_t": times, "rx_b": [960] * 150}]}
    appends = {
        "sid": 3,
        "rate_bytes_ms": 48.0,
        "ap_t": [100.0 + 0.02 * n + (0.004 if n == 300 else 0) for n in range(400)],
        "ap_b": [960 * (n + 1) for n in range(400)],
        "resp": [answer(101.0)],
    }
    stale = {**appends, "ap_t": [], "ap_b": [], "resp": []}
    found = correlate.traffic(callers, [appends, stale], 100.5, 107.0, 3.0)
    assert found.responses == found.responses_complete == 1
    assert found.first.quantile(1.0) == pytest.approx(50.0, abs=0.02)
    assert found.down.maximum == pytest.approx(50.0, abs=0.1)
    assert found.underruns == 1
    assert (found.frames_due, found.frames_received, found.drops_down) == (150, 150, 0)
    assert found.up.maximum == pytest.approx(4.0, abs=0.1)


def test_an_answer_that_ends_outside_the_window_is_left_to_another() -> None:
    callers = {"rx_bytes_ms": 48.0, "sessions": [{"sid": 3, "rx_t": [101.1], "rx_b": [960]}]}
    connection = {"sid": 3, "rate_bytes_ms": 48.0, "ap_t": [101.0], "ap_b": [960], "resp": [answer(101.0)]}
    assert correlate.traffic(callers, [connection], 100.0, 103.0, 3.0).responses == 0
    late = correlate.traffic(callers, [connection], 100.0, 105.0, 3.0)
    assert (late.responses, late.drops_down, late.responses_complete) == (1, 149, 0)
