"""No audio is held of a conversation that cannot be carried over anyway, and all of it is where it can."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import VAD, Kept, second
from parley_realtime.formats import PCMU
from parley_realtime.protocol.restore import Refusal, RestorePlan
from parley_realtime.protocol.tape import InputTape

UNTRANSCRIBED = {"audio": {"input": {"turn_detection": VAD}}}
BY_HAND = {"audio": {"input": {"turn_detection": None}}}


def speak(kept: Kept, item_id: str, seconds: float = 1.0) -> None:
    """A turn of so many seconds, from where the tape is."""
    begin = kept.keeper.tape.end * 1000 // PCMU.bytes_per_second
    kept.keeper.tape.append(second(seconds))
    kept.turn(item_id, begin, begin + int(seconds * 1000))


def held(kept: Kept) -> list[str]:
    return [item.id for item in kept.keeper.history if item.audio]


def hopeless() -> Kept:
    kept = Kept(UNTRANSCRIBED)
    for name in "abcd":
        speak(kept, name)
    return kept


def test_nothing_is_held_once_a_turn_was_let_go() -> None:
    kept = Kept(UNTRANSCRIBED)
    for name in "abc":
        speak(kept, name)
    assert held(kept) == ["a", "b", "c"], "three seconds are held"
    speak(kept, "d")
    assert held(kept) == []
    kept.keeper.tape.append(second())
    assert kept.keeper.tape.size == 0
    speak(kept, "e")
    assert held(kept) == []
    assert isinstance(kept.keeper.plan(), Refusal), "as before, whatever else is held"


def test_a_turn_after_the_silent_ones_were_deleted_is_held_again() -> None:
    kept = hopeless()
    for name in "abc":
        kept.server("conversation.item.deleted", item_id=name)
    assert isinstance(kept.keeper.plan(), Refusal)
    kept.server("conversation.item.deleted", item_id="d")
    speak(kept, "e")
    assert held(kept) == ["e"]
    assert isinstance(kept.keeper.plan(), RestorePlan)


def test_a_turn_that_began_while_nothing_was_held_is_not_taken_for_whole() -> None:
    kept = hopeless()
    begin = kept.keeper.tape.end * 1000 // PCMU.bytes_per_second
    kept.keeper.tape.append(second())
    for name in "abcd":
        kept.server("conversation.item.deleted", item_id=name)
    kept.keeper.tape.append(second())
    kept.turn("e", begin + 500, begin + 2000)
    assert held(kept) == []
    assert isinstance(kept.keeper.plan(), Refusal)


def test_the_same_where_the_client_ends_the_turns() -> None:
    kept = Kept(BY_HAND)

    def turn(name: str) -> None:
        kept.client("input_audio_buffer.commit", event_id=name)
        kept.server("input_audio_buffer.committed", item_id=name)

    for name in "abcd":
        kept.keeper.tape.append(second())
        turn(name)
    assert held(kept) == []
    kept.keeper.tape.append(second())
    assert kept.keeper.unsettled_ms == 1000, "of a turn under way, held or not"
    for name in "abcd":
        kept.server("conversation.item.deleted", item_id=name)
    assert not kept.keeper.settled, "a part of the turn is held by the provider alone"
    kept.keeper.tape.append(second())
    turn("e")
    assert isinstance(kept.keeper.plan(), Refusal)
    kept.server("conversation.item.deleted", item_id="e")
    kept.keeper.tape.append(second())
    turn("f")
    assert held(kept) == ["f"]


def test_transcription_brings_the_audio_back() -> None:
    kept = hopeless()
    kept.server("session.updated", session={"audio": {"input": {"transcription": {"model": "w"}}}})
    speak(kept, "e")
    assert held(kept) == ["e"]
    assert kept.keeper.tape.size == 0
    kept.keeper.tape.append(second())
    assert kept.keeper.tape.size == len(second())


def test_a_deletion_that_was_on_its_way_when_the_connection_was_lost_counts_at_once() -> None:
    kept = hopeless()
    for name in "abc":
        kept.server("conversation.item.deleted", item_id=name)
    kept.client("conversation.item.delete", event_id="e1", item_id="d")
    kept.loss = kept.keeper.lost(b"", "event_x")
    kept.keeper.tape.append(second())
    assert kept.move()[-1] == second(), "what the caller says meanwhile waits for the new connection"


def test_transcripts_that_come_late_cost_no_audio() -> None:
    kept = Kept()
    for name in "abcdef":
        speak(kept, name)
    assert held(kept) == ["d", "e", "f"]
    kept.keeper.tape.append(second())
    assert kept.keeper.tape.size == len(second())


def test_a_transcription_holds_its_audio() -> None:
    kept = Kept(UNTRANSCRIBED, answers=False)
    for name in "abcde":
        speak(kept, name)
    assert held(kept) == ["c", "d", "e"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["speak", "delete oldest", "delete newest", "long"]), max_size=40))
def test_what_is_held_is_what_can_be_carried_over(steps: list[str]) -> None:
    """No more than the bound, nothing where it would be refused, all of each turn where it would not."""
    kept = Kept(UNTRANSCRIBED)
    said: dict[str, int] = {}
    for number, step in enumerate(steps):
        ids = [item.id for item in kept.keeper.history]
        if step in ("speak", "long"):
            name = f"u{number}"
            said[name] = 1 if step == "speak" else 2
            speak(kept, name, said[name])
        elif ids:
            gone = ids[0] if step == "delete oldest" else ids[-1]
            kept.server("conversation.item.deleted", item_id=gone)
        sizes = {item.id: len(item.audio) for item in kept.keeper.history}
        assert sum(sizes.values()) <= len(second(3))
        plan: Any = kept.keeper.plan()
        if isinstance(plan, Refusal):
            assert not any(sizes.values())
            kept.keeper.tape.append(second(0.1))
            assert kept.keeper.tape.size == 0
        else:
            assert sizes == {name: len(second(said[name])) for name in sizes}


@given(st.lists(st.tuples(st.sampled_from(["append", "settle", "hold", "let go"]), st.integers(0, 400))))
def test_a_tape_that_holds_nothing_keeps_its_places(steps: list[tuple[str, int]]) -> None:
    tape = InputTape(PCMU, replay_ms=100, quiet_ms=100)
    everything, held_from = b"", 0
    for step, number in steps:
        match step:
            case "append":
                audio = bytes((len(everything) + n) % 251 for n in range(number))
                everything += audio
                tape.append(audio)
            case "settle":
                tape.settle(number)
                held_from = max(held_from, min(number, len(everything)))
            case "hold":
                tape.hold(True)
            case "let go":
                tape.hold(False)
        assert tape.end == len(everything)
        assert everything.endswith(tape.slice(0, tape.end))
        turn = tape.turn(None, tape.end)
        assert turn is None or turn.whole() == tape.slice(held_from, tape.end)


@pytest.mark.parametrize("again", [True, False])
def test_saying_the_same_twice_changes_nothing(again: bool) -> None:
    tape = InputTape(PCMU, replay_ms=1000, quiet_ms=1000)
    tape.append(second(0.5))
    tape.hold(True)
    assert (tape.size, tape.torn) == (4000, False)
    tape.hold(False)
    if again:
        tape.hold(False)
    tape.append(second(0.5))
    assert (tape.size, tape.end, tape.unsettled) == (0, 8000, 8000)
