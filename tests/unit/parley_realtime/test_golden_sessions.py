"""Recorded sessions of live runs, replayed: the same frames give listeners and media units the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import client_recorder
import pytest
from parley_realtime import transport
from parley_realtime.client.trace import Trace
from parley_realtime.protocol.core import Malformed
from recorded_session import Recording, RecordingError, from_trace, parse, replay

FILES = sorted(client_recorder.GOLDEN.glob("*.jsonl"))
HEAD = '{"recording": 1, "shape": "ga", "title": "t"}'
golden = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def load(path: Path) -> Recording:
    return parse(path.read_text().splitlines())


@golden
def test_the_protocol_core_tells_what_was_told(path: Path) -> None:
    recording = load(path)
    replayed = replay(recording)
    assert not [one for one in replayed.incoming if isinstance(one, Malformed)]
    assert replayed.heard == recording.heard
    assert replayed.audio == recording.audio


@golden
async def test_the_client_tells_what_was_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = load(path)

    async def open_socket(*args: object, **kwargs: object) -> Any:
        return client_recorder.PlayedBack(recording)

    monkeypatch.setattr(transport, "open_socket", open_socket)
    listener = await client_recorder.play_back(recording)
    assert recording.heard is not None
    assert listener.heard == list(recording.heard)
    assert listener.audio == recording.audio


@golden
def test_a_recording_is_small_complete_and_holds_neither_audio_nor_keys(path: Path) -> None:
    text = path.read_text()
    recording = load(path)
    assert recording.lines() == text.splitlines()
    assert len(text) < 32_000
    assert recording.heard
    assert "sk-" not in text
    assert re.search(r"[A-Za-z0-9+/]{100}", text) is None


def test_the_recordings_are_those_of_the_list() -> None:
    assert {load(path).title for path in FILES} == set(client_recorder.GOLDEN_SCENARIOS)


def test_a_trace_file_is_a_recording(tmp_path: Path) -> None:
    """What the client's own trace writes can be read, its audio by size."""
    path = tmp_path / "trace.jsonl"
    trace = Trace(path, ("sk-secret-key",))
    trace.received(1.0, {"type": "session.created", "session": {"id": "s"}})
    trace.sent(1.5, {"type": "session.update", "session": {"instructions": "sk-secret-key"}})
    trace.audio(2.0, "r", "i", 0, 960)
    trace.close()
    recording = from_trace(path.read_text().splitlines(), "ga", "mine")
    assert replay(recording).audio == {"i": 960}
    assert [step.direction for step in recording.steps] == ["received", "sent", "received"]
    assert "sk-secret-key" not in json.dumps([step.frame for step in recording.steps])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "line 1: must be"),
        (["{}"], "line 1: must be"),
        (['{"recording": 1, "shape": "gamma"}'], "shape must be"),
        ([HEAD, "["], "line 2: is not JSON"),
        ([HEAD, "[]"], "line 2: must be a JSON object"),
        ([HEAD, '{"t": 0}'], "line 2: needs 't'"),
        ([HEAD, '{"t": "0", "sent": {}}'], "line 2: needs 't'"),
        ([HEAD, '{"t": 0, "received": {"type": "audio delta"}}'], "line 2: bytes"),
        ([HEAD, '{"t": 0, "received": {"type": "audio delta", "bytes": 99999999}}'], "line 2: bytes"),
        ([HEAD, '{"heard": 5}'], "line 2: 'heard'"),
        ([HEAD, '{"heard": [], "audio": {"i": -1}}'], "line 2: 'audio'"),
    ],
)
def test_what_is_no_recording_is_refused_by_line(lines: list[str], words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        parse(lines)
