"""The ledger: places are counted once, promised once, and only where a worker takes sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.model import SessionReport, SessionState, WorkerState, WorkerView
from parley_operator.domain.placement.ledger import SHUN_MOST, Ledger

POOL = ("ns", "p")


def report(uid: str, state: SessionState = SessionState.ACTIVE, namespace: str = "a") -> SessionReport:
    return SessionReport(uid, 1, namespace, uid, state)


def view(name: str = "w", capacity: int = 2, live: tuple[str, ...] = (), **changes: Any) -> WorkerView:
    found = WorkerView(
        name,
        *POOL,
        instance_id="i",
        state=WorkerState.READY,
        capacity=capacity,
        connected=True,
        sessions={uid: report(uid) for uid in live},
    )
    return replace(found, **changes)


def ledger_of(*views: WorkerView) -> Ledger:
    made = Ledger()
    for each in views:
        made.see(each)
    made.dirty.clear()
    return made


def test_a_place_is_not_promised_twice() -> None:
    ledger = ledger_of(view(capacity=1))
    ledger.reserve("s", "a", "w")
    assert ledger.free(POOL, 0.0) == 0
    with pytest.raises(ValueError, match="no free place"):
        ledger.reserve("t", "a", "w")
    ledger.reserve("s", "a", "w")
    with pytest.raises(ValueError, match="no free place"):
        ledger.reserve("t", "a", "unknown")


def test_a_session_reported_and_reserved_counts_once() -> None:
    ledger = ledger_of(view(capacity=3))
    ledger.reserve("s", "a", "w")
    ledger.hear("w", report("s"))
    assert (ledger.free(POOL, 0.0), ledger.used_by(POOL, "a")) == (2, 1)
    ledger.release("s")
    assert (ledger.free(POOL, 0.0), ledger.used_by(POOL, "a")) == (2, 1)
    ledger.hear("w", report("s", SessionState.ENDED))
    assert (ledger.free(POOL, 0.0), ledger.used_by(POOL, "a")) == (3, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"connected": False},
        {"instance_id": ""},
        {"state": WorkerState.STARTING},
        {"state": WorkerState.DRAINING},
        {"draining": True},
    ],
)
def test_who_does_not_answer_or_is_to_go_counts_as_full(changes: dict[str, Any]) -> None:
    ledger = ledger_of(view(**changes))
    assert ledger.free(POOL, 0.0) == 0
    ledger.see(view())
    assert ledger.dirty == {POOL}
    assert ledger.free(POOL, 0.0) == 2
    ledger.see(view(**changes))
    assert list(ledger.roomy(POOL, 0.0)) == []


def test_what_a_silent_worker_runs_still_counts_for_the_quota() -> None:
    ledger = ledger_of(view(live=("s",)))
    ledger.see(view(live=("s",), connected=False))
    assert ledger.used_by(POOL, "a") == 1
    ledger.unsee("w")
    assert ledger.used_by(POOL, "a") == 0
    assert ledger.dirty == {POOL}


def test_promises_outlive_the_link_but_not_the_worker() -> None:
    ledger = ledger_of(view())
    ledger.reserve("s", "a", "w")
    ledger.unsee("w")
    ledger.see(view())
    assert ledger.free(POOL, 0.0) == 1
    ledger.forget_worker("w")
    ledger.see(view())
    assert (ledger.free(POOL, 0.0), ledger.reservations) == (2, 0)


def test_what_one_process_was_promised_says_nothing_of_the_next() -> None:
    ledger = ledger_of(view())
    ledger.reserve("s", "a", "w")
    ledger.see(view(instance_id="j"))
    assert ledger.free(POOL, 0.0) == 2
    assert ledger.reservations == 1
    ledger.see(view(instance_id="i"))
    assert ledger.free(POOL, 0.0) == 1


def test_a_promise_is_restored_before_its_worker_is_known_and_beyond_its_room() -> None:
    ledger = Ledger()
    ledger.restore("s", "w", "i", "a")
    ledger.restore("t", "w", "i", "a")
    ledger.see(view(capacity=1))
    assert (ledger.free(POOL, 0.0), ledger.used_by(POOL, "a")) == (0, 2)
    # It goes to another worker: the first one has a place less promised.
    ledger.restore("s", "other", "i", "a")
    ledger.release("t")
    assert ledger.free(POOL, 0.0) == 1


def test_a_worker_that_said_full_is_left_alone_for_longer_and_longer() -> None:
    ledger = ledger_of(view())
    assert ledger.shun("w", "i", 0.0, 1.0) == 1.0
    # Others that it refused at the same time make it no worse.
    assert ledger.shun("w", "i", 0.5, 1.0) == 1.0
    assert ledger.free(POOL, 0.9) == 0
    assert ledger.free(POOL, 1.0) == 2
    ledger.expire(1.0)
    assert ledger.dirty == {POOL}
    assert ledger.shun("w", "i", 1.0, 1.0) == 3.0
    at = 3.0
    for _ in range(20):
        at = ledger.shun("w", "i", at, 1.0)
    assert ledger.shun("w", "i", at, 1.0) == at + SHUN_MOST
    ledger.trust("w")
    ledger.expire(at + SHUN_MOST)
    assert ledger.shun("w", "i", 1000.0, 1.0) == 1001.0
    ledger.see(view(instance_id="next"))
    assert ledger.free(POOL, 1000.5) == 2


def test_who_speaks_of_a_session_is_known() -> None:
    ledger = ledger_of(view("a", live=("s", "t")), view("b"))
    ledger.hear("b", report("s", SessionState.ENDED))
    assert sorted(ledger.tellers("s")) == ["a", "b"]
    ledger.see(view("a", live=("t",)))
    assert ledger.tellers("s") == ("b",)
    ledger.unsee("b")
    assert ledger.tellers("s") == ledger.tellers("unknown") == ()
    assert ledger.tellers("t") == ("a",)


def test_nothing_is_kept_of_workers_that_are_gone() -> None:
    ledger = Ledger()
    for number in range(50):
        name = f"w{number}"
        ledger.see(view(name, live=(f"s{number}",)))
        ledger.reserve(f"t{number}", "a", name)
        ledger.shun(name, "i", 0.0, 1.0)
        ledger.forget_worker(name)
    kept = {k: v for k, v in vars(ledger).items() if v and k not in ("dirty", "_tally")}
    assert kept == {}
    assert not any(ledger._tally[POOL].values())
