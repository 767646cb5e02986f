"""What was heard, in virtual time."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_client import AgentAudio, Mark, WavRecorder
from parley_client.formats import G711_ULAW, PCM16_8K
from parley_client.playout import PlayoutLine

FRAME = bytes(PCM16_8K.frame_bytes)


def piece(position_ms: int, *, item: str = "a", epoch: int = 1, payload: bytes = FRAME) -> AgentAudio:
    return AgentAudio(payload, item, 0, epoch, 1, position_ms)


def line_with(frames: int, *, buffer_ms: int = 60) -> PlayoutLine:
    line = PlayoutLine(PCM16_8K, buffer_ms=buffer_ms)
    for index in range(frames):
        line.push(piece(20 * index), now=0.0)
    return line


def test_a_clear_in_the_middle_reports_what_was_heard_not_what_was_queued() -> None:
    line = line_with(50)
    heard = line.clear(1, now=0.060 + 0.333)
    assert (heard.item_id, heard.played_ms, heard.epoch) == ("a", 333, 1)
    assert line.idle


def test_the_jitter_buffer_counts_as_not_heard() -> None:
    assert line_with(50, buffer_ms=200).clear(1, now=0.1).played_ms == 0


def test_a_clear_after_the_end_reports_all_of_it_and_not_the_wall_clock() -> None:
    assert line_with(10).clear(1, now=9.0).played_ms == 200


def test_a_clear_of_nothing_names_no_item() -> None:
    assert PlayoutLine(PCM16_8K).clear(3, now=1.0).item_id == ""


def test_an_item_that_never_began_is_reported_at_zero() -> None:
    line = line_with(5)
    line.push(piece(0, item="b", epoch=2), now=0.0)
    heard = line.clear(2, now=0.01)
    assert (heard.item_id, heard.played_ms) == ("a", 0)
    line.push(piece(0, item="c", epoch=3), now=1.0)
    heard = line.clear(3, now=1.0)
    assert (heard.item_id, heard.played_ms) == ("c", 0)


def test_a_later_epoch_survives_the_clear_of_an_earlier_one() -> None:
    line = line_with(5)
    line.push(piece(0, item="b", epoch=2), now=0.0)
    line.clear(1, now=0.1)
    assert not line.idle
    assert line.heard(1.0).item_id == "b"


def test_audio_that_comes_after_its_clear_is_dropped_and_counted() -> None:
    line = line_with(2)
    line.clear(1, now=0.0)
    line.push(piece(40), now=0.1)
    assert line.idle
    assert line.dropped == 1


def test_late_audio_waits_for_the_buffer_again_and_audio_in_time_does_not() -> None:
    line = line_with(1)
    line.push(piece(20), now=0.07)
    line.push(piece(40), now=0.5)
    stretches = line.take_stretches(2.0)
    assert [round(s.start, 3) for s in stretches] == [0.06, 0.08, 0.56]


def test_a_mark_is_due_when_all_before_it_was_heard() -> None:
    line = line_with(5)
    line.mark(Mark("m", 1, "a", 0, 100), now=0.0)
    assert line.next_deadline() == pytest.approx(0.08)
    assert line.take_marks(0.159) == []
    assert [mark.name for mark in line.take_marks(0.161)] == ["m"]
    assert line.idle or line.heard(0.161)


def test_a_cleared_mark_is_never_answered() -> None:
    line = line_with(5)
    line.mark(Mark("m", 1, "a", 0, 100), now=0.0)
    line.clear(1, now=0.1)
    line.mark(Mark("n", 1, "a", 0, 100), now=0.1)
    assert line.take_marks(5.0) == []


@given(
    st.lists(st.floats(0, 0.2), min_size=1, max_size=30),
    st.floats(0, 3),
    st.integers(0, 300),
)
def test_played_is_never_more_than_sent_and_recorded_audio_is_exactly_what_was_played(
    gaps: list[float], cut: float, buffer_ms: int
) -> None:
    line = PlayoutLine(PCM16_8K, buffer_ms=buffer_ms)
    now, sent = 0.0, 0
    for gap in gaps:
        now += gap
        line.push(piece(sent), now)
        sent += 20
    heard = line.clear(1, now + cut)
    stretches = line.take_stretches(now + cut)
    recorded = sum(len(s.payload) for s in stretches) / 16
    assert 0 <= heard.played_ms <= sent
    assert abs(recorded - heard.played_ms) <= 1
    ends = [s.start + len(s.payload) / 16000 for s in stretches]
    assert all(end <= later.start + 1e-6 for end, later in zip(ends, stretches[1:], strict=False))


def test_the_recorder_keeps_silence_where_nothing_was_said(tmp_path: Path) -> None:
    recorder = WavRecorder(tmp_path / "new" / "answer.wav", buffer_ms=0)
    recorder.start(G711_ULAW, 100.0)
    loud = G711_ULAW.encode(PCM16_8K.decode(b"\x00\x40" * 160))
    recorder.play(AgentAudio(loud, "a", 0, 1, 1, 0), 101.0)
    recorder.play(AgentAudio(loud, "a", 0, 1, 2, 20), 101.01)
    recorder.clear(1, 101.03)
    recorder.close(102.0)
    with wave.open(str(recorder.path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        samples = PCM16_8K.decode(file.readframes(file.getnframes()))
    assert len(samples) == 16000
    assert not samples[:8000].any()
    assert samples[8000:8240].all()
    assert not samples[8240:].any()
