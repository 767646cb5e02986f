"""What to do about one session: Observation in, Decision out.

Every fact is looked at afresh, so a decision lost in a crash is simply taken again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from .checks import Problem
from .live import TELL_AGAIN, agent_status, has_condition, over_again, update_conditions, update_due
from .model import AdmitOutcome, AdmitVerdict, Placement, SessionReport, SessionState
from .observation import Fate, Observation
from .phases import EndReason, Phase, advance, end_reason, phase_of
from .placement.demand import Grant
from .placement.desk import Standing, WaitReason
from .placement.notes import next_note, wait_words
from .status import (
    condition,
    difference,
    end_status,
    merge_conditions,
    parse_timestamp,
    report_status,
    timestamp,
    worker_status,
)

# An Admit was answered, its report is still under way.
REPORT_GRACE = 5.0
# How long the bound status waits for the provider, so that one write says both.
BIND_DELAY = 2.0
RETRY_PROBLEM = 2.0
# An unanswered Admit is asked about at least this long, also when the operator comes back late.
ASK_AT_LEAST = 10.0
# A worker that was asked and then fell silent is waited for so long before another one is tried.
SILENT_AT_MOST = 10.0


class Act(Enum):
    """What to do beside writing the status."""

    NOTHING = "nothing"
    PLACE = "place"
    ASK_AGAIN = "ask again"
    FORGET = "forget placement"
    UPDATE = "update"
    TERMINATE = "terminate"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Decision:
    """`status` is a merge patch, empty when nothing is to be written; `again` is seconds until the next
    look."""

    act: Act = Act.NOTHING
    status: Mapping[str, object] = field(default_factory=dict)
    grant: Grant | None = None
    again: float | None = None


def decide(seen: Observation) -> Decision:
    if seen.subject.over:
        return _over(seen)
    if seen.subject.deleting:
        return _deleting(seen)
    if seen.placement is not None and (seen.placement.confirmed or seen.report is not None):
        return _with_update(seen, _placed(seen, seen.placement))
    if isinstance(seen.plan, Problem):
        return _not_accepted(seen, seen.plan)
    if seen.placement is not None:
        return _unanswered(seen)
    return _queued(seen)


def _with_update(seen: Observation, decision: Decision) -> Decision:
    """A session that goes on is told of a changed spec."""
    if decision.act is not Act.NOTHING or "endReason" in decision.status or not update_due(seen):
        return decision
    return replace(decision, act=Act.UPDATE, again=min(TELL_AGAIN, decision.again or TELL_AGAIN))


def after_refusal(seen: Observation, outcome: AdmitOutcome) -> Decision:
    """What a worker's final no means; refusals that let another worker be tried do not come here."""
    reason = EndReason.INVALID_SPEC if outcome.verdict is AdmitVerdict.INVALID else EndReason.INTERNAL
    words = outcome.message or f"the worker refused the session: {outcome.verdict.value}"
    accepted = condition(
        "Accepted",
        reason is not EndReason.INVALID_SPEC,
        outcome.verdict.value,
        words,
        seen.generation,
    )
    return Decision(status=_ending(seen, reason, words, [accepted]))


def asking(seen: Observation, placement: Placement) -> dict[str, object]:
    """The note, in the status, of an Admit that is about to be sent; empty when it is there already."""
    words = f"worker {placement.worker} is asked"
    generation = seen.generation
    conditions = [
        condition("Accepted", True, "Accepted", "", generation),
        condition("Placed", None, "Asking", words, generation),
    ]
    facts = {"worker": worker_status(placement, None, seen.node), "attempt": placement.attempt, "queue": None}
    return _status(seen, Phase.PENDING, conditions, facts)


def queue_deadline(seen: Observation) -> float:
    spec = seen.subject.spec
    return seen.subject.created + (spec.limits.queue_timeout if spec else 0.0)


def _over(seen: Observation) -> Decision:
    if seen.report is not None and seen.report.live:
        return Decision(Act.TERMINATE, again=2.0)
    status = over_again(seen)
    spec = seen.subject.spec
    if spec is None or spec.ttl_after_finished is None:
        return Decision(status=status)
    ended = parse_timestamp(str(seen.subject.status.get("endTime", "")))
    left = ended + spec.ttl_after_finished - seen.now
    return Decision(Act.DELETE) if left <= 0 else Decision(status=status, again=left)


def _deleting(seen: Observation) -> Decision:
    """Deleted, but somebody's finalizer holds the object: the call ends now, and the status says so."""
    placement = seen.placement
    if placement is not None and seen.report is not None and not seen.report.live:
        return Decision(status=_ended(seen, placement, seen.report))
    if placement is not None and seen.fate in (Fate.ANSWERS, Fate.SILENT):
        known = seen.report is not None or seen.now - placement.since <= REPORT_GRACE
        if known or (seen.fate is Fate.SILENT and seen.silent_for < seen.lost_after):
            return Decision(Act.TERMINATE, again=1.0)
    return Decision(status=_ending(seen, EndReason.TERMINATED, "the VoiceSession was deleted", []))


def _placed(seen: Observation, placement: Placement) -> Decision:
    report = seen.report
    if report is not None and not report.live:
        return Decision(status=_ended(seen, placement, report))
    lost = _lost(seen)
    if lost:
        return Decision(status=_ending(seen, EndReason.WORKER_LOST, lost, []))
    waited = seen.now - placement.since
    if report is None and seen.fate is Fate.ANSWERS:
        if waited > REPORT_GRACE:
            words = f"worker {placement.worker} does not know the session; its journal tells how far it came"
            return Decision(status=_ending(seen, EndReason.WORKER_LOST, words, []))
        again = max(0.1, BIND_DELAY - waited)
        return Decision(status=_bound(seen, placement) if waited >= BIND_DELAY else {}, again=again)
    if report is not None and report.state is SessionState.CONNECTING and waited < BIND_DELAY:
        return Decision(again=BIND_DELAY - waited)
    again_in = min(5.0, max(0.5, seen.lost_after - seen.silent_for)) if seen.fate is Fate.SILENT else None
    return Decision(status=_bound(seen, placement), again=again_in)


def _lost(seen: Observation) -> str:
    """Why the worker must be taken for lost; empty when it is not."""
    worker = seen.placement.worker if seen.placement else ""
    if seen.fate is Fate.GONE:
        return f"worker {worker} is gone"
    if seen.fate is Fate.RESTARTED:
        return f"worker {worker} restarted"
    if seen.fate is Fate.SILENT and seen.silent_for >= seen.lost_after:
        return f"worker {worker} has not been heard for {seen.silent_for:.0f} s"
    return ""


def _unanswered(seen: Observation) -> Decision:
    """An Admit went out and no answer came: the same instance is asked until it answers or is given up."""
    if seen.fate in (Fate.GONE, Fate.RESTARTED):
        return Decision(Act.FORGET)
    if seen.fate is Fate.SILENT and seen.silent_for >= SILENT_AT_MOST:
        # Should it have the session: the next attempt fences it out.
        return Decision(Act.FORGET)
    since = seen.placement.since if seen.placement else 0.0
    if seen.now >= max(queue_deadline(seen), since + ASK_AT_LEAST):
        words = "the worker that was asked did not answer before spec.limits.queueTimeout"
        return Decision(status=_ending(seen, EndReason.QUEUE_TIMEOUT, words, []))
    return Decision(Act.ASK_AGAIN) if seen.fate is Fate.ANSWERS else Decision(again=1.0)


def _not_accepted(seen: Observation, problem: Problem) -> Decision:
    left = queue_deadline(seen) - seen.now
    refused = condition("Accepted", False, problem.reason, problem.message, seen.generation)
    if seen.subject.spec is None or left <= 0:
        return Decision(status=_ending(seen, EndReason.INVALID_SPEC, problem.message, [refused]))
    return Decision(
        status=_status(seen, Phase.PENDING, [refused], {"queue": None}), again=min(RETRY_PROBLEM, left)
    )


def _queued(seen: Observation) -> Decision:
    if seen.grant is not None:
        return Decision(Act.PLACE, grant=seen.grant)
    standing = seen.standing
    if standing is None:
        return Decision(again=RETRY_PROBLEM)
    left = queue_deadline(seen) - seen.now
    if standing.refused:
        words = (
            "the namespace has its quota of the pool's sessions; end some or have the pool's owner raise it"
        )
        return Decision(status=_ending(seen, EndReason.QUOTA_EXCEEDED, words, []))
    if left <= 0:
        return Decision(status=_unserved(seen, standing))
    noted = seen.subject.status.get("queue")
    last = parse_timestamp(str(noted.get("time", ""))) if isinstance(noted, Mapping) else 0.0
    due = next_note(seen.subject.uid, seen.subject.created, last, standing.waiting) - seen.now
    if due > 0:
        return Decision(again=min(due, left))
    after = next_note(seen.subject.uid, seen.subject.created, seen.now, standing.waiting) - seen.now
    return Decision(status=_queue_note(seen, standing), again=min(after, left))


_UNSERVED = {
    WaitReason.FULL: (
        EndReason.QUEUE_TIMEOUT,
        "every worker that may take the session was full until spec.limits.queueTimeout; add replicas or try "
        "later",
    ),
    WaitReason.OVER_QUOTA: (
        EndReason.QUOTA_EXCEEDED,
        "the namespace had its quota of the pool's sessions until spec.limits.queueTimeout; end some or have "
        "the pool's owner raise it",
    ),
    WaitReason.NO_MATCH: (
        EndReason.NO_CAPACITY,
        "no worker had the labels and the zone of spec.selectors until spec.limits.queueTimeout; add a "
        "selector to fall back to",
    ),
    WaitReason.NO_WORKER: (
        EndReason.NO_CAPACITY,
        "no worker of the pool answered until spec.limits.queueTimeout; see the pool's status",
    ),
}


def _unserved(seen: Observation, standing: Standing) -> dict[str, object]:
    reason, words = _UNSERVED[standing.reason]
    told = f"{words}; {seen.refusals}" if seen.refusals else words
    return _ending(seen, reason, told, [_not_placed(seen, standing)])


def _not_placed(seen: Observation, standing: Standing) -> dict[str, object]:
    words = wait_words(standing, seen.refusals)
    return condition("Placed", False, standing.reason.value, words, seen.subject.generation)


def _queue_note(seen: Observation, standing: Standing) -> dict[str, object]:
    queue = {
        "position": standing.position,
        "length": standing.length,
        "reason": standing.reason.value,
        "deadline": timestamp(queue_deadline(seen)),
        "time": timestamp(seen.now),
    }
    accepted = condition("Accepted", True, "Accepted", "", seen.subject.generation)
    facts: dict[str, object] = {"queue": queue, "worker": None}
    note = _status(seen, Phase.PENDING, [accepted, _not_placed(seen, standing)], facts)
    # That nothing moved is no reason to write.
    return {} if note == {"queue": {"time": queue["time"]}} else note


def _bound(seen: Observation, placement: Placement) -> dict[str, object]:
    report = seen.report
    generation = seen.generation
    phase = Phase.PENDING
    ready = condition("Ready", False, "Connecting", "the worker connects to the provider", generation)
    if report is not None and report.state is not SessionState.CONNECTING:
        phase = Phase.READY if report.state is SessionState.READY else Phase.ACTIVE
        ready = condition("Ready", True, "ProviderConnected", "", generation)
    if seen.fate is Fate.SILENT and not seen.report:
        ready = condition(
            "Ready", None, "WorkerSilent", "the worker does not answer at the moment", generation
        )
    conditions = [
        condition("Accepted", True, "Accepted", "", generation),
        condition("Placed", True, "Admitted", _placed_words(seen, placement), generation),
        ready,
    ]
    if seen.journal_degraded or has_condition(seen.subject.status, "RecoveryDegraded"):
        words = "records wait for NATS" if seen.journal_degraded else ""
        reason = "JournalLate" if seen.journal_degraded else "JournalCurrent"
        conditions.append(condition("RecoveryDegraded", seen.journal_degraded, reason, words, generation))
    conditions.extend(update_conditions(seen))
    return _status(seen, phase, conditions, _facts(seen, placement))


def _placed_words(seen: Observation, placement: Placement) -> str:
    """Where it is; what is written about refusals stays."""
    words = f"on worker {placement.worker}"
    found = seen.subject.status.get("conditions")
    for old in found if isinstance(found, list) else []:
        if isinstance(old, Mapping) and (old.get("type"), old.get("status")) == ("Placed", "True"):
            before = str(old.get("message", ""))
            if before == words or before.startswith(f"{words}; "):
                return before
    return f"{words}; {seen.refusals}" if seen.refusals else words


def _facts(seen: Observation, placement: Placement) -> dict[str, object]:
    facts: dict[str, object] = {
        "worker": worker_status(placement, seen.report, seen.node),
        "attempt": placement.attempt,
        "queue": None,
    }
    telephony = (seen.report.telephony_endpoint if seen.report else "") or placement.telephony_endpoint
    if telephony:
        facts["telephonyEndpoint"] = telephony
    if seen.ticket_hash:
        facts["ticketHash"] = seen.ticket_hash
        facts["ticketSecretRef"] = {"name": seen.ticket_secret}
    if seen.report is not None:
        facts.update(report_status(seen.report))
        facts.update(agent_status(seen))
    return facts


def _ended(seen: Observation, placement: Placement, report: SessionReport) -> dict[str, object]:
    reason = end_reason(report.end_reason)
    facts = {
        **_facts(seen, placement),
        **end_status(reason, report.end_message, report.end_time or seen.now),
    }
    generation = seen.generation
    conditions = [
        condition(
            "Accepted", reason is not EndReason.INVALID_SPEC, reason.value, report.end_message, generation
        )
        if reason is EndReason.INVALID_SPEC
        else condition("Accepted", True, "Accepted", "", generation),
        condition("Placed", True, "Admitted", _placed_words(seen, placement), generation),
        condition("Ready", False, reason.value, report.end_message, generation),
        condition("Ended", True, reason.value, report.end_message, generation),
    ]
    return _status(seen, phase_of(reason), conditions, facts)


def _ending(
    seen: Observation, reason: EndReason, message: str, conditions: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """The end of a session that no worker reports as ended."""
    generation = seen.generation
    facts: dict[str, object] = {"queue": None}
    if seen.placement is not None and seen.placement.confirmed:
        facts = _facts(seen, seen.placement)
    facts.update(end_status(reason, message, seen.now))
    over = condition("Ready", False, reason.value, message, generation)
    ended = condition("Ended", True, reason.value, message, generation)
    return _status(seen, phase_of(reason), [*conditions, over, ended], facts)


def _status(
    seen: Observation, phase: Phase, conditions: Sequence[Mapping[str, object]], facts: Mapping[str, object]
) -> dict[str, object]:
    previous = seen.subject.status
    current = seen.subject.phase
    merged = merge_conditions(previous.get("conditions"), conditions, seen.now)
    wanted = {**facts, "phase": advance(current, phase).value, "conditions": merged}
    wanted["observedGeneration"] = seen.generation
    if seen.pool:
        wanted["pool"] = seen.pool
    return difference(previous, wanted)
