"""The ledger never promises more than there is, whatever the order of things."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.domain.ledger import Ledger, choose_packed, free_places
from parley_operator.domain.model import SessionReport, SessionState, WorkerState, WorkerView

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "report", "end", "release", "silence", "restart"]), st.integers(0, 30)
    ),
    max_size=120,
)


def view(name: str, capacity: int, live: set[str], connected: bool, instance: str) -> WorkerView:
    sessions = {uid: SessionReport(uid, 1, "ns", uid, SessionState.ACTIVE) for uid in live}
    return WorkerView(
        name, "ns", "p", instance_id=instance, state=WorkerState.READY, capacity=capacity, sessions=sessions,
        connected=connected,
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_never_over_capacity(steps: list[tuple[str, int]], capacities: list[int]) -> None:
    ledger = Ledger()
    names = [f"w{n}" for n in range(len(capacities))]
    live: dict[str, set[str]] = {name: set() for name in names}
    pending: dict[str, str] = {}
    silent: set[str] = set()
    instance = dict.fromkeys(names, 0)
    counter = 0

    def views() -> list[WorkerView]:
        return [
            view(n, c, live[n], n not in silent, str(instance[n]))
            for n, c in zip(names, capacities, strict=True)
        ]

    for step, number in steps:
        name = names[number % len(names)]
        if step == "place":
            load = choose_packed(ledger.loads(views(), 0.0))
            if load is not None:
                assert load.worker not in silent
                counter += 1
                ledger.reserve(f"s{counter}", load)
                pending[f"s{counter}"] = load.worker
        elif step == "report" and pending:
            uid = sorted(pending)[number % len(pending)]
            live[pending.pop(uid)].add(uid)
            if number % 2:
                ledger.release(uid)
        elif step == "end" and live[name]:
            uid = sorted(live[name])[0]
            live[name].discard(uid)
            ledger.release(uid)
        elif step == "release" and pending:
            uid = sorted(pending)[0]
            ledger.release(uid)
            del pending[uid]
        elif step == "silence":
            silent ^= {name}
        elif step == "restart":
            instance[name] += 1
            live[name].clear()
            ledger.forget_worker(name)
            pending = {u: w for u, w in pending.items() if w != name}
        for each, capacity in zip(names, capacities, strict=True):
            promised = {u for u, w in pending.items() if w == each}
            assert len(live[each] | promised) <= capacity


def test_a_place_is_not_promised_twice() -> None:
    ledger = Ledger()
    one = view("w", 1, set(), True, "i")
    ledger.reserve("a", ledger.load(one, 0.0))
    assert free_places(ledger.loads([one], 0.0)) == 0
    with pytest.raises(ValueError, match="no free place"):
        ledger.reserve("b", ledger.load(one, 0.0))
    ledger.reserve("a", ledger.load(one, 0.0))


def test_a_session_reported_and_reserved_counts_once() -> None:
    ledger = Ledger()
    ledger.restore("a", "w", "i")
    assert ledger.load(view("w", 3, {"a"}, True, "i"), 0.0).used == 1


def test_a_worker_that_said_full_is_left_alone_for_a_while() -> None:
    ledger = Ledger()
    one = view("w", 3, set(), True, "i")
    ledger.shun("w", "i", 10.0)
    assert ledger.load(one, 9.0).free == 0
    assert ledger.load(one, 10.0).free == 3
    ledger.shun("w", "i", 20.0)
    assert ledger.load(view("w", 3, set(), True, "next"), 15.0).free == 3
