"""What to do about one session: Observation in, Decision out.

Every fact is looked at afresh, so a decision lost in a crash is simply taken again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from .checks import Problem
from .hardships import degraded_again, hardships
from .live import TELL_AGAIN, agent_status, over_again, update_conditions, update_due
from .model import AdmitOutcome, AdmitVerdict, Placement, SessionReport, SessionState
from .observation import Fate, Observation
from .phases import EndReason, Phase, advance, end_reason, phase_of
from .placement.demand import Grant
from .placement.desk import Standing, WaitReason
from .placement.notes import next_note, wait_words
from .recovery import (
    LOST,
    Loss,
    Recovery,
    after_loss,
    pause_left,
    recovering,
    recovery_deadline,
    recovery_of,
)
from .status import (
    condition,
    difference,
    end_status,
    find_condition,
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
# A silent worker that the kubelet vouches for is cut off from us, not from its callers: it is given so many
# times the patience.
VOUCHED_FACTOR = 10.0


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
    return _replaced(seen) if recovering(seen.subject.status) else _queued(seen)


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
    """Until when a place is sought, for the first time or after a loss."""
    spec = seen.subject.spec
    if spec is not None and recovering(seen.subject.status):
        return recovery_deadline(spec, seen.subject.status)
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


def bind_delay(placement: Placement) -> float:
    """Seconds that the status waits for the worker's word. A caller waits for a session that was lost: where
    it is now is told at once."""
    return 0.0 if placement.attempt > 1 else BIND_DELAY


def _placed(seen: Observation, placement: Placement) -> Decision:
    report = seen.report
    if report is not None and not report.live:
        reason = end_reason(report.end_reason)
        if reason in LOST:
            words = report.end_message or f"lost on worker {placement.worker}"
            return _recover(seen, placement, Loss(reason, words))
        return Decision(status=_ended(seen, placement, report))
    lost = _lost(seen)
    if lost:
        return _recover(seen, placement, Loss(EndReason.WORKER_LOST, lost))
    waited = seen.now - placement.since
    delay = bind_delay(placement)
    if report is None and seen.fate is Fate.ANSWERS:
        if waited > REPORT_GRACE:
            words = f"worker {placement.worker} does not know the session; its journal tells how far it came"
            return _recover(seen, placement, Loss(EndReason.WORKER_LOST, words))
        again = max(0.1, BIND_DELAY - waited)
        return Decision(status=_bound(seen, placement) if waited >= delay else {}, again=again)
    if report is not None and report.state is SessionState.CONNECTING and waited < delay:
        return Decision(again=delay - waited)
    again_in = min(5.0, max(0.5, seen.lost_after - seen.silent_for)) if seen.fate is Fate.SILENT else None
    if again_in is None:
        again_in = degraded_again(seen) or None
    return Decision(status=_bound(seen, placement), again=again_in)


def _lost(seen: Observation) -> str:
    """Why the worker must be taken for lost; empty when it is not."""
    worker = seen.placement.worker if seen.placement else ""
    if seen.fate is Fate.GONE:
        return f"worker {worker} is gone"
    if seen.fate is Fate.RESTARTED:
        return f"worker {worker} restarted"
    patience = seen.lost_after * (VOUCHED_FACTOR if seen.vouched else 1.0)
    if seen.fate is Fate.SILENT and seen.silent_for >= patience:
        return f"worker {worker} has not been heard for {seen.silent_for:.0f} s"
    return ""


def _recover(seen: Observation, placement: Placement, loss: Loss) -> Decision:
    """The place is gone: go on elsewhere where the policy says so, else end."""
    status = seen.subject.status
    held = seen.now - max(placement.since, recovery_of(status).lost)
    found = after_loss(seen.subject.spec, status, loss, held, seen.now)
    if isinstance(found, Recovery):
        return Decision(status=_recovery_begun(seen, placement, found), again=0.0)
    if seen.report is not None and not seen.report.live:
        return Decision(status=_ended(seen, placement, replace(seen.report, end_message=found)))
    return Decision(status=_ending(seen, loss.reason, found, []))


def _recovery_begun(seen: Observation, placement: Placement, recovery: Recovery) -> dict[str, object]:
    """The mark that fences every attempt so far; written before another worker is asked."""
    generation = seen.generation
    facts: dict[str, object] = {
        "attempt": max(placement.attempt, seen.newest_attempt) + 1,
        "worker": None,
        "queue": None,
        "recovery": recovery.status(),
    }
    report = seen.report or seen.last
    if report is not None and report.journal_stream:
        facts["journal"] = {
            "stream": report.journal_stream,
            "first": report.journal_first,
            "last": report.journal_last,
        }
    conditions = [
        condition("Placed", False, "Recovering", recovery.message, generation),
        condition("Ready", False, "Recovering", recovery.message, generation),
    ]
    if find_condition(seen.subject.status, "Draining") is not None:
        conditions.append(condition("Draining", False, "Recovering", "", generation))
    return _status(seen, Phase.RECOVERING, conditions, facts)


def _replaced(seen: Observation) -> Decision:
    """A session that lost its place, and comes before all that never had one."""
    recovery = recovery_of(seen.subject.status)
    pause = pause_left(recovery, seen.steady)
    left = queue_deadline(seen) - seen.steady
    if left <= 0:
        return _no_place(seen, recovery.message)
    return Decision(again=min(pause, left)) if pause else _queued(seen)


def _no_place(seen: Observation, message: str) -> Decision:
    recovery = recovery_of(seen.subject.status)
    reason = EndReason.SHARD_LOST if recovery.reason == EndReason.SHARD_LOST.value else EndReason.WORKER_LOST
    words = f"{message}; no worker took the session over in time: add replicas to the pool or raise "
    words += "spec.limits.reattachTimeout"
    return Decision(status=_ending(seen, reason, words, []))


def _unanswered(seen: Observation) -> Decision:
    """An Admit went out and no answer came: the same instance is asked until it answers or is given up."""
    if seen.fate in (Fate.GONE, Fate.RESTARTED):
        return Decision(Act.FORGET)
    if seen.fate is Fate.SILENT and seen.silent_for >= SILENT_AT_MOST:
        # Should it have the session: the next attempt fences it out.
        return Decision(Act.FORGET)
    since = seen.placement.since if seen.placement else 0.0
    if seen.steady >= queue_deadline(seen) and seen.now - since >= ASK_AT_LEAST:
        if recovering(seen.subject.status):
            return _no_place(seen, recovery_of(seen.subject.status).message)
        words = "the worker that was asked did not answer before spec.limits.queueTimeout"
        return Decision(status=_ending(seen, EndReason.QUEUE_TIMEOUT, words, []))
    return Decision(Act.ASK_AGAIN) if seen.fate is Fate.ANSWERS else Decision(again=1.0)


def _not_accepted(seen: Observation, problem: Problem) -> Decision:
    left = queue_deadline(seen) - seen.steady
    if recovering(seen.subject.status):
        if left <= 0 or seen.subject.spec is None:
            recovery = recovery_of(seen.subject.status)
            words = f"{recovery.message}; it could not be placed anew: {problem.message}"
            return Decision(status=_ending(seen, EndReason.WORKER_LOST, words, []))
        words = f"cannot be placed anew: {problem.message}"
        placed = condition("Placed", False, problem.reason, words, seen.generation)
        return Decision(status=_status(seen, Phase.RECOVERING, [placed], {}), again=min(RETRY_PROBLEM, left))
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
    left = queue_deadline(seen) - seen.steady
    if standing.refused:
        words = (
            "the namespace has its quota of the pool's sessions; end some or have the pool's owner raise it"
        )
        return Decision(status=_ending(seen, EndReason.QUOTA_EXCEEDED, words, []))
    if left <= 0:
        return Decision(status=_unserved(seen, standing))
    noted = seen.subject.status.get("queue")
    last = parse_timestamp(str(noted.get("time", ""))) if isinstance(noted, Mapping) else 0.0
    since = recovery_of(seen.subject.status).lost or seen.subject.created
    due = next_note(seen.subject.uid, since, last, standing.waiting) - seen.now
    if due > 0:
        return Decision(again=min(due, left))
    after = next_note(seen.subject.uid, since, seen.now, standing.waiting) - seen.now
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
    return condition("Placed", False, standing.reason.value, words, seen.generation)


def _queue_note(seen: Observation, standing: Standing) -> dict[str, object]:
    queue = {
        "position": standing.position,
        "length": standing.length,
        "reason": standing.reason.value,
        "deadline": timestamp(queue_deadline(seen)),
        "time": timestamp(seen.now),
    }
    accepted = condition("Accepted", True, "Accepted", "", seen.generation)
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
    conditions += hardships(seen)
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
        if placement.attempt > 1 and seen.subject.status.get("startTime"):
            # When the caller came first, whichever worker that was.
            facts.pop("startTime", None)
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
