"""What a trace shows, and what becomes of a target that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from parley_realtime import TraceEntry
from parley_realtime.client import trace as module
from parley_realtime.client.trace import Trace


def test_entries_hold_no_secret_and_no_audio() -> None:
    entries: list[TraceEntry] = []
    trace = Trace(entries.append, ("the-secret",))
    trace.sent(1.0, {"type": "input_audio_buffer.append", "audio": "QUJD"})
    trace.sent(
        1.5, {"type": "session.update", "session": {"tools": [{"authorization": "x", "headers": {"a": "b"}}]}}
    )
    trace.received(2.0, {"type": "error", "error": {"message": "about the-secret and sk-abcdef"}})
    trace.received(2.5, {"type": "response.output_audio.delta", "delta": "QUJDRA=="})
    trace.received(2.6, {"type": "conversation.item.retrieved", "item": {"content": [{"audio": "QUJD"}]}})
    trace.audio(3.0, "r", "i", 0, 960)
    trace.malformed(3.5, 17, "the provider sent a frame that is not JSON")
    assert [(e.at, e.direction, e.frame) for e in entries] == [
        (1.0, "sent", {"type": "input_audio_buffer.append", "audio": "<4 characters of audio>"}),
        (
            1.5,
            "sent",
            {"type": "session.update", "session": {"tools": [{"authorization": "***", "headers": "***"}]}},
        ),
        (2.0, "received", {"type": "error", "error": {"message": "about *** and ***"}}),
        (2.5, "received", {"type": "response.output_audio.delta", "delta": "<8 characters of audio>"}),
        (
            2.6,
            "received",
            {
                "type": "conversation.item.retrieved",
                "item": {"content": [{"audio": "<4 characters of audio>"}]},
            },
        ),
        (
            3.0,
            "received",
            {"type": "audio delta", "response_id": "r", "item_id": "i", "content_index": 0, "bytes": 960},
        ),
        (
            3.5,
            "received",
            {"type": "malformed", "bytes": 17, "reason": "the provider sent a frame that is not JSON"},
        ),
    ]


def test_an_entry_may_be_changed_without_changing_the_event() -> None:
    entries: list[TraceEntry] = []
    event = {"type": "session.update", "session": {"instructions": "x"}}
    Trace(entries.append, ()).sent(1.0, event)
    entries[0].frame["session"]["instructions"] = "y"
    assert event["session"] == {"instructions": "x"}


def test_a_sink_that_raises_is_told_nothing_more_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[TraceEntry] = []

    def broken(entry: TraceEntry) -> None:
        calls.append(entry)
        raise ValueError("with the-content")

    trace = Trace(broken, ())
    trace.sent(1.0, {"type": "a"})
    trace.sent(2.0, {"type": "b"})
    trace.close()
    assert len(calls) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the trace ends here: its target raised ValueError"
    ]
    assert "the-content" not in caplog.text


def test_a_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TRACE_BYTES", 200)
    trace = Trace(tmp_path / "trace.jsonl", ())
    for _ in range(100):
        trace.sent(1.0, {"type": "response.create"})
    trace.close()
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    assert lines[-1] == '{"trace": "full, nothing more is written"}'
    assert len(lines) < 6
