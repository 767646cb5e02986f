"""Formats, WAV files, pacing."""

from __future__ import annotations

import asyncio
import math
import random
import wave
from pathlib import Path

import numpy as np
import pytest
from parley_client import AudioError, AudioFormat, LevelMeter, UsageError, read_wav, write_wav
from parley_client.audio import frames, pace
from parley_client.backoff import Backoff
from parley_client.formats import G711_ALAW, G711_ULAW, PCM16_8K, PCM16_24K


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pcm16", "pcm16@24000"),
        ("PCM16@8000", "pcm16@8000"),
        ("g711_ulaw", "g711_ulaw@8000"),
        ("g711_alaw@8000", "g711_alaw@8000"),
        ("opus", "opus@24000"),
        ("OPUS@48000", "opus@48000"),
    ],
)
def test_formats_are_read(text: str, expected: str) -> None:
    assert str(AudioFormat.parse(text)) == expected


@pytest.mark.parametrize(
    "text", ["mp3", "opus@12000", "pcm16@44100", "g711_ulaw@16000", "pcm16@fast", "", "pcm16@-8000"]
)
def test_a_bad_format_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="audio format"):
        AudioFormat.parse(text)


def test_samples_of_an_opus_call_are_pcm16() -> None:
    format = AudioFormat.parse("opus@16000")
    assert (format.sample_bytes, format.frame_bytes, format.seconds(640)) == (2, 640, 0.02)
    samples = np.array([-3, 0, 32767], dtype=np.int16)
    assert format.encode(samples) == samples.tobytes()
    assert list(format.decode(samples.tobytes())) == list(samples)


@pytest.mark.parametrize("format", [G711_ULAW, G711_ALAW])
def test_g711_code_words_survive_a_round_trip(format: AudioFormat) -> None:
    words = bytes(range(256))
    again = format.encode(format.decode(words))
    assert [a for a, b in zip(words, again, strict=True) if a != b] == ([0x7F] if format is G711_ULAW else [])


def test_g711_known_values() -> None:
    assert G711_ULAW.encode(np.array([0, 32767, -32768], dtype=np.int16)) == b"\xff\x80\x00"
    assert G711_ALAW.encode(np.array([8, 32767, -32768], dtype=np.int16)) == b"\xd5\xaa\x2a"


@pytest.mark.parametrize("format", [G711_ULAW, G711_ALAW])
def test_g711_error_stays_small_beside_the_level(format: AudioFormat) -> None:
    samples = np.arange(-32000, 32000, 7, dtype=np.int16)
    error = np.abs(format.decode(format.encode(samples)).astype(int) - samples)
    assert (error <= np.maximum(np.abs(samples.astype(int)) / 16, 16)).all()


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="3 bytes are not whole samples"):
        PCM16_24K.decode(b"abc")


def sine(rate: int, seconds: float, hertz: float = 440) -> np.ndarray:
    return (np.sin(2 * math.pi * hertz * np.arange(int(rate * seconds)) / rate) * 12000).astype(np.int16)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_a_wav_of_any_rate_keeps_its_pitch_and_length(tmp_path: Path, rate: int) -> None:
    write_wav(tmp_path / "a.wav", sine(rate, 0.5), rate)
    samples = read_wav(tmp_path / "a.wav", 24000)
    assert len(samples) == pytest.approx(12000, abs=2)
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * 24000 / len(samples)
    assert peak == pytest.approx(440, abs=3)


@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_widths_and_channels_are_read(tmp_path: Path, width: int, channels: int) -> None:
    samples = sine(8000, 0.2)
    floats = np.repeat(samples.astype(float) / 32768, channels)
    if width == 1:
        data = np.rint(floats * 128 + 128).astype(np.uint8).tobytes()
    elif width == 3:
        words = np.rint(floats * (1 << 23)).astype("<i4")
        data = words.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    else:
        data = np.rint(floats * (1 << 31)).astype("<i4").tobytes()
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, width, 8000, 0, "NONE", ""))
        file.writeframes(data)
    read = read_wav(tmp_path / "a.wav", 8000)
    assert np.abs(read.astype(int) - samples).max() <= (256 if width == 1 else 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "not a PCM WAV"),
        (b"RIFF", "not a PCM WAV"),
        (b"\x00" * 999, "not a PCM WAV"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=words) as caught:
        read_wav(path, 24000)
    assert str(path) in str(caught.value)


def test_an_empty_and_a_cut_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "empty.wav", np.zeros(0, dtype=np.int16), 8000)
    with pytest.raises(AudioError, match="holds no audio"):
        read_wav(tmp_path / "empty.wav", 8000)
    write_wav(tmp_path / "cut.wav", sine(8000, 1), 8000)
    data = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2 + 1])
    assert len(read_wav(tmp_path / "cut.wav", 8000)) == pytest.approx(4000, abs=30)


def test_the_last_frame_is_filled_with_silence() -> None:
    cut = list(frames(np.ones(200, dtype=np.int16), PCM16_8K))
    assert [len(frame) for frame in cut] == [320, 320]
    assert not PCM16_8K.decode(cut[1])[40:].any()


async def test_pacing_follows_the_clock_and_forgives_a_long_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    given: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    paced = pace(iter([b""] * 200), clock=lambda: now)
    async for _ in paced:
        given.append(round(now, 3))
        if len(given) == 10:
            now += 5.0
    assert given[:10] == [round(0.02 * i, 3) for i in range(10)]
    assert given[-1] == pytest.approx(5.18 + 190 * 0.02 - 1.0, abs=0.05)


def test_levels() -> None:
    meter = LevelMeter(PCM16_8K)
    meter.feed(bytes(320))
    assert meter.db == -90
    meter.feed(b"\x00\x40" * 160)
    assert meter.db == pytest.approx(-6.02, abs=0.1)
    meter.feed(bytes(320))
    assert -8 < meter.db < -7


def test_backoff_grows_and_is_bounded() -> None:
    backoff = Backoff(first=0.2, highest=3, factor=2, floor=0.05)
    assert [backoff.delay(n, lambda: 1.0) for n in range(1, 7)] == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
    assert backoff.delay(5, lambda: 0.0) == 0.05
    assert 0.05 <= backoff.delay(10_000, random.Random(1).random) <= 3.0
