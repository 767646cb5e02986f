"""What a caller of the chaos suite takes for silence, for a strange voice, and for a lost turn."""

from __future__ import annotations

import pytest
from chaos_callers import Ear, Turns
from chaos_provider import caller_of, pitch, tone, voice_of
from parley_client import AgentAudio, AudioFormat, ConversationEvent

PIECE = 0.02
FORMAT = AudioFormat.parse("pcm16@24000")


class Line:
    """An ear whose agent speaks in pieces of 20 ms on a clock of its own."""

    def __init__(self, sid: int = 3) -> None:
        self.ear = Ear(voice_of(sid))
        self.ear.start(FORMAT, 0.0)
        self.now = 0.0

    def speak(self, seconds: float, frequency: int | None = None) -> None:
        for _ in range(round(seconds / PIECE)):
            payload = tone(frequency or self.ear.frequency, PIECE)
            self.ear.play(AgentAudio(payload, "item", 0, 1, 1, 0), self.now)
            self.now += PIECE
        self.ear.tick(self.now + 1)

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_the_longest_quiet_between_two_sounds_counts() -> None:
    line = Line()
    line.speak(1.0)
    line.ear.watch()
    line.wait(0.5)
    line.speak(1.0)
    line.wait(3.0)
    line.speak(1.0)
    assert line.ear.longest == pytest.approx(3.0, abs=0.1)
    assert line.ear.seconds == pytest.approx(3.0, abs=0.05)
    assert line.ear.strange == 0


def test_quiet_before_watching_does_not_count_and_quiet_until_the_end_does() -> None:
    line = Line()
    line.speak(0.2)
    line.wait(5.0)
    line.speak(0.2)
    line.ear.watch()
    assert line.ear.longest == 0
    line.ear.quiet_until(line.now + 4.0)
    assert line.ear.longest == pytest.approx(4.0, abs=0.1)


def test_silence_that_is_sent_is_silence() -> None:
    line = Line()
    line.speak(0.2)
    line.ear.watch()
    for _ in range(100):
        line.ear.play(AgentAudio(bytes(960), "item", 0, 1, 1, 0), line.now)
        line.now += PIECE
    line.speak(0.2)
    assert line.ear.longest == pytest.approx(2.0, abs=0.1)


def test_another_voice_is_heard() -> None:
    line = Line()
    line.speak(0.2, voice_of(4))
    assert line.ear.strange == 10


@pytest.mark.parametrize("sid", range(20))
def test_every_tone_is_recognised(sid: int) -> None:
    import numpy as np

    for frequency in (voice_of(sid), caller_of(sid)):
        samples = np.frombuffer(tone(frequency, 0.3), dtype="<i2")
        assert pitch(samples) == frequency
        assert abs(pitch(samples[:480]) - frequency) <= 50


def words(kind: str, text: str) -> ConversationEvent:
    return ConversationEvent(1, 1, kind, {"transcript": text})


def test_turns_that_nobody_was_told_of_are_lost_and_told_twice_are_doubled() -> None:
    turns = Turns(3)
    for turn in (1, 2, 4, 4):
        turns.see(words("response.output_audio_transcript.done", f"turn-3-{turn} and so on"))
    assert (turns.lost, turns.doubled) == (1, 1)
    turns.see(
        words("conversation.item.input_audio_transcription.completed", f"caller-3-5 at {caller_of(3)} Hz")
    )
    assert turns.misheard == 0
    turns.see(
        words("conversation.item.input_audio_transcription.completed", f"caller-3-6 at {caller_of(4)} Hz")
    )
    assert turns.misheard == 1


def test_a_turn_that_a_cut_fell_into_may_be_said_again() -> None:
    turns = Turns(3)
    for turn in (1, 2, 2, 3):
        turns.see(words("response.output_audio_transcript.done", f"turn-3-{turn} and so on"))
        if turn == 2 and not turns.cut:
            turns.interrupted()
    assert (turns.lost, turns.doubled) == (0, 0)
