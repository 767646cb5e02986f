"""Frames in and out, in virtual time."""

from __future__ import annotations

import pytest
from parley_worker.core.audio import PROVIDER_FORMATS, AudioFormat, Encoding
from parley_worker.core.media_path import (
    InputFault,
    InputPath,
    OutFrame,
    OutMark,
    OutputPath,
    PlayoutMode,
)
from parley_worker.core.playout import AudioCounters, PlayoutLedger

PCM24 = PROVIDER_FORMATS["pcm16"]
PCM8 = AudioFormat(Encoding.PCM16, 8000)
ULAW = PROVIDER_FORMATS["g711_ulaw"]
ROOM = 1 << 20


def output(
    max_bytes: int = 1 << 20,
    mode: PlayoutMode = PlayoutMode.REALTIME,
    lead_frames: int = 0,
    ledger: PlayoutLedger | None = None,
) -> OutputPath:
    path = OutputPath(PCM24, ledger or PlayoutLedger(), AudioCounters(), max_bytes, lead_frames=lead_frames)
    path.attach(PCM24, mode)
    return path


def pcm(ms: int, value: int = 1) -> bytes:
    return bytes([value, 0]) * (24 * ms)


def play(path: OutputPath, start: float, end: float, step: float = 0.001) -> list[tuple[float, object]]:
    """What comes out and when, asked every `step` seconds."""
    out: list[tuple[float, object]] = []
    for n in range(round((end - start) / step) + 1):
        now = start + n * step
        due = path.next_due(now)
        if due is not None and due <= now:
            out += [(now, item) for item in path.take(now, ROOM)]
    return out


def test_frames_of_20_ms_leave_on_a_clock_that_does_not_drift() -> None:
    path = output()
    path.push(pcm(1000), "r", "i", 0, 10.0)
    path.end_part("r", "i", 0)
    played = play(path, 10.0, 12.0, step=0.0037)
    frames = [(at, item) for at, item in played if isinstance(item, OutFrame)]
    assert len(frames) == 50
    for n, (at, frame) in enumerate(frames):
        assert 0 <= at - (10.0 + n * 0.02) < 0.0038
        assert frame.position_ms == n * 20
        assert frame.late == pytest.approx(at - (10.0 + n * 0.02), abs=1e-6)
    assert played[-1][1] == OutMark("i", 0, 1, 1000)


def test_a_late_wake_up_catches_up_and_a_very_late_one_starts_anew() -> None:
    path = output()
    path.push(pcm(2000), "r", "i", 0, 10.0)
    assert len(path.take(10.0, ROOM)) == 1
    assert len(path.take(10.1, ROOM)) == 5
    assert len(path.take(11.0, ROOM)) == 1
    assert path.next_due(11.0) == pytest.approx(11.02)


def test_starvation_shifts_the_clock_instead_of_hurrying() -> None:
    path = output()
    path.push(pcm(20), "r", "i", 0, 10.0)
    assert len(path.take(10.0, ROOM)) == 1
    assert path.next_due(10.5) is None
    path.push(pcm(60), "r", "i", 0, 10.5)
    assert len(path.take(10.5, ROOM)) == 1
    assert path.next_due(10.5) == pytest.approx(10.52)


def test_a_pause_between_answers_does_not_make_the_next_one_hurry() -> None:
    path = output()
    path.push(pcm(20), "r1", "i1", 0, 10.0)
    path.end_part("r1", "i1", 0)
    path.take(10.0, ROOM)
    path.take(10.02, ROOM)
    path.push(pcm(200), "r2", "i2", 0, 10.15)
    assert len(path.take(10.15, ROOM)) == 1
    assert path.epoch == 2


def test_the_last_frame_is_filled_with_silence_that_does_not_count() -> None:
    ledger, counters = PlayoutLedger(), AudioCounters()
    path = OutputPath(ULAW, ledger, counters, 1 << 20)
    path.attach(ULAW, PlayoutMode.REALTIME)
    path.push(b"\x01" * 200, "r", "i", 0, 10.0)
    path.end_part("r", "i", 0)
    frames = [item for _, item in play(path, 10.0, 10.1) if isinstance(item, OutFrame)]
    assert frames[1].payload == b"\x01" * 40 + b"\xff" * 120
    assert counters.output_ms == 25


def test_burst_gives_everything_at_once_within_the_room() -> None:
    path = output(mode=PlayoutMode.BURST)
    path.push(pcm(1000), "r", "i", 0, 10.0)
    path.end_part("r", "i", 0)
    first = path.take(10.0, 4800 * 3)
    assert [len(f.payload) for f in first if isinstance(f, OutFrame)] == [4800] * 3
    rest = path.take(10.0, ROOM)
    assert isinstance(rest[-1], OutMark)
    assert len(rest) == 8


def test_clear_drops_what_waits_and_what_still_comes_of_the_same_answer() -> None:
    path = output()
    path.push(pcm(1000), "r1", "i1", 0, 10.0)
    path.take(10.0, ROOM)
    assert path.clear(["r1"]) == 1
    assert not path.waiting
    assert path.push(pcm(20), "r1", "i1", 0, 10.1)
    path.end_part("r1", "i1", 0)
    assert path.take(10.2, ROOM) == []
    assert path.muted_chunks == 1
    path.push(pcm(20), "r2", "i2", 0, 10.3)
    (frame,) = path.take(10.3, ROOM)
    assert isinstance(frame, OutFrame)
    assert frame.epoch == 2


def test_the_byte_cap_is_told_and_nothing_blocks() -> None:
    path = output(max_bytes=len(pcm(100)))
    assert path.push(pcm(100), "r", "i", 0, 10.0)
    assert not path.push(pcm(20), "r", "i", 0, 10.0)


def test_audio_waits_for_a_caller_that_is_away_and_goes_on_in_its_new_format() -> None:
    path = output()
    path.push(pcm(1000), "r", "i", 0, 10.0)
    play(path, 10.0, 10.099)
    path.detach()
    assert path.next_due(11.0) is None
    path.attach(PCM8, PlayoutMode.REALTIME)
    path.end_part("r", "i", 0)
    played = [item for _, item in play(path, 11.0, 13.0)]
    frames = [item for item in played if isinstance(item, OutFrame)]
    assert 100 <= frames[0].position_ms <= 160
    assert all(len(f.payload) == 320 for f in frames)
    assert isinstance(played[-1], OutMark)
    assert abs(played[-1].position_ms - 1000) < 1.5


@pytest.mark.parametrize(
    ("payload", "fault"),
    [(b"", InputFault.EMPTY), (b"abc", InputFault.UNALIGNED), (bytes(48002), InputFault.OVERSIZED)],
)
def test_frames_that_are_wrong(payload: bytes, fault: InputFault) -> None:
    assert InputPath(PCM24, PCM24, 10).accept(payload, 1, 0.0) is fault


def test_sequence_is_watched() -> None:
    path = InputPath(PCM24, PCM24, 10)
    frame = pcm(20)
    assert path.accept(frame, 1, 0.0) == frame
    assert path.accept(frame, 1, 0.0) is InputFault.STALE
    assert path.accept(frame, 4, 0.0) == frame
    assert (path.stale, path.gaps) == (1, 1)


def test_a_burst_is_allowed_and_a_higher_rate_is_not() -> None:
    path = InputPath(PCM24, PCM24, burst=1.0)
    second = pcm(1000)
    assert path.accept(second, 1, 0.0) == second
    assert path.accept(pcm(20), 2, 0.0) is InputFault.TOO_FAST
    steady = InputPath(PCM24, PCM24, burst=1.0)
    for n in range(500):
        assert steady.accept(pcm(20), n + 1, n * 0.02) == pcm(20)


def test_what_a_stall_held_back_comes_at_once() -> None:
    path = InputPath(PCM24, PCM24, burst=1.0)
    assert path.accept(pcm(20), 1, 0.0) == pcm(20)
    # Ten seconds late, and a second ahead; an hour of silence earns no more.
    taken = 0
    while path.accept(pcm(1000), taken + 2, 3600.0) == pcm(1000):
        taken += 1
    assert taken == 11


def test_two_answers_that_come_by_turns_keep_their_epochs_and_positions() -> None:
    path = output()
    for _ in range(3):
        path.push(pcm(40), "r1", "i1", 0, 10.0)
        path.push(pcm(40), "r2", "i2", 0, 10.0)
    path.end_part("r1", "i1", 0)
    path.end_part("r2", "i2", 0)
    frames = [item for _, item in play(path, 10.0, 11.0) if isinstance(item, OutFrame)]
    assert {(f.item_id, f.epoch) for f in frames} == {("i1", 1), ("i2", 2)}
    for item in ("i1", "i2"):
        assert [f.position_ms for f in frames if f.item_id == item] == [0, 20, 40, 60, 80, 100]
    assert path.clear(()) == 2


def test_a_part_that_goes_on_after_another_goes_on_where_it_was() -> None:
    path = output()
    path.push(pcm(40), "r1", "i1", 0, 10.0)
    path.push(pcm(40), "r2", "i2", 0, 10.0)
    first = [item for _, item in play(path, 10.0, 10.2) if isinstance(item, OutFrame)]
    path.push(pcm(40), "r1", "i1", 0, 10.3)
    path.end_part("r1", "i1", 0)
    later = [item for _, item in play(path, 10.3, 10.6) if isinstance(item, OutFrame)]
    assert [f.position_ms for f in first if f.item_id == "i1"] == [0, 20]
    assert [f.position_ms for f in later if f.item_id == "i1"] == [40, 60]


def test_what_an_answer_sends_after_its_clear_is_dropped_even_when_nothing_of_it_waited() -> None:
    path = output()
    path.push(pcm(20), "r", "i", 0, 10.0)
    assert [item for _, item in play(path, 10.0, 10.1) if isinstance(item, OutFrame)]
    path.clear(())
    path.push(pcm(20), "r", "i", 0, 10.2)
    assert play(path, 10.2, 10.4) == []
    assert path.muted_chunks == 1


def test_too_many_parts_do_not_fit_however_small_they_are() -> None:
    path = output()
    fits = [path.push(pcm(1), "r", f"i{n}", 0, 10.0) for n in range(1025)]
    assert fits == [True] * 1024 + [False]
    assert path.waiting_frames == 52


def test_an_answer_begins_with_its_lead_and_goes_on_in_real_time() -> None:
    path = output(lead_frames=2)
    path.push(pcm(1000), "r", "i", 0, 10.0)
    path.end_part("r", "i", 0)
    frames = [(at, item) for at, item in play(path, 10.0, 11.0) if isinstance(item, OutFrame)]
    assert [at for at, _ in frames[:3]] == [10.0] * 3
    assert all(
        at == pytest.approx(10.0 + (n - 2) * 0.02, abs=0.0011) for n, (at, _) in enumerate(frames[3:], 3)
    )
    assert [frame.position_ms for _, frame in frames] == [n * 20 for n in range(50)]
    assert all(frame.late < 0.0011 for _, frame in frames)


def test_the_lead_is_given_as_it_comes() -> None:
    """A provider that speaks in real time: nothing is held back, and nothing hurries."""
    path = output(lead_frames=2)
    told = []
    for n in range(20):
        now = 10.0 + n * 0.02
        path.push(pcm(20), "r", "i", 0, now)
        told.append(len(path.take(now, ROOM)))
    assert told == [1] * 20


def test_a_pause_of_the_provider_within_the_lead_does_not_move_the_clock() -> None:
    path = output(lead_frames=2)
    path.push(pcm(100), "r", "i", 0, 10.0)
    assert len(path.take(10.0, ROOM)) == 3
    assert len(path.take(10.04, ROOM)) == 2  # all of it is sent; the caller has 60 ms
    path.push(pcm(200), "r", "i", 0, 10.09)
    assert len(path.take(10.09, ROOM)) == 2
    assert path.next_due(10.09) == pytest.approx(10.1)


def test_after_a_gap_there_is_a_lead_again() -> None:
    path = output(lead_frames=2)
    path.push(pcm(60), "r", "i", 0, 10.0)
    assert len(path.take(10.0, ROOM)) == 3
    path.push(pcm(200), "r", "i", 0, 10.5)
    assert len(path.take(10.5, ROOM)) == 3


def test_an_answer_after_a_clear_has_a_lead_of_its_own() -> None:
    path = output(lead_frames=2)
    path.push(pcm(500), "r1", "i1", 0, 10.0)
    path.take(10.0, ROOM)
    path.clear(["r1"])
    path.push(pcm(500), "r2", "i2", 0, 10.01)
    assert len(path.take(10.01, ROOM)) == 3


def test_what_was_heard_of_a_lead_goes_by_the_clock() -> None:
    ledger = PlayoutLedger()
    path = output(lead_frames=2, ledger=ledger)
    path.push(pcm(1000), "r", "i", 0, 10.0)
    play(path, 10.0, 10.1)
    (cut,) = ledger.cut(1, None, 10.11)
    assert cut.audio_end_ms == pytest.approx(110, abs=1)
