"""Frames between worker and provider in the journal, where the session asks for it."""

from __future__ import annotations

import json

from parley_realtime.client.trace import Trace
from parley_worker.runtime import provider


def traced(*frames: dict[str, object], received: bool = True) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    trace = Trace(lambda entry: provider._trace(lambda *pair: found.append(pair), entry), ("sk-hidden-key",))
    for frame in frames:
        (trace.received if received else trace.sent)(1.0, frame)
    trace.audio(1.0, "resp_1", "item_1", 0, 960)
    return found


def test_frames_come_with_their_direction_and_without_secrets() -> None:
    [(direction, text)] = traced({"type": "session.update", "note": "sk-hidden-key"}, received=False)
    assert direction == "sent"
    assert json.loads(text) == {"type": "session.update", "note": "***"}


def test_audio_is_left_out() -> None:
    append = {"type": "input_audio_buffer.append", "audio": "AAAA"}
    delta = {"type": "response.output_audio.delta", "delta": "AAAA"}
    assert traced(append, received=False) == []
    assert traced(delta, {"type": "response.done"}) == [("received", '{"type":"response.done"}')]


def test_of_a_huge_frame_its_type_and_size_are_kept() -> None:
    [(_, text)] = traced({"type": "response.done", "words": "x" * provider.MAX_TRACE_CHARACTERS})
    found = json.loads(text)
    assert found["type"] == "response.done"
    assert found["omitted_characters"] > provider.MAX_TRACE_CHARACTERS
    assert len(text) < 200
