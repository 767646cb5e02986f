"""Decisions about sessions: Observation in, Decision out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import LimitsSpec, SessionSpec
from parley_operator.domain.checks import Problem
from parley_operator.domain.decide import Act, after_refusal, asking, decide
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitVerdict,
    Placement,
    ProviderTarget,
    SessionReport,
    SessionState,
    Usage,
)
from parley_operator.domain.observation import Fate, Observation, Plan, Subject
from parley_operator.domain.phases import (
    TERMINAL,
    TRANSITIONS,
    EndReason,
    Phase,
    advance,
    end_reason,
    phase_of,
)
from parley_operator.domain.placement.demand import Grant
from parley_operator.domain.placement.desk import Standing, WaitReason
from parley_operator.domain.placement.notes import EVERY, RATE, next_note
from parley_operator.domain.subjects import bound_placement

NOW = 1_000_000.0
SPEC = SessionSpec(agent_ref="a", limits=LimitsSpec(queue_timeout=30.0))
SUBJECT = Subject("ns", "call", "uid-1", 1, NOW - 5, SPEC)
TARGET = ProviderTarget("wss://x.example", "ga", "m", SecretText("sk-key"))
PLAN = Plan(SPEC, "ns", "default", TARGET, "{}", False)
PLACED = Placement("w", "i1", 1, confirmed=True, endpoint="1.2.3.4:5", since=NOW - 10)


def seen(**changes: Any) -> Observation:
    return replace(Observation(SUBJECT, NOW, plan=PLAN), **changes)


def report(state: SessionState, **changes: Any) -> SessionReport:
    return replace(SessionReport("uid-1", 1, "ns", "call", state), **changes)


def conditions(status: Any) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def standing(reason: WaitReason = WaitReason.FULL, position: int = 5, **changes: Any) -> Standing:
    return replace(Standing(position, 9, 9, reason), **changes)


def test_a_place_that_is_kept_is_taken() -> None:
    grant = Grant("uid-1", "w", "i", ("ns", "default"))
    decision = decide(seen(grant=grant))
    assert (decision.act, decision.grant, decision.status) == (Act.PLACE, grant, {})


def test_waiting_is_noted_with_the_position_and_the_reason() -> None:
    decision = decide(seen(standing=standing(), refusals="refused once: w said Full"))
    assert decision.status["queue"] == {
        "position": 5, "length": 9, "reason": "Full", "deadline": "1970-01-12T13:47:05Z",
        "time": "1970-01-12T13:46:40Z",
    }  # fmt: skip
    assert conditions(decision.status)["Placed"] == ("False", "Full")
    [placed] = [c for c in decision.status["conditions"] if c["type"] == "Placed"]
    assert placed["message"] == (
        "waits for a free place; number 5 of 9 in the queue; refused once: w said Full"
    )
    assert decision.again == EVERY
    noted = replace(SUBJECT, status=decision.status)
    soon = decide(seen(subject=noted, now=NOW + 3, standing=standing(position=2)))
    assert (soon.status, soon.again) == ({}, 7.0)
    later = decide(seen(subject=noted, now=NOW + 10, standing=standing(position=2)))
    assert later.status["queue"] == {"position": 2, "time": "1970-01-12T13:46:50Z"}


def test_that_nothing_moved_is_no_reason_to_write() -> None:
    noted = replace(SUBJECT, status=decide(seen(standing=standing())).status)
    same = decide(seen(subject=noted, now=NOW + 12, standing=standing()))
    assert same.status == {}
    assert same.again == EVERY


def test_the_longer_the_queue_the_rarer_the_notes() -> None:
    uids = [f"uid-{number}" for number in range(5000)]
    first = sorted(next_note(uid, NOW, 0.0, len(uids)) for uid in uids)
    assert first[0] >= NOW + 1.0
    for begin in range(5000 - 400):
        # No ten seconds in a row see many more notes than there may be.
        assert first[begin + 399] - first[begin] > 0.8 * 400 / RATE
    assert next_note("uid-1", NOW, NOW + 50, len(uids)) == NOW + 50 + 5000 / RATE
    assert next_note("uid-1", NOW, NOW + 50, 3) == NOW + 50 + EVERY


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        (WaitReason.FULL, "QueueTimeout"),
        (WaitReason.OVER_QUOTA, "QuotaExceeded"),
        (WaitReason.NO_MATCH, "NoCapacity"),
        (WaitReason.NO_WORKER, "NoCapacity"),
    ],
)
def test_the_queue_ends(reason: WaitReason, end: str) -> None:
    before = decide(seen(now=NOW + 24, standing=standing(reason)))
    assert before.again == 1.0
    decision = decide(
        seen(now=NOW + 25, standing=standing(reason), refusals="refused once: w said Overloaded")
    )
    assert decision.status["endReason"] == end
    assert decision.status["phase"] == "Failed"
    assert "w said Overloaded" in str(decision.status["endMessage"])
    assert conditions(decision.status)["Placed"] == ("False", reason.value)


def test_a_quota_that_refuses_does_so_at_once() -> None:
    decision = decide(seen(standing=standing(WaitReason.OVER_QUOTA, refused=True)))
    assert (decision.status["endReason"], decision.status["phase"]) == ("QuotaExceeded", "Failed")


def test_refusals_before_the_place_stay_in_its_condition() -> None:
    def placed(status: Any) -> str:
        return next(str(c["message"]) for c in status["conditions"] if c["type"] == "Placed")

    ready = report(SessionState.READY)
    told = "on worker w; refused once: x said Full"
    first = decide(seen(plan=None, placement=PLACED, report=ready, refusals="refused once: x said Full"))
    assert placed(first.status) == told
    # A new process does not know of them, and another session's worker is another matter.
    known = replace(SUBJECT, status=first.status)
    assert decide(seen(subject=known, plan=None, placement=PLACED, report=ready)).status == {}
    elsewhere = decide(seen(subject=known, plan=None, placement=replace(PLACED, worker="w2"), report=ready))
    assert placed(elsewhere.status) == "on worker w2"


def test_a_problem_is_told_and_tried_again_until_the_queue_ends() -> None:
    problem = Problem("AgentNotFound", "spec.agentRef.name: VoiceAgent a does not exist")
    first = decide(seen(plan=problem))
    assert conditions(first.status)["Accepted"] == ("False", "AgentNotFound")
    assert first.status["phase"] == "Pending"
    assert first.again == 2.0
    last = decide(seen(plan=problem, now=NOW + 25))
    assert last.status["endReason"] == "InvalidSpec"


def test_a_spec_that_cannot_be_read_ends_at_once() -> None:
    broken = replace(SUBJECT, spec=None)
    decision = decide(seen(subject=broken, plan=Problem("InvalidSpec", "spec: no")))
    assert decision.status["phase"] == "Failed"


def test_an_unanswered_admit_is_asked_about() -> None:
    unknown = replace(PLACED, confirmed=False)
    assert decide(seen(placement=unknown)).act is Act.ASK_AGAIN
    silent = decide(seen(placement=unknown, fate=Fate.SILENT, silent_for=9.0))
    assert (silent.act, silent.again) == (Act.NOTHING, 1.0)
    assert decide(seen(placement=unknown, fate=Fate.GONE)).act is Act.FORGET
    assert decide(seen(placement=unknown, fate=Fate.RESTARTED)).act is Act.FORGET
    assert decide(seen(placement=unknown, fate=Fate.SILENT, silent_for=10.0)).act is Act.FORGET
    late = decide(seen(placement=unknown, fate=Fate.SILENT, now=NOW + 60))
    assert late.status["endReason"] == "QueueTimeout"


def test_asking_ends_also_when_the_worker_only_watches() -> None:
    unknown = replace(PLACED, confirmed=False)
    assert decide(seen(placement=unknown, now=NOW + 24)).act is Act.ASK_AGAIN
    assert decide(seen(placement=unknown, now=NOW + 25)).status["endReason"] == "QueueTimeout"
    # An operator that comes back late asks all the same.
    late = replace(unknown, since=NOW + 95)
    assert decide(seen(placement=late, now=NOW + 100)).act is Act.ASK_AGAIN
    assert decide(seen(placement=late, now=NOW + 105)).status["endReason"] == "QueueTimeout"


def test_the_note_of_an_admit_is_read_back_as_unanswered() -> None:
    place = Placement("ns/w", "i1", 2, endpoint="1.2.3.4:5")
    status: Any = asking(seen(), place)
    assert status["worker"] == {
        "name": "w", "namespace": "ns", "instanceId": "i1", "shard": 0, "endpoint": "1.2.3.4:5",
        "tlsServerName": "",
    }  # fmt: skip
    assert conditions(status)["Placed"] == ("Unknown", "Asking")
    assert bound_placement(status) == place
    noted = replace(SUBJECT, status=status)
    assert asking(seen(subject=noted), place) == {}
    answered: Any = decide(
        seen(subject=noted, placement=replace(place, confirmed=True), report=report(SessionState.READY))
    ).status
    again = bound_placement({**status, **answered, "worker": status["worker"]})
    assert again is not None
    assert again.confirmed
    waiting = decide(seen(subject=noted, standing=standing()))
    assert waiting.status["worker"] is None


DELETED = replace(SUBJECT, deleting=True)


@pytest.mark.parametrize("report_of", [None, report(SessionState.ACTIVE)])
def test_a_deleted_object_that_a_finalizer_holds_ends_its_call(report_of: SessionReport | None) -> None:
    asked = decide(seen(subject=DELETED, placement=replace(PLACED, since=NOW - 1), report=report_of))
    assert (asked.act, asked.status) == (Act.TERMINATE, {})
    over = report(SessionState.ENDED, end_reason="Terminated")
    done = decide(seen(subject=DELETED, placement=PLACED, report=over)).status
    assert (done["phase"], done["endReason"]) == ("Cancelled", "Terminated")


@pytest.mark.parametrize(
    "changes", [{}, {"placement": PLACED}, {"placement": PLACED, "fate": Fate.GONE}, {"standing": standing()}]
)
def test_a_deleted_object_without_a_call_is_cancelled(changes: dict[str, Any]) -> None:
    done = decide(seen(subject=DELETED, **changes)).status
    assert (done["phase"], done["endReason"]) == ("Cancelled", "Terminated")


@pytest.mark.parametrize(
    ("state", "phase", "ready"),
    [
        (SessionState.CONNECTING, "Pending", "False"),
        (SessionState.READY, "Ready", "True"),
        (SessionState.ACTIVE, "Active", "True"),
        (SessionState.DETACHED, "Active", "True"),
    ],
)
def test_reports_become_phases(state: SessionState, phase: str, ready: str) -> None:
    decision = decide(
        seen(plan=None, placement=PLACED, report=report(state), ticket_hash="aa", ticket_secret="t")
    )
    assert decision.status["phase"] == phase
    assert conditions(decision.status)["Ready"][0] == ready
    assert decision.status["attempt"] == 1
    assert decision.status["ticketSecretRef"] == {"name": "t"}


def test_nothing_is_written_twice() -> None:
    first = decide(seen(plan=None, placement=PLACED, report=report(SessionState.READY)))
    known = replace(SUBJECT, status={k: v for k, v in first.status.items() if v is not None})
    again = decide(seen(subject=known, plan=None, placement=PLACED, report=report(SessionState.READY)))
    assert again.status == {}


def test_one_write_says_bound_and_ready() -> None:
    fresh = replace(PLACED, since=NOW)
    decision = decide(seen(plan=None, placement=fresh, report=report(SessionState.CONNECTING)))
    assert decision.status == {}
    assert decision.again == 2.0


@pytest.mark.parametrize("reason", list(EndReason))
def test_ends_keep_reason_and_usage(reason: EndReason) -> None:
    over = report(
        SessionState.ENDED, end_reason=reason.value, end_time=NOW - 1, usage=Usage(1, 2, 3, 4.5, 5.5)
    )
    status: Any = decide(seen(plan=None, placement=PLACED, report=over)).status
    assert status["endReason"] == reason.value
    assert status["phase"] == phase_of(reason).value
    assert status["endTime"] == "1970-01-12T13:46:39Z"
    assert status["usage"]["outputAudioSeconds"] == 5.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fate": Fate.GONE}, "gone"),
        ({"fate": Fate.RESTARTED}, "restarted"),
        ({"fate": Fate.SILENT, "silent_for": 61.0}, "not been heard"),
        ({"fate": Fate.ANSWERS}, "does not know"),
    ],
)
def test_lost_workers(changes: dict[str, Any], words: str) -> None:
    decision = decide(seen(plan=None, placement=PLACED, **changes))
    assert decision.status["endReason"] == "WorkerLost"
    assert words in str(decision.status["endMessage"])


def test_a_silent_worker_is_given_time() -> None:
    decision = decide(seen(plan=None, placement=PLACED, fate=Fate.SILENT, silent_for=10.0))
    assert "endReason" not in decision.status
    assert conditions(decision.status)["Ready"] == ("Unknown", "WorkerSilent")


def test_a_session_that_is_over_but_lives_on_a_worker_is_terminated() -> None:
    over = replace(SUBJECT, status={"phase": "Failed"})
    assert decide(seen(subject=over, report=report(SessionState.ACTIVE))).act is Act.TERMINATE
    assert decide(seen(subject=over, report=report(SessionState.ENDED))).act is Act.NOTHING


def test_time_to_live() -> None:
    spec = replace(SPEC, ttl_after_finished=60.0)
    over = replace(SUBJECT, spec=spec, status={"phase": "Completed", "endTime": "1970-01-12T13:46:20Z"})
    assert decide(seen(subject=over)).again == 40.0
    assert decide(seen(subject=over, now=NOW + 40)).act is Act.DELETE


@pytest.mark.parametrize(
    ("verdict", "reason"), [(AdmitVerdict.INVALID, "InvalidSpec"), (AdmitVerdict.STALE_ATTEMPT, "Internal")]
)
def test_final_refusals(verdict: AdmitVerdict, reason: str) -> None:
    decision = after_refusal(seen(), AdmitOutcome(verdict, "session.voice: no such voice"))
    assert decision.status["endReason"] == reason
    assert "no such voice" in str(decision.status["endMessage"])


def test_the_key_shows_nowhere() -> None:
    assert "sk-key" not in repr(seen())
    assert "sk-key" not in f"{TARGET} {TARGET.api_key} {PLAN!r}"


def test_every_phase_transition_goes_forwards() -> None:
    for phase, following in TRANSITIONS.items():
        for other in Phase:
            assert advance(phase, other) == (other if other in following else phase)
    assert all(not TRANSITIONS[phase] for phase in TERMINAL)
    assert end_reason("SomethingNew") is EndReason.INTERNAL
