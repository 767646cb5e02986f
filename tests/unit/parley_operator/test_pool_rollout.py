"""Which pods of a pool are made, drained and deleted, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.domain.pools.ending import LAST_WORK, time_left
from parley_operator.domain.pools.pods import WorkerPod
from parley_operator.domain.pools.rollout import AFTER_DEADLINE, SCALE_DOWN, decide_pool

NOW = 1000.0


def pod(name: str, **facts: Any) -> WorkerPod:
    return WorkerPod(name, name, **{"ready": True, **facts})


def old(name: str, **facts: Any) -> WorkerPod:
    return pod(name, outdated="Revision", **facts)


def names(found: tuple[tuple[str, str], ...]) -> list[str]:
    return [name for name, _ in found]


def test_missing_pods_are_made() -> None:
    assert decide_pool(2, 1, [], NOW).create == 2
    assert decide_pool(2, 1, [pod("a", ready=False)], NOW).create == 1
    assert decide_pool(2, 1, [pod("a"), pod("b", terminating=True)], NOW).create == 1
    assert decide_pool(2, 1, [pod("a"), pod("b", draining=True, deadline=NOW + 9)], NOW).create == 1


def test_pods_that_are_over_are_removed_and_replaced() -> None:
    decision = decide_pool(1, 1, [pod("a", over=True, ready=False)], NOW)
    assert (decision.create, decision.remove) == (1, ("a",))


def test_scaling_down_drains_the_emptiest() -> None:
    pods = [pod("a", sessions=3), pod("b"), pod("c", sessions=1), pod("d", certain=False)]
    assert decide_pool(1, 1, pods, NOW).drain == (("b", SCALE_DOWN), ("c", SCALE_DOWN), ("a", SCALE_DOWN))
    assert decide_pool(0, 1, pods, NOW).delete == ()
    # Of equals the one goes first whose node may be taken away.
    assert names(decide_pool(1, 1, [pod("a"), pod("b", parting=True)], NOW).drain) == ["b"]


def test_what_never_ran_is_deleted_without_a_drain() -> None:
    decision = decide_pool(1, 1, [pod("a"), pod("b", ready=False, running=False, certain=False)], NOW)
    assert (decision.drain, decision.delete) == ((), ("b",))


def test_a_change_makes_the_new_pod_first() -> None:
    before = [old("a"), old("b")]
    first = decide_pool(2, 1, before, NOW)
    assert (first.create, first.drain) == (1, ())
    waiting = decide_pool(2, 1, [*before, pod("c", ready=False)], NOW)
    assert (waiting.create, waiting.drain) == (0, ())
    ready = decide_pool(2, 1, [*before, pod("c")], NOW)
    assert ready.drain == (("a", "Revision"),)


def test_draining_pods_count_against_the_surge_and_never_against_what_is_wanted() -> None:
    drains = old("a", sessions=1, draining=True, deadline=NOW + 60)
    assert decide_pool(2, 1, [drains, old("b"), pod("c")], NOW).create == 0
    assert decide_pool(2, 2, [drains, old("b"), pod("c")], NOW).create == 1
    assert decide_pool(2, 1, [drains, pod("c")], NOW).create == 1
    assert decide_pool(5, 1, [drains, old("b"), pod("c")], NOW).create == 3


def test_a_new_revision_that_does_not_start_costs_no_old_pod() -> None:
    pods = [old("a"), old("b"), pod("c", ready=False, running=False)]
    decision = decide_pool(2, 1, pods, NOW)
    assert (decision.create, decision.drain, decision.delete) == (0, (), ())


def test_a_broken_revision_is_replaced_by_the_next() -> None:
    broken = [old(name, ready=False, running=False) for name in "ab"]
    assert decide_pool(2, 1, [*broken, pod("c", ready=False)], NOW).delete == ("a",)


@pytest.mark.parametrize(
    ("facts", "goes"),
    [
        ({"sessions": 0, "told": True}, True),
        ({"sessions": 0, "told": False}, False),
        ({"sessions": 1, "told": True}, False),
        ({"sessions": 0, "told": True, "certain": False}, False),
        ({"sessions": 2, "running": False, "certain": False}, True),
        ({"sessions": 2, "told": True, "deadline": NOW - AFTER_DEADLINE}, True),
        ({"sessions": 2, "told": True, "deadline": NOW - AFTER_DEADLINE + 1}, False),
    ],
)
def test_a_draining_pod_goes_when_it_is_surely_empty_or_out_of_time(
    facts: dict[str, Any], goes: bool
) -> None:
    found = pod("a", draining=True, **{"deadline": NOW + 60, **facts})
    assert (decide_pool(1, 1, [found, pod("b")], NOW).delete == ("a",)) is goes


@settings(deadline=None)
@given(
    st.integers(0, 4),
    st.integers(1, 4),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), max_size=7),
)
def test_never_less_than_wanted_and_never_more_than_the_surge(
    wanted: int, surge: int, facts: list[tuple[bool, bool, int]]
) -> None:
    pods = [
        pod(f"p{n}", outdated="Revision" if aged else "", ready=ready, sessions=s)
        for n, (aged, ready, s) in enumerate(facts)
    ]
    decision = decide_pool(wanted, surge, pods, NOW)
    going = names(decision.drain)
    left = [p for p in pods if p.name not in going]
    assert len(pods) + decision.create <= max(wanted + surge, len(pods))
    assert sum(p.ready for p in left) >= min(sum(p.ready for p in pods), wanted)


@dataclass
class Life:
    """A pod of the simulation: when it is ready, when its sessions end, when it was told to drain."""

    pod: WorkerPod
    ready_at: float
    ends: list[float]
    drained_at: float = 0.0


class Fleet:
    """Pods, sessions and an operator in virtual time. Sessions come to every pod that serves."""

    def __init__(self, wanted: int, surge: int, drain_timeout: float) -> None:
        self.wanted, self.surge, self.drain_timeout = wanted, surge, drain_timeout
        self.now, self.revision, self.made = NOW, 1, 0
        self.lives: dict[str, Life] = {}
        self.cut: list[tuple[str, float]] = []
        self.most = 0

    def look(self) -> None:
        for life in self.lives.values():
            life.ends = [end for end in life.ends if end > self.now]
            draining = life.drained_at > 0
            life.pod = replace(
                life.pod,
                ready=self.now >= life.ready_at and not draining,
                sessions=len(life.ends),
                draining=draining,
                told=draining,
                deadline=life.drained_at + self.drain_timeout if draining else 0.0,
                outdated="Revision" if life.pod.revision != str(self.revision) else "",
            )
        pods = [life.pod for life in self.lives.values()]
        decision = decide_pool(self.wanted, self.surge, pods, self.now)
        for name, _ in decision.drain:
            self.lives[name].drained_at = self.now
        for name in decision.delete:
            life = self.lives.pop(name)
            self.cut += [(name, self.now - life.drained_at) for _ in life.ends]
        for _ in range(decision.create):
            self.made += 1
            name = f"p{self.made}"
            made = pod(name, revision=str(self.revision), ready=False)
            self.lives[name] = Life(made, self.now + 5, [])
        self.most = max(self.most, len(self.lives))

    def run(self, seconds: int, calls: list[float]) -> None:
        for second in range(seconds):
            self.now += 1
            self.look()
            serving = sum(not life.drained_at and self.now >= life.ready_at for life in self.lives.values())
            if calls and second % 3 == 0:
                for life in self.lives.values():
                    if not life.drained_at and self.now >= life.ready_at:
                        life.ends.append(self.now + calls[second % len(calls)])
            self.least = min(getattr(self, "least", serving), serving)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([10.0, 60.0]),
    st.lists(st.floats(1, 200), min_size=1, max_size=8),
)
def test_a_rollout_ends_and_cuts_no_session_before_its_time(
    wanted: int, surge: int, drain_timeout: float, calls: list[float]
) -> None:
    fleet = Fleet(wanted, surge, drain_timeout)
    fleet.run(20, [])
    fleet.least = wanted
    fleet.revision = 2
    fleet.run(int(wanted * (drain_timeout + 30)), calls)
    assert {life.pod.revision for life in fleet.lives.values() if not life.drained_at} == {"2"}
    assert sum(not life.drained_at for life in fleet.lives.values()) == wanted
    assert fleet.least == wanted, "there was always a ready worker for an old one"
    assert fleet.most <= wanted + surge
    assert [waited for _, waited in fleet.cut if waited < drain_timeout] == []


def test_scaling_up_again_makes_new_pods_and_cuts_nothing() -> None:
    fleet = Fleet(3, 1, 60.0)
    fleet.run(10, [])
    fleet.run(9, [40.0])
    fleet.wanted = 1
    fleet.run(5, [])
    assert sum(life.drained_at > 0 for life in fleet.lives.values()) == 2
    fleet.wanted = 3
    fleet.run(5, [])
    assert sum(not life.drained_at for life in fleet.lives.values()) == 3
    assert len(fleet.lives) == 5
    fleet.run(80, [])
    assert len(fleet.lives) == 3
    assert fleet.cut == []


ENDING = pod("a", terminating=True, grace=30.0, killed_at=NOW + 30)


@pytest.mark.parametrize(
    ("facts", "drain_timeout", "seen_for", "left"),
    [
        ({}, 600.0, 0, 30 - LAST_WORK),
        ({}, 5.0, 0, 5),
        ({}, 600.0, 4, 30 - LAST_WORK - 4),
        # It guessed less, or more, than there is, or just right.
        ({"reported_deadline": NOW + 2}, 600.0, 0, 30 - LAST_WORK),
        ({"reported_deadline": NOW + 600}, 600.0, 0, 30 - LAST_WORK),
        ({"reported_deadline": NOW + 18}, 600.0, 0, None),
        # What an operator promised before holds as far as there is time.
        ({"marked": True, "reported_deadline": NOW + 10}, 600.0, 0, None),
        ({"marked": True, "reported_deadline": NOW + 60}, 600.0, 0, 30 - LAST_WORK),
        ({"killed_at": NOW, "grace": 0.0}, 600.0, 0, 0),
        # The deletion was seen late, as by another operator.
        ({"killed_at": NOW + 20}, 600.0, 0, 20 - LAST_WORK),
        # Clocks that cannot be right: nobody is ended at once.
        ({"killed_at": NOW + 30 - 3600}, 600.0, 0, 30 - LAST_WORK),
        ({"killed_at": NOW + 30 + 3600}, 600.0, 5, 30 - LAST_WORK - 5),
        ({"terminating": False}, 600.0, 0, None),
        ({"certain": False}, 600.0, 0, None),
    ],
)
def test_a_worker_learns_when_its_pod_is_killed(
    facts: dict[str, Any], drain_timeout: float, seen_for: float, left: float | None
) -> None:
    """SIGTERM does not say how much time there is; the pod's deletion does."""
    assert time_left(replace(ENDING, **facts), drain_timeout, seen_for, NOW) == left
