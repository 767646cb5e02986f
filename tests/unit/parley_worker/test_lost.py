"""The last records of a session whose shard is gone."""

from __future__ import annotations

from parley_worker.core.lost import Closing, LostSession, StoredRecord, closing_records
from parley_worker.core.model import EndReason, SessionKey, SessionReport, SessionState

KEY = SessionKey("ns", "call", "u", 2)
REPORT = SessionReport(
    KEY, SessionState.ENDED, EndReason.SHARD_LOST, "shard 1 was killed", started_at=1.0, ended_at=9.0
)


def test_records_go_on_from_the_last_one() -> None:
    lost = LostSession(REPORT, recorded=True)
    events = closing_records(lost, "event", StoredRecord(2, 7, "first_audio", 40))
    assert [(r.sequence, r.type, r.at) for r in events] == [(8, "ended", 9.0), (9, "recording_failed", 9.0)]
    assert events[0].fields["reason"] == "ShardLost"
    (journal,) = closing_records(lost, "journal", StoredRecord(2, 3, "transcript", 41))
    assert (journal.sequence, journal.fields) == (4, {"reason": "ShardLost", "note": ""})


def test_an_attempt_that_wrote_nothing_begins_at_1() -> None:
    lost = LostSession(REPORT)
    assert [r.sequence for r in closing_records(lost, "event", StoredRecord(1, 50, "ended", 3))] == [1]
    assert [r.sequence for r in closing_records(lost, "journal", StoredRecord())] == [1]


def test_what_is_there_is_not_written_again() -> None:
    lost = LostSession(REPORT, recorded=True)
    last = StoredRecord(2, 8, "ended", 3)
    assert [r.type for r in closing_records(lost, "event", last, {"ended"})] == ["recording_failed"]
    assert closing_records(lost, "event", last, {"ended", "recording_failed"}) == []


def test_a_newer_attempt_is_left_alone() -> None:
    assert closing_records(LostSession(REPORT), "journal", StoredRecord(3, 1, "dtmf", 9)) == []


def test_privacy_keeps_words_out() -> None:
    lost = LostSession(REPORT, privacy=True)
    assert closing_records(lost, "journal", StoredRecord()) == []
    (ended,) = closing_records(lost, "event", StoredRecord())
    assert ended.fields["message"] == ""


def test_a_recording_that_never_began_did_not_fail() -> None:
    waiting = SessionReport(KEY, SessionState.ENDED, EndReason.SHARD_LOST, ended_at=9.0)
    assert list(LostSession(waiting, recorded=True).wanted("event")) == ["ended"]


def test_a_session_that_goes_on_loses_an_attempt_and_does_not_end() -> None:
    lost = LostSession(REPORT, recorded=True, closing=Closing.ATTEMPT)
    events = closing_records(lost, "event", StoredRecord(2, 7, "first_audio", 40))
    assert [(r.sequence, r.type) for r in events] == [(8, "attempt_lost"), (9, "recording_failed")]
    assert events[0].fields == {"reason": "ShardLost", "message": "shard 1 was killed"}
    assert closing_records(lost, "journal", StoredRecord(2, 3, "transcript", 41)) == []


def test_an_attempt_that_had_told_the_end_is_not_said_to_be_lost() -> None:
    lost = LostSession(REPORT, closing=Closing.ATTEMPT)
    assert closing_records(lost, "event", StoredRecord(2, 7, "ended", 40), {"ended"}) == []
