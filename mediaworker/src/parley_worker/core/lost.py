"""The last records of a session whose shard is gone: which ones are missing, and what they say. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from parley_worker.core.model import SessionReport
from parley_worker.core.records import EventRecord, RecordKind


@dataclass(frozen=True, slots=True)
class LostSession:
    """`report` is the last one known, ended by ShardLost. `recorded`: a recording was asked for."""

    report: SessionReport
    privacy: bool = False
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The last record of a session in a stream; attempt 0 for none. `type` is its field in events.v1."""

    attempt: int = 0
    sequence: int = 0
    type: str = ""


def closing_records(lost: LostSession, kind: RecordKind, last: LastRecord) -> list[EventRecord]:
    """What is missing after `last` of this kind, in order; nothing when a newer attempt writes already."""
    key = lost.report.key
    if last.attempt > key.attempt:
        return []
    ours = last.attempt == key.attempt
    wanted = _journal(lost) if kind == "journal" else _events(lost)
    names = [type_ for type_, _ in wanted]
    done = names.index(last.type) + 1 if ours and last.type in names else 0
    first = last.sequence + 1 if ours else 1
    at = lost.report.ended_at or 0.0
    return [
        EventRecord(kind, key, number, at, type_, fields)
        for number, (type_, fields) in enumerate(wanted[done:], first)
    ]


def _journal(lost: LostSession) -> list[tuple[str, dict[str, object]]]:
    return [] if lost.privacy else [("session_ended", {"reason": str(lost.report.end_reason), "note": ""})]


def _events(lost: LostSession) -> list[tuple[str, dict[str, object]]]:
    usage = lost.report.usage
    ended: dict[str, object] = {
        "reason": str(lost.report.end_reason),
        "message": "" if lost.privacy else lost.report.end_message,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_audio_seconds": usage.input_audio_seconds,
        "output_audio_seconds": usage.output_audio_seconds,
    }
    recording: dict[str, object] = {"message": lost.report.end_message}
    return [("ended", ended), *([("recording_failed", recording)] if lost.recorded else [])]
