"""Who gets a place, and which messages come too late."""

from __future__ import annotations

import pytest
from parley_worker.core.admission import (
    TRANSITIONS,
    Admission,
    EndedMemory,
    Fence,
    Place,
    Refusal,
    RefusalReason,
    WorkerState,
)

FENCE = Fence(1, "me")


def ready(capacity: int = 2) -> Admission:
    admission = Admission(capacity, "me")
    assert admission.become(WorkerState.READY)
    return admission


def reason(verdict: Place | Refusal) -> RefusalReason:
    assert isinstance(verdict, Refusal), verdict
    assert verdict.message
    return verdict.reason


def test_the_same_request_gets_the_same_place_and_takes_one() -> None:
    admission = ready()
    assert admission.admit("a", 1, FENCE, 0) == Place(new=True)
    assert admission.admit("a", 1, FENCE, 1) == Place(new=False)
    assert admission.sessions == 1


def test_a_full_worker_refuses_newcomers_only() -> None:
    admission = ready(1)
    admission.admit("a", 1, FENCE, 0)
    assert reason(admission.admit("b", 1, FENCE, 0)) is RefusalReason.FULL
    assert admission.admit("a", 1, FENCE, 0) == Place(new=False)
    admission.ended("a", 1, 1)
    assert admission.admit("b", 1, FENCE, 2) == Place(new=True)


def test_draining_refuses_newcomers_and_confirms_those_here() -> None:
    admission = ready()
    admission.admit("a", 1, FENCE, 0)
    assert admission.become(WorkerState.DRAINING)
    assert reason(admission.admit("b", 1, FENCE, 0)) is RefusalReason.DRAINING
    assert reason(admission.admit("a", 2, FENCE, 0)) is RefusalReason.DRAINING
    assert admission.admit("a", 1, FENCE, 0) == Place(new=False)


def test_places_given_are_counted() -> None:
    admission = ready()
    admission.admit("a", 1, FENCE, 0)
    admission.admit("a", 1, FENCE, 0)
    admission.admit("b", 1, FENCE, 0)
    admission.withdraw("b", 1)
    admission.ended("a", 1, 1)
    admission.admit("c", 1, FENCE, 2)
    assert admission.total == 2


def test_starting_and_overloaded_workers_refuse() -> None:
    assert reason(Admission(1, "me").admit("a", 1, FENCE, 0)) is RefusalReason.OVERLOADED
    verdict = ready().admit("a", 1, FENCE, 0, overloaded="the event loop lags 900 ms")
    assert reason(verdict) is RefusalReason.OVERLOADED
    assert isinstance(verdict, Refusal)
    assert "900 ms" in verdict.message


@pytest.mark.parametrize(
    ("fence", "expected"),
    [
        (Fence(1, "someone else"), RefusalReason.WRONG_INSTANCE),
        (Fence(1, ""), RefusalReason.WRONG_INSTANCE),
        (Fence(4, "me"), RefusalReason.STALE_LEADER),
    ],
)
def test_stale_senders_change_nothing(fence: Fence, expected: RefusalReason) -> None:
    admission = ready()
    assert admission.check(Fence(5, "me")) is None
    assert reason(admission.admit("a", 1, fence, 0)) is expected
    assert admission.sessions == 0


def test_a_message_for_another_instance_does_not_raise_the_epoch() -> None:
    admission = ready()
    assert admission.check(Fence(9, "other")) is not None
    assert admission.check(Fence(1, "me")) is None


def test_only_the_first_watch_may_leave_the_instance_out() -> None:
    admission = ready()
    assert admission.check(Fence(1, ""), instance_optional=True) is None
    assert admission.check(Fence(1, "other"), instance_optional=True) is not None


def test_attempts_only_go_up() -> None:
    admission = ready()
    admission.admit("a", 3, FENCE, 0)
    assert reason(admission.admit("a", 2, FENCE, 0)) is RefusalReason.STALE_ATTEMPT
    admission.ended("a", 3, 1)
    assert reason(admission.admit("a", 2, FENCE, 2)) is RefusalReason.STALE_ATTEMPT
    assert reason(admission.admit("a", 3, FENCE, 2)) is RefusalReason.ENDED
    assert admission.admit("a", 4, FENCE, 2) == Place(new=True)


def test_a_newer_attempt_replaces_the_older_one_even_when_full() -> None:
    admission = ready(1)
    admission.admit("a", 1, FENCE, 0)
    assert admission.admit("a", 2, FENCE, 0) == Place(new=True, replaces=True)
    assert admission.sessions == 2
    admission.ended("a", 1, 1)
    assert admission.sessions == 1
    assert admission.admit("a", 2, FENCE, 1) == Place(new=False)


def test_what_ended_is_forgotten_after_15_minutes() -> None:
    admission = ready()
    admission.admit("a", 1, FENCE, 0)
    admission.ended("a", 1, 10)
    assert reason(admission.admit("a", 1, FENCE, 10 + 899)) is RefusalReason.ENDED
    assert admission.admit("a", 1, FENCE, 10 + 900) == Place(new=True)


def test_the_memory_of_the_ended_is_bounded() -> None:
    memory: EndedMemory[int] = EndedMemory()
    for number in range(1500):
        memory.put(str(number), number, 0)
    assert list(memory.values(1)) == list(range(476, 1500))


def test_every_move_of_the_worker_state_is_in_the_table() -> None:
    for start in WorkerState:
        for end in WorkerState:
            admission = Admission(1, "me")
            for step in {
                WorkerState.STARTING: (),
                WorkerState.READY: (WorkerState.READY,),
                WorkerState.DRAINING: (WorkerState.DRAINING,),
                WorkerState.STOPPED: (WorkerState.STOPPED,),
            }[start]:
                admission.become(step)
            assert admission.become(end) == (end in TRANSITIONS[start])


def test_a_worker_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        Admission(0, "me")


def test_an_older_attempt_that_ends_last_gives_its_place_back() -> None:
    admission = ready(2)
    admission.admit("a", 1, FENCE, 0)
    admission.admit("a", 2, FENCE, 0)
    assert admission.sessions == 2
    admission.ended("a", 2, 1)
    assert admission.sessions == 1
    admission.ended("a", 1, 2)
    admission.ended("a", 1, 2)
    assert admission.sessions == 0


def test_a_place_that_was_withdrawn_was_never_given() -> None:
    admission = ready(1)
    admission.admit("a", 1, FENCE, 0)
    admission.withdraw("a", 1)
    assert admission.sessions == 0
    assert admission.admit("a", 1, FENCE, 1) == Place(new=True)
    assert admission.admit("a", 2, FENCE, 2) == Place(new=True, replaces=True)
    admission.withdraw("a", 2)
    assert admission.sessions == 1
    assert admission.admit("a", 1, FENCE, 3) == Place(new=False)
    admission.withdraw("a", 7)
    assert admission.sessions == 1
