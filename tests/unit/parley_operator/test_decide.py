"""Decisions about sessions: Observation in, Decision out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import LimitsSpec, SessionSpec
from parley_operator.domain.checks import Problem
from parley_operator.domain.decide import Act, after_refusal, asking, decide
from parley_operator.domain.ledger import Load
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


def test_a_free_place_is_taken() -> None:
    decision = decide(seen(loads=(Load("w", "i", 2, 1, False),), workers=1))
    assert decision.act is Act.PLACE
    assert decision.load is not None
    assert decision.load.worker == "w"


def test_the_fullest_worker_that_fits_is_chosen() -> None:
    loads = (Load("a", "i", 5, 1, False), Load("b", "i", 5, 4, False), Load("c", "i", 5, 5, False))
    chosen = decide(seen(loads=loads, workers=3)).load
    assert chosen is not None
    assert chosen.worker == "b"


def test_those_before_in_the_line_come_first() -> None:
    loads = (Load("w", "i", 2, 1, False),)
    assert decide(seen(loads=loads, workers=1, position=1)).act is Act.NOTHING


def test_waiting_is_noted_with_the_position() -> None:
    decision = decide(seen(workers=1, position=4))
    assert decision.status["queue"] == {"position": 5, "time": "1970-01-12T13:46:40Z"}
    assert conditions(decision.status)["Placed"] == ("False", "Queued")
    again = replace(SUBJECT, status=decision.status)
    assert decide(seen(subject=again, now=NOW + 3, workers=1, position=2)).status == {}


@pytest.mark.parametrize(("workers", "reason"), [(2, "QueueTimeout"), (0, "NoCapacity")])
def test_the_queue_ends(workers: int, reason: str) -> None:
    decision = decide(seen(now=NOW + 25, workers=workers))
    assert decision.status["endReason"] == reason
    assert decision.status["phase"] == "Failed"


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
    loads = (Load("other", "i", 5, 0, False),)
    assert decide(seen(placement=unknown, loads=loads)).act is Act.ASK_AGAIN
    silent = decide(seen(placement=unknown, loads=loads, fate=Fate.SILENT))
    assert (silent.act, silent.again) == (Act.NOTHING, 1.0)
    assert decide(seen(placement=unknown, fate=Fate.GONE)).act is Act.FORGET
    assert decide(seen(placement=unknown, fate=Fate.RESTARTED)).act is Act.FORGET
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
    waiting = decide(seen(subject=noted, workers=1, position=1))
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
    "changes", [{}, {"placement": PLACED}, {"placement": PLACED, "fate": Fate.GONE}, {"loads": ()}]
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
