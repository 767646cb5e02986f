"""Conditions of a session that runs, but not as well as it might: RecoveryDegraded and Draining."""

from __future__ import annotations

from .observation import Observation
from .status import condition, find_condition, parse_timestamp, timestamp

# RecoveryDegraded is written at most so often for a session, each way.
DEGRADED_EVERY = 10.0


def hardships(seen: Observation) -> list[dict[str, object]]:
    """What is to be said now; nothing of what was never so."""
    found = _degraded(seen)
    if seen.leaving or find_condition(seen.subject.status, "Draining") is not None:
        found.append(_draining(seen))
    return found


def degraded_again(seen: Observation) -> float:
    """Seconds until a change of RecoveryDegraded may be written; 0 where none is to be, or now."""
    before = find_condition(seen.subject.status, "RecoveryDegraded")
    if before is None or before.get("status") == str(_records_late(seen)):
        return 0.0
    changed = parse_timestamp(str(before.get("lastTransitionTime", "")))
    return max(0.0, changed + DEGRADED_EVERY - seen.now)


def _degraded(seen: Observation) -> list[dict[str, object]]:
    """Whether a loss of the worker would cost a part of the conversation."""
    late = _records_late(seen)
    known = find_condition(seen.subject.status, "RecoveryDegraded") is not None
    if not (late or known) or degraded_again(seen) > 0:
        return []
    words = "records wait for NATS" if seen.journal_degraded else ""
    if late and not words:
        words = "part of the conversation is not in the journal"
    reason = "JournalLate" if late else "JournalCurrent"
    return [condition("RecoveryDegraded", late, reason, words, seen.generation)]


def _records_late(seen: Observation) -> bool:
    return seen.journal_degraded or bool(seen.report and seen.report.recovery_degraded)


def _draining(seen: Observation) -> dict[str, object]:
    words = "the worker drains"
    if seen.drain_deadline:
        words = f"the worker drains; the session ends there at {timestamp(seen.drain_deadline)} at the latest"
    reason = "WorkerDrains" if seen.leaving else "WorkerStays"
    return condition("Draining", seen.leaving, reason, words if seen.leaving else "", seen.generation)
