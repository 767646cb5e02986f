"""What lies where in a recording, in virtual time; and that its files are what their headers say."""

from __future__ import annotations

import io
import itertools
import wave

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime.audio import Encoding, SampleFormat, decode, encode
from parley_realtime.units.encoders import MAX_WAV_BYTES, WavEncoder, make_encoder
from parley_realtime.units.timeline import MAX_AHEAD_SECONDS, Timeline

RATE = 8000
PCM8 = SampleFormat(Encoding.PCM16, RATE)
ULAW = SampleFormat(Encoding.G711_ULAW, RATE)
PART = ("item_1", 0)


def say(value: int, ms: int = 20) -> bytes:
    return np.full(RATE * ms // 1000, value, "<i2").tobytes()


def answer(line: Timeline, at: float, value: int, ms: int, key: tuple[str, int] = PART) -> None:
    """Send `ms` of audio in 20 ms frames at real time, beginning at `at`."""
    for i in range(ms // 20):
        line.right(at + i * 0.02, say(value), PCM8, key, i * 20)


def runs(samples: npt.NDArray[np.int16]) -> list[tuple[int, float]]:
    """Value and length in ms of every run."""
    edges = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
    return [(int(samples[a]), (b - a) * 1000 / RATE) for a, b in itertools.pairwise(edges) if b > a]


def sides(line: Timeline, end: float) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    frames = line.finish(end)
    return runs(frames[:, 0]), runs(frames[:, 1])


def test_each_side_lies_where_it_was_said_and_heard() -> None:
    line = Timeline(RATE, 100.0)
    for i in range(10):
        line.left(100.5 + i * 0.02, say(7), PCM8)
    answer(line, 101.0, 9, 400)
    assert sides(line, 102.0) == (
        [(0, 500), (7, 200), (0, 1300)],
        [(0, 1000), (9, 400), (0, 600)],
    )


def test_late_frames_of_the_caller_follow_on_and_real_gaps_are_silence() -> None:
    line = Timeline(RATE, 0.0)
    for at in (0.0, 0.15, 0.16, 0.17, 0.6):
        line.left(at, say(5), PCM8)
    assert sides(line, 1.0)[0] == [(5, 80), (0, 520), (5, 20), (0, 380)]


def test_a_burst_of_the_caller_is_played_at_its_own_length() -> None:
    line = Timeline(RATE, 0.0)
    for _ in range(50):
        line.left(0.0, say(5), PCM8)
    assert sides(line, 2.0)[0] == [(5, 1000), (0, 1000)]


def test_the_players_buffer_is_counted() -> None:
    line = Timeline(RATE, 0.0)
    line.buffer = 0.1
    answer(line, 1.0, 9, 200)
    assert sides(line, 2.0)[1] == [(0, 1100), (9, 200), (0, 700)]


def test_audio_sent_in_a_burst_is_heard_in_its_own_time() -> None:
    line = Timeline(RATE, 0.0)
    for i in range(20):
        line.right(0.5, say(9, 100), PCM8, PART, i * 100)
    assert sides(line, 3.0)[1] == [(0, 500), (9, 2000), (0, 500)]


@pytest.mark.parametrize(("heard", "kept"), [(250, 250), (0, 0), (990, 990), (1000, 1000), (5000, 1000)])
def test_cleared_audio_is_not_in_it(heard: int, kept: int) -> None:
    line = Timeline(RATE, 0.0)
    for i in range(10):
        line.right(0.5, say(9, 100), PCM8, PART, i * 100)
    line.cleared(0.8)
    line.cut(PART, heard)
    assert [run for run in sides(line, 3.0)[1] if run[0]] == ([(9, kept)] if kept else [])


def test_after_a_cut_the_next_answer_is_heard_at_once() -> None:
    line = Timeline(RATE, 0.0)
    for i in range(20):
        line.right(0.0, say(9, 100), PCM8, PART, i * 100)
    line.cleared(0.5)
    line.cut(PART, 500)
    answer(line, 0.6, 4, 100, ("item_2", 0))
    assert sides(line, 1.0)[1] == [(9, 500), (0, 100), (4, 100), (0, 300)]


def test_a_cut_leaves_other_parts_alone() -> None:
    line = Timeline(RATE, 0.0)
    answer(line, 0.0, 3, 200)
    answer(line, 0.2, 4, 200, ("item_2", 0))
    line.cut(("item_2", 0), 100)
    assert sides(line, 1.0)[1] == [(3, 200), (4, 100), (0, 700)]


def test_what_was_not_heard_when_the_caller_left_is_not_in_it() -> None:
    line = Timeline(RATE, 0.0)
    for i in range(20):
        line.right(0.0, say(9, 100), PCM8, PART, i * 100)
    line.hush(0.73)
    answer(line, 1.0, 4, 40, ("item_2", 0))
    assert sides(line, 2.0)[1] == [(9, 730), (0, 270), (4, 40), (0, 960)]


def test_the_end_cuts_what_was_still_to_be_heard() -> None:
    line = Timeline(RATE, 0.0)
    for i in range(20):
        line.right(0.0, say(9, 100), PCM8, PART, i * 100)
    assert sides(line, 0.5)[1] == [(9, 500)]


def test_audio_absurdly_far_ahead_is_left_out_and_counted() -> None:
    line = Timeline(RATE, 0.0)
    for _ in range(int(MAX_AHEAD_SECONDS) + 10):
        line.right(0.0, say(1, 1000), PCM8, PART, 0)
    assert line.dropped_ms == pytest.approx(9000)


def test_formats_may_change_and_are_converted() -> None:
    line = Timeline(RATE, 0.0)
    line.left(0.0, encode(np.full(1600, 8031, np.int16), Encoding.G711_ULAW), ULAW)
    line.left(0.2, say(700, 200), PCM8)
    line.left(0.4, np.full(9600, 4000, "<i2").tobytes(), SampleFormat(Encoding.PCM16, 48_000))
    left = line.finish(0.6)[:, 0].astype(int)
    assert len(left) == 4800
    expected = int(decode(encode(np.array([8031], np.int16), Encoding.G711_ULAW), Encoding.G711_ULAW)[0])
    assert set(left[:1600]) == {expected}
    assert set(left[1600:3200]) == {700}
    assert abs(left[3300:4700] - 4000).max() < 40


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["left", "right", "take", "cleared", "cut", "hush"]), st.integers(0, 300)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_taken_bit_by_bit_it_has_exactly_its_length_and_no_more_than_was_sent(
    actions: list[tuple[str, int]],
) -> None:
    line, now, sent, taken = Timeline(RATE, 0.0, hold=0.3), 0.0, 0, []
    for action, ms in actions:
        now += ms / 1000
        if action == "left":
            line.left(now, say(5), PCM8)
        elif action == "right":
            line.right(now, say(9, ms), PCM8, PART, sent)
            sent += ms
        elif action == "take":
            taken.append(line.take(now))
        elif action == "cleared":
            line.cleared(now)
        elif action == "cut":
            line.cut(PART, ms * 4)
        else:
            line.hush(now)
    taken.append(line.finish(now))
    frames = np.concatenate(taken)
    assert len(frames) == round(now * RATE)
    assert set(frames[:, 0]) <= {0, 5}
    assert set(frames[:, 1]) <= {0, 9}
    assert np.count_nonzero(frames[:, 1]) <= sent * RATE // 1000


def test_a_wav_is_whole_after_every_write() -> None:
    encoder, data = WavEncoder(RATE), bytearray()
    for n in range(1, 4):
        data += encoder.encode(np.full((RATE, 2), n, np.int16))
        data[: len(encoder.header(len(data)))] = encoder.header(len(data))
        with wave.open(io.BytesIO(bytes(data))) as file:
            assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, RATE, RATE * n)
    assert encoder.finish() == b""


def test_a_wav_as_a_stream_plays_although_its_sizes_are_unknown() -> None:
    encoder = WavEncoder(RATE)
    data = encoder.encode(np.full((RATE, 2), 3, np.int16)) + encoder.finish()
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert (len(samples), rate, set(samples[:, 1])) == (RATE, RATE, {3})


def test_a_wav_ends_where_its_format_does() -> None:
    encoder = WavEncoder(RATE)
    encoder._size = MAX_WAV_BYTES - 10
    encoder._begun = True
    assert len(encoder.encode(np.ones((100, 2), np.int16))) == 8
    assert encoder.encode(np.ones((100, 2), np.int16)) == b""


def test_an_empty_wav_has_a_header() -> None:
    encoder = WavEncoder(RATE)
    data = encoder.finish()
    assert encoder.header(len(data))[:4] == b"RIFF"
    assert len(data) == len(encoder.header(len(data))) == 44


def test_opus_is_playable_wherever_it_is_cut() -> None:
    encoder = make_encoder("opus", 24_000)
    tone = (np.sin(np.arange(24_000) * 2 * np.pi * 440 / 24_000) * 9000).astype(np.int16)
    pieces = [encoder.encode(np.stack((tone, tone), axis=1)) for _ in range(5)]
    whole = b"".join(pieces) + encoder.finish()
    assert len(soundfile.read(io.BytesIO(whole))[0]) == 120_000
    cut, _ = soundfile.read(io.BytesIO(b"".join(pieces)))
    assert 3.5 * 24_000 < len(cut) <= 120_000


@pytest.mark.parametrize(
    ("name", "rate", "remedy"), [("mp3", 8000, "use one of wav, opus"), ("opus", 44100, "48000")]
)
def test_a_format_that_cannot_be_written_is_refused(name: str, rate: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        make_encoder(name, rate)
