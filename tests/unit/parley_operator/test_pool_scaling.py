"""Autoscaling in virtual time: bounds, buffer, no flapping, no more speed than allowed."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.api.fields import FieldError
from parley_operator.api.fleet import AutoscalingSpec, Portion
from parley_operator.api.placement import PlacementSpec, QuotaSpec
from parley_operator.api.v1alpha1 import parse_pool_spec
from parley_operator.domain.placement.demand import Choice, PoolRules, Request
from parley_operator.domain.placement.desk import Desk
from parley_operator.domain.pools.scaling import Demand, Scaling, begin, recommend, step

BUFFERS = st.one_of(
    st.builds(Portion, st.integers(0, 40)), st.builds(Portion, st.integers(0, 200), st.just(True))
)
SPECS = st.integers(0, 20).flatmap(
    lambda least: st.builds(
        AutoscalingSpec,
        st.just(least),
        st.integers(max(1, least), 60),
        BUFFERS,
        st.floats(0, 600),
        st.integers(0, 5),
    )
)
LOADS = st.lists(
    st.tuples(st.floats(0.5, 90), st.integers(0, 500), st.integers(0, 60)), min_size=1, max_size=40
)


def spec(**changes: object) -> AutoscalingSpec:
    given_ = {"least": 1, "most": 10, "buffer": Portion(2), "stabilization": 100.0, **changes}
    return AutoscalingSpec(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("buffer", "sessions", "waiting", "workers"),
    [
        (Portion(0), 0, 0, 1),
        (Portion(2), 18, 0, 2),
        (Portion(2), 19, 0, 3),
        (Portion(2), 9, 10, 3),
        (Portion(20, percent=True), 50, 0, 6),
        (Portion(20, percent=True), 500, 0, 10),
    ],
)
def test_enough_for_the_sessions_and_the_buffer(
    buffer: Portion, sessions: int, waiting: int, workers: int
) -> None:
    assert recommend(spec(buffer=buffer), 10, Demand(sessions, waiting)) == workers


@settings(deadline=None)
@given(SPECS, st.integers(1, 30), st.integers(0, 80), LOADS)
def test_within_bounds_and_with_its_buffer(
    spec: AutoscalingSpec, per_worker: int, present: int, loads: list[tuple[float, int, int]]
) -> None:
    now = 50.0
    scaling = begin(spec, present, now)
    for after, sessions, waiting in loads:
        now += after
        demand = Demand(sessions, waiting)
        scaling = step(spec, per_worker, demand, scaling, now)
        assert spec.least <= scaling.wanted <= spec.most
        load = sessions + waiting
        enough = ceil((load + spec.buffer.of(load)) / per_worker)
        if not spec.most_added:
            assert scaling.wanted >= min(enough, spec.most)
        assert len(scaling.peaks) <= spec.most + 2
        assert all(at > now - 90 - 60 for at, _ in scaling.steps[1:])


@settings(deadline=None)
@given(SPECS, st.integers(1, 30), LOADS)
def test_fewer_only_when_a_whole_window_wanted_fewer(
    spec: AutoscalingSpec, per_worker: int, loads: list[tuple[float, int, int]]
) -> None:
    now = 0.0
    scaling = begin(spec, 5, now)
    advised = [(now, scaling.wanted)]
    for after, sessions, waiting in loads:
        now += after
        before = scaling.wanted
        demand = Demand(sessions, waiting)
        scaling = step(spec, per_worker, demand, scaling, now)
        advised.append((now, recommend(spec, per_worker, demand)))
        if scaling.wanted < before:
            assert max(n for at, n in advised if at > now - spec.stabilization or at == now) < before


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0.5, 40), st.integers(0, 400)), max_size=60))
def test_never_faster_up_than_allowed(rate: int, loads: list[tuple[float, int]]) -> None:
    rules = spec(most=100, most_added=rate, stabilization=0.0)
    now = 0.0
    scaling = begin(rules, 1, now)
    wanted = [(now, scaling.wanted)]
    for after, sessions in loads:
        now += after
        scaling = step(rules, 10, Demand(sessions), scaling, now)
        # What was wanted a minute ago was in force since before that.
        first = max(n for n, (at, _) in enumerate(wanted) if at <= now - 60 or n == 0)
        assert scaling.wanted <= max(wanted[-1][1], min(n for _, n in wanted[first:]) + rate)
        wanted.append((now, scaling.wanted))


def follow(rules: AutoscalingSpec, loads: list[int], every: float = 10.0) -> list[int]:
    scaling: Scaling = begin(rules, 1, 0.0)
    found = []
    for number, load in enumerate(loads):
        scaling = step(rules, 10, Demand(load), scaling, (number + 1) * every)
        found.append(scaling.wanted)
    return found


def test_a_load_that_comes_and_goes_moves_nothing_down() -> None:
    wanted = follow(spec(), [38, 2] * 20)
    assert set(wanted) == {4}


def test_a_load_that_is_gone_is_forgotten_after_the_window() -> None:
    wanted = follow(spec(), [38] + [2] * 20)
    assert wanted[:10] == [4] * 10
    assert wanted[11:] == [1] * 10


def test_a_fleet_that_is_taken_over_is_kept_for_a_window() -> None:
    rules = spec()
    scaling = begin(rules, 7, 0.0)
    assert step(rules, 10, Demand(0), scaling, 50.0).wanted == 7
    assert step(rules, 10, Demand(0), scaling, 101.0).wanted == 1


def test_while_a_worker_is_silent_nobody_is_let_go() -> None:
    rules, now = spec(stabilization=0.0), 0.0
    scaling = begin(rules, 5, now)
    for _ in range(10):
        now += 30
        scaling = step(rules, 10, Demand(3, certain=False), scaling, now)
        assert scaling.wanted == 5
    assert step(rules, 10, Demand(3, 60, certain=False), scaling, now + 1).wanted == 7
    assert step(rules, 10, Demand(3), scaling, now + 1).wanted == 1


def test_a_step_up_is_made_at_the_rate() -> None:
    wanted = follow(spec(most=100, most_added=3), [300] * 24)
    assert wanted[0] == 4
    assert max(b - a for a, b in zip(wanted, wanted[6:], strict=False)) <= 3
    assert wanted[-1] >= 13


def test_only_what_more_workers_would_help_is_lacking() -> None:
    desk, pool = Desk(), ("media", "p")
    quotas = {"sales": QuotaSpec("sales", most=3)}
    desk.set_rules(pool, PoolRules(PlacementSpec(), quotas))
    for n in range(5):
        desk.want(Request(f"s{n}", "sales", f"s{n}", n, (Choice(pool),)))
        desk.want(Request(f"h{n}", "help", f"h{n}", n, (Choice(("media", "other")), Choice(pool))))
    desk.want(Request("lost", "sales", "lost", 9, (Choice(pool),), urgent=True))
    assert desk.waiting(pool) == 11
    assert desk.lacking(pool) == 3 + 5 + 1
    assert desk.lacking(("media", "none")) == 0


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ({"autoscaling": {"min": 3, "max": 2}}, "spec.autoscaling.min"),
        ({"autoscaling": {"min": 3}}, "spec.autoscaling.max"),
        ({"autoscaling": {"max": 3, "bufferSessions": "many"}}, "spec.autoscaling.bufferSessions"),
        ({"autoscaling": {"max": 3, "bufferSessions": True}}, "spec.autoscaling.bufferSessions"),
        ({"autoscaling": {"max": 3, "most": 3}}, "spec.autoscaling.most"),
        ({"updateStrategy": {"maxSurge": 0}}, "spec.updateStrategy.maxSurge"),
        ({"updateStrategy": {"maxSurge": "0%"}}, "spec.updateStrategy.maxSurge"),
        ({"recycle": {"maxAge": "10s"}}, "spec.recycle.maxAge"),
        ({"recycle": {"maxMemory": "2 GB"}}, "spec.recycle.maxMemory"),
        ({"recycle": {"maxSessions": 0}}, "spec.recycle.maxSessions"),
    ],
)
def test_bad_values_are_named(given_: object, path: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_pool_spec(given_)
    assert caught.value.path == path


def test_what_a_pool_may_say() -> None:
    found = parse_pool_spec(
        {
            "autoscaling": {"min": 0, "max": 9, "bufferSessions": "10%", "stabilization": "1m"},
            "updateStrategy": {"maxSurge": "50%", "machineGrace": "25s"},
            "recycle": {"maxAge": "24h", "maxMemory": "2Gi", "maxSessions": 1000},
        }
    )
    assert found.autoscaling == AutoscalingSpec(0, 9, Portion(10, percent=True), 60.0)
    assert [found.strategy.surge.of(n) for n in (0, 1, 4, 5)] == [0, 1, 2, 3]
    assert (found.strategy.machine_grace, found.recycle.max_memory) == (25.0, 2 << 30)
