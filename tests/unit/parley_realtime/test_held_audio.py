"""Turns that nobody transcribes are held as audio: the newest in half its bytes, older ones packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_realtime.audio import Encoding, Samples, decode
from parley_realtime.formats import PCM16, PCMA, PCMU, AudioFormat
from parley_realtime.protocol.held import HeldAudio, compand, expand
from parley_realtime.protocol.history import ConversationHistory
from parley_realtime.protocol.keeper import ConversationKeeper

from tests.support.local_session import silence, tone


def samples(audio: bytes) -> Samples:
    return decode(audio, Encoding.PCM16)


def turn(history: ConversationHistory, name: str) -> None:
    history.server({"type": "input_audio_buffer.committed", "item_id": name, "previous_item_id": None})


def takes(history: ConversationHistory) -> list[int]:
    return [part.audio.takes for item in history for part in item.parts if part.audio]


@pytest.mark.parametrize("ms", [60, 333, 4000])
def test_packed_audio_is_a_sixth_and_sounds_the_same(ms: int) -> None:
    came = tone(ms)
    held = HeldAudio(came)
    assert held.whole() == came
    held.pack()
    assert held.takes == len(came) // 6
    assert held.size == len(came)
    wrong = samples(held.whole()).astype(float) - samples(came)
    assert np.abs(wrong[240:-240]).max() < 1000


@pytest.mark.parametrize("ms", [60, 333, 4000])
def test_halved_audio_has_all_its_frequencies_and_noise_far_below(ms: int) -> None:
    random = np.random.default_rng(ms)
    came = (random.standard_normal(24 * ms) * 3000).astype(np.int16).tobytes()
    held = HeldAudio.of_halves(compand(came))
    assert (held.size, held.takes) == (len(came), len(came) // 2)
    wrong = samples(held.whole()).astype(float) - samples(came)
    assert 10 * np.log10(np.mean(samples(came).astype(float) ** 2) / np.mean(wrong**2)) > 36
    held.pack()
    assert held.takes == len(came) // 6
    assert len(held.whole()) == len(came)


@given(st.binary(max_size=200).filter(lambda audio: len(audio) % 2 == 0))
def test_halving_what_was_halved_changes_nothing(audio: bytes) -> None:
    once = expand(compand(audio))
    assert expand(compand(once)) == once


def test_packing_twice_changes_nothing() -> None:
    held = HeldAudio(tone(100))
    held.pack()
    once = held.whole()
    held.pack()
    assert held.whole() == once


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("audio", [b"", b"\1", b"\1\2", b"\1\2\3", silence(5) + b"\1"])
def test_whatever_came_can_be_packed(audio: bytes, halved: bool) -> None:
    audio = audio[: len(audio) // 2 * 2] if halved else audio
    held = HeldAudio.of_halves(compand(audio)) if halved else HeldAudio(audio)
    assert len(held.whole()) == len(audio)
    held.pack()
    assert abs(len(held.whole()) - len(audio)) <= 6


def test_the_newest_turn_is_halved_and_older_ones_are_packed() -> None:
    history = ConversationHistory(packs=True)
    for name in ("a", "b", "c"):
        turn(history, name)
        history.hold(name, HeldAudio.of_halves(compand(tone(600))))
    assert takes(history) == [len(tone(600)) // 6] * 2 + [len(tone(600)) // 2]
    assert history.get("c").audio == expand(compand(tone(600)))  # type: ignore[union-attr]
    assert len(history.get("a").audio) == len(tone(600))  # type: ignore[union-attr]


def test_packing_holds_no_more_turns_than_before() -> None:
    history = ConversationHistory(max_held=3 * len(tone(600)), packs=True)
    for name in "abcde":
        turn(history, name)
        history.hold(name, HeldAudio.of_halves(compand(tone(600))))
    assert [bool(item.audio) for item in history] == [False, False, True, True, True]


def test_a_transcript_lets_packed_audio_go() -> None:
    history = ConversationHistory(packs=True)
    for name in "ab":
        turn(history, name)
        history.hold(name, HeldAudio.of_halves(compand(tone(600))))
    kind = "conversation.item.input_audio_transcription.completed"
    history.server({"type": kind, "item_id": "a", "content_index": 0, "transcript": "hello"})
    assert takes(history) == [len(tone(600)) // 2]


@pytest.mark.parametrize(("audio", "packs"), [(PCM16, True), (PCMU, False), (PCMA, False)])
def test_only_what_is_large_is_packed(audio: AudioFormat, packs: bool) -> None:
    keeper = ConversationKeeper(
        ga=True, audio=audio, outward=audio, replay_ms=30_000, quiet_ms=12_000, held_ms=20_000, limit=64
    )
    said = bytes(range(1, 241)) * 40
    for name in "ab":
        keeper.tape.append(said)
        keeper.server(
            {"type": "input_audio_buffer.committed", "item_id": name, "previous_item_id": None}, 0.0
        )
    assert takes(keeper.history) == ([len(said) // 6, len(said) // 2] if packs else [len(said)] * 2)
