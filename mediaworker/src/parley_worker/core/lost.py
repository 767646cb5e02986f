"""The last records of a session whose shard is gone: which ones are missing, and what they say. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from parley_worker.core.model import SessionReport
from parley_worker.core.records import EventRecord, RecordKind


@dataclass(frozen=True, slots=True)
class LostSession:
    """`report` is the last one known, ended by ShardLost. `recorded`: a recording was asked for."""

    report: SessionReport
    privacy: bool = False
    recorded: bool = False

    def wanted(self, kind: RecordKind) -> dict[str, dict[str, object]]:
        """The records that close the session, in order: fields by type."""
        report = self.report
        if kind == "journal":
            return {} if self.privacy else {"session_ended": {"reason": str(report.end_reason), "note": ""}}
        usage = report.usage
        found: dict[str, dict[str, object]] = {
            "ended": {
                "reason": str(report.end_reason),
                "message": "" if self.privacy else report.end_message,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "input_audio_seconds": usage.input_audio_seconds,
                "output_audio_seconds": usage.output_audio_seconds,
            }
        }
        if self.recorded and report.started_at is not None:
            found["recording_failed"] = {"message": report.end_message}
        return found


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record that a stream holds; attempt 0 for none. `type` is its field in events.v1, `position` its
    sequence in the stream."""

    attempt: int = 0
    sequence: int = 0
    type: str = ""
    position: int = 0


def closing_records(
    lost: LostSession, kind: RecordKind, last: StoredRecord, present: Set[str] = frozenset()
) -> list[EventRecord]:
    """What is missing after `last`, the session's own last record, in order.

    `present` are types that this attempt has written already. Nothing is missing where a newer attempt
    writes.
    """
    report = lost.report
    if last.attempt > report.key.attempt:
        return []
    first = last.sequence + 1 if last.attempt == report.key.attempt else 1
    missing = [(type_, fields) for type_, fields in lost.wanted(kind).items() if type_ not in present]
    return [
        EventRecord(kind, report.key, number, report.ended_at or 0.0, type_, fields)
        for number, (type_, fields) in enumerate(missing, first)
    ]
