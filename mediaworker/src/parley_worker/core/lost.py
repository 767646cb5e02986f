"""The last records of a session that its shard cannot write: which are missing, what they say. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum

from parley_worker.core.model import SessionReport
from parley_worker.core.records import EventRecord, RecordKind


class Closing(Enum):
    """What is over."""

    SESSION = "session"
    """The session, with the attempt whose shard was lost."""
    ATTEMPT = "attempt"
    """Only the attempt: the session goes on elsewhere, or its last word follows."""
    LAST_WORD = "last word"
    """The session, says the control plane. No worker has it, and an earlier attempt may have told its end."""


END_OF: dict[RecordKind, str] = {"event": "ended", "journal": "session_ended"}


@dataclass(frozen=True, slots=True)
class LostSession:
    """`report` is the last one known, ended. `recorded`: a recording was asked for."""

    report: SessionReport
    privacy: bool = False
    recorded: bool = False
    closing: Closing = Closing.SESSION

    def wanted(self, kind: RecordKind) -> dict[str, dict[str, object]]:
        """The records that close the session or the attempt, in order: fields by type."""
        report = self.report
        reason, goes_on = str(report.end_reason), self.closing is Closing.ATTEMPT
        if kind == "journal":
            return {} if self.privacy or goes_on else {"session_ended": {"reason": reason, "note": ""}}
        usage, message = report.usage, "" if self.privacy else report.end_message
        found: dict[str, dict[str, object]]
        if goes_on:
            found = {"attempt_lost": {"reason": reason, "message": message}}
        else:
            found = {
                "ended": {
                    "reason": reason,
                    "message": message,
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

    `present` are types that this attempt has written already; for a last word, the session's end by any
    attempt. Nothing is missing where a newer attempt writes.
    """
    report = lost.report
    if last.attempt > report.key.attempt:
        return []
    if lost.closing is Closing.ATTEMPT and END_OF[kind] in present:
        # Its shard had ended it, and was lost before it could say so.
        present = present | {"attempt_lost"}
    first = last.sequence + 1 if last.attempt == report.key.attempt else 1
    missing = [(type_, fields) for type_, fields in lost.wanted(kind).items() if type_ not in present]
    return [
        EventRecord(kind, report.key, number, report.ended_at or 0.0, type_, fields)
        for number, (type_, fields) in enumerate(missing, first)
    ]
