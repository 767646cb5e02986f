"""What is kept of a conversation so that a lost connection takes nothing with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import VAD, Kept, kinds, second
from parley_realtime.events import BETA_NAMES, GA_NAMES
from parley_realtime.formats import PCM16, PCMU, AudioFormat
from parley_realtime.protocol.alignment import Alignment
from parley_realtime.protocol.history import merged
from parley_realtime.protocol.keeper import MAX_ASKED_IN_ROW
from parley_realtime.protocol.outstanding import Outstanding
from parley_realtime.protocol.restore import RestoreCheck, RestorePlan
from parley_realtime.protocol.tape import InputTape
from parley_realtime.protocol.vigil import Cancel, GiveUp, Vigil
from parley_realtime.recovery import RecoveryParameters


def test_a_question_without_an_answer_is_asked_again() -> None:
    kept = Kept()
    kept.user("u1")
    kept.client("response.create", event_id="e1", response={"instructions": "kindly"})
    kept.answer("r1")
    assert kept.lost() == [{"type": "response.create", "response": {"instructions": "kindly"}}]
    (done,) = kept.loss.closings
    assert (done["type"], done["response"]["status"]) == ("response.done", "incomplete")


def test_an_answer_that_was_whole_is_not_asked_for_again() -> None:
    kept = Kept()
    kept.user("u1")
    kept.client("response.create", event_id="e1")
    kept.answer("r1", "a1", "all of it", whole=True)
    assert kept.lost() == []
    assert kept.loss.closings[-1]["response"]["status"] == "completed"
    assert kept.loss.cut_items == ()


def test_half_an_answer_ends_where_it_is_and_is_asked_for_again() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "half of it ")
    assert kinds(kept.lost()) == ["response.create"]
    assert kept.loss.cut_items == ("a1",)
    assert [event["type"] for event in kept.loss.closings] == ["response.output_audio.done", "response.done"]
    assert kept.keeper.history.canonical()[-1]["words"] == "half of it"


def test_an_answer_that_was_talked_over_or_cancelled_is_not_asked_for_again() -> None:
    kept = Kept()
    kept.answer("r1", "a1", "half of it ")
    kept.server("input_audio_buffer.speech_started", item_id="u2", audio_start_ms=0)
    assert kept.lost() == []
    kept.answer("r2")
    kept.client("response.cancel", event_id="e2")
    assert kept.lost() == []
    assert kept.loss.closings[-1]["response"]["status"] == "cancelled"


def test_a_finished_call_brings_its_own_next_answer() -> None:
    kept = Kept()
    kept.answer("r1")
    call = {"id": "f1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    kept.server("response.output_item.added", response_id="r1", item=call)
    kept.server("conversation.item.added", item=call)
    kept.server("response.output_item.done", response_id="r1", item=call)
    assert kept.lost() == []
    assert [item["id"] for item in kept.keeper.history.canonical()] == ["f1"]


def test_a_call_with_half_its_arguments_never_was() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1")
    call = {"id": "f1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}
    kept.server("response.output_item.added", response_id="r1", item=call)
    kept.server("conversation.item.added", item=call)
    assert kinds(kept.lost()) == ["response.create"]
    assert [item["id"] for item in kept.keeper.history.canonical()] == ["u1"]
    assert kept.loss.closings[-1] == {
        "type": "conversation.item.deleted",
        "event_id": "event_x",
        "item_id": "f1",
    }


def test_a_tools_result_that_was_not_confirmed_is_sent_again_and_one_that_was_is_not() -> None:
    kept = Kept()
    output = {"id": "o1", "type": "function_call_output", "call_id": "c1", "output": "1"}
    kept.client("conversation.item.create", event_id="e1", item=output)
    kept.client("response.create", event_id="e2")
    assert kinds(kept.lost()) == ["conversation.item.create", "response.create"]
    kept.client("conversation.item.create", event_id="e1", item=output)
    kept.server("conversation.item.added", item=output)
    assert kinds(kept.lost()) == []
    assert kept.keeper.history.canonical()[0]["output"] == "1"


def test_events_and_audio_go_again_in_their_old_order() -> None:
    kept = Kept({"audio": {"input": {"turn_detection": None, "transcription": {"model": "w"}}}})
    kept.keeper.tape.append(second())
    kept.client("input_audio_buffer.commit", event_id="e1")
    kept.keeper.tape.append(second(0.5))
    kept.client("response.create", event_id="e2")
    sent = kept.lost(second(0.25))
    assert kinds(sent) == [8000, "input_audio_buffer.commit", 4000, "response.create", 2000]


def test_a_turn_that_was_not_transcribed_is_heard_again() -> None:
    kept = Kept()
    kept.keeper.tape.append(second(1, 1) + second(1, 2) + second(1, 3))
    kept.turn("u1", 1000, 2000)
    kept.answer("r1")
    assert kept.lost() == [second(1, 2) + second(1, 3)]
    assert kept.keeper.history.canonical() == []
    assert "u1" in [event.get("item_id") for event in kept.loss.closings]


def test_a_turn_whose_answer_began_stays_where_it_is_with_its_audio() -> None:
    kept = Kept()
    kept.keeper.tape.append(second(1, 1) + second(1, 2))
    kept.turn("u1", 0, 1000)
    kept.answer("r1", "a1", "half ")
    kept.keeper.lost(b"", "x")
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan)
    assert [part["type"] for part in plan.creates[0]["item"]["content"]] == ["input_audio"]
    assert kept.keeper.carried(plan, rotation=False) == [{"type": "response.create"}, second(1, 2)]


def test_a_turn_that_is_owed_an_answer_gets_one() -> None:
    kept = Kept()
    kept.keeper.tape.append(second(2))
    kept.turn("u1", 0, 1000, words="what time is it")
    assert kinds(kept.lost()) == ["response.create", 8000]
    silent = Kept({"audio": {"input": {"turn_detection": {**VAD, "create_response": False}}}})
    silent.keeper.tape.append(second(1))
    silent.turn("u1", 0, 1000, words="what time is it")
    assert silent.lost() == []


def test_speech_under_way_is_sent_again_from_its_beginning() -> None:
    kept = Kept()
    kept.keeper.tape.append(second(1, 1) + second(0.5, 2))
    kept.server("input_audio_buffer.speech_started", item_id="u1", audio_start_ms=900)
    kept.keeper.tape.append(second(1, 3))
    assert kept.lost(second(0.1, 4)) == [second(1, 1) + second(0.5, 2) + second(1, 3) + second(0.1, 4)]


def test_two_losses_in_a_row_lose_and_double_nothing() -> None:
    kept = Kept()
    kept.user("u1")
    kept.client("response.create", event_id="e1")
    kept.answer("r1")
    kept.keeper.tape.append(second(0.5))
    kept.keeper.lost(b"", "x")
    kept.keeper.plan()
    sent = kept.lost(second(0.25))
    assert sent == [{"type": "response.create"}, second(0.75)]


def test_a_question_that_costs_connection_after_connection_is_dropped_in_the_end() -> None:
    kept = Kept()
    kept.user("u1")
    asked = 0
    for number in range(MAX_ASKED_IN_ROW + 3):
        kept.answer(f"r{number}")
        asked += len(kept.lost())
    assert asked == MAX_ASKED_IN_ROW


def test_a_truncation_of_what_was_carried_over_replaces_the_text() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "one two three four", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    kept.move()
    truncate = {
        "type": "conversation.item.truncate",
        "item_id": "a1",
        "content_index": 0,
        "audio_end_ms": 500,
    }
    made = kept.keeper.shorten(truncate, "event_y")
    assert made is not None
    word, sent = made
    assert (word["type"], word["audio_end_ms"]) == ("conversation.item.truncated", 500)
    assert [event["type"] for event in sent] == ["conversation.item.delete", "conversation.item.create"]
    assert sent[1]["previous_item_id"] == "u1"
    assert sent[1]["item"]["content"] == [{"type": "output_text", "text": "one two"}]
    assert not kept.server("conversation.item.deleted", item_id="a1"), "its echo is nobody's business"
    assert not kept.server("conversation.item.added", item=sent[1]["item"])
    assert kept.keeper.shorten(truncate, "z") == ({**word, "event_id": "z"}, [])
    assert [i["words"] for i in kept.keeper.history.canonical()] == ["hello", "one two"]


def test_what_was_truncated_while_it_was_carried_over_is_corrected() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "one two three four", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan)
    event = {"type": "conversation.item.truncate", "item_id": "a1", "content_index": 0, "audio_end_ms": 500}
    kept.keeper.apply(event, "x")
    sent = kept.keeper.corrections(plan)
    assert [each["type"] for each in sent] == ["conversation.item.delete", "conversation.item.create"]


def test_the_echoes_of_a_restoration_are_hidden_and_later_items_are_not() -> None:
    kept = Kept()
    kept.user("u1")
    kept.move()
    item = {"id": "u1", "type": "message", "role": "user", "content": []}
    assert not kept.server("conversation.item.done", item=item)
    assert kept.server("conversation.item.added", item={**item, "id": "u2"})
    assert kept.server("conversation.item.deleted", item_id="u1")


@pytest.mark.parametrize(
    ("change", "settled"),
    [
        (lambda kept: None, True),
        (lambda kept: kept.answer("r1"), False),
        (lambda kept: kept.client("response.create", event_id="e"), False),
        (lambda kept: kept.server("input_audio_buffer.speech_started", item_id="u"), False),
        (lambda kept: kept.turn("u1", 0, 100), False),
    ],
)
def test_a_quiet_moment_is_one_in_which_nothing_is_under_way(change: Any, settled: bool) -> None:
    kept = Kept()
    change(kept)
    assert kept.keeper.settled is settled


def test_what_another_provider_has_to_hear_again_is_what_no_turn_has_taken() -> None:
    kept = Kept()
    kept.keeper.tape.append(second(1.5))
    assert kept.keeper.unsettled_ms == 1500
    kept.turn("u1", 200, 1100, words="hello")
    assert kept.keeper.unsettled_ms == 400
    kept.keeper.tape.append(second(3))
    assert kept.keeper.unsettled_ms == 2000, "no more than speech can have begun in unnoticed"
    by_hand = Kept({"audio": {"input": {"turn_detection": None}}})
    by_hand.keeper.tape.append(second(3))
    assert by_hand.keeper.unsettled_ms == 3000
    by_hand.client("input_audio_buffer.commit")
    by_hand.server("input_audio_buffer.committed", item_id="u1")
    assert by_hand.keeper.unsettled_ms == 0


def test_silence_is_kept_for_a_shorter_time_than_speech() -> None:
    tape = InputTape(PCM16, replay_ms=1000, quiet_ms=200)
    tape.speaking = False
    tape.append(bytes(48 * 500))
    assert tape.size == 48 * 200
    assert tape.lost_bytes == 0
    tape.speaking = True
    tape.append(bytes(48 * 900))
    assert (tape.size, tape.lost_bytes) == (48 * 1000, 48 * 100)


@settings(deadline=None)
@given(st.sampled_from([PCM16, PCMU]), st.data())
def test_a_tape_of_blocks_has_every_byte_in_its_place(audio: AudioFormat, data: st.DataObject) -> None:
    """As a plain string of bytes has it; what lies in blocks has the noise of companding."""
    second_ = audio.bytes_per_second
    tape = InputTape(audio, replay_ms=3000, quiet_ms=2000)
    sizes = st.integers(0, second_ * 2 // 2).map(lambda size: size // 2 * 2)
    plain, start = b"", 0
    for step in data.draw(
        st.lists(st.sampled_from(["append", "settle", "quiet", "speak", "slice", "turn"]), max_size=12)
    ):
        match step:
            case "append":
                size = data.draw(sizes)
                piece = np.arange(size // 2, dtype=np.int16) * np.int16(7) + np.int16(len(plain) % 1000)
                plain += piece.tobytes()
                tape.append(piece.tobytes())
                start = max(start, len(plain) - second_ * (3 if tape.speaking else 2) if size else 0)
            case "settle":
                position = data.draw(sizes) + start
                tape.settle(position)
                start = max(start, min(position, len(plain)))
            case "quiet" | "speak":
                tape.speaking = step == "speak"
            case "turn":
                begin, end = data.draw(sizes) + start, data.draw(sizes) + start
                turn = tape.turn(begin, end)
                same(audio, turn.whole() if turn is not None else b"", plain[begin : max(begin, end)])
            case _:
                begin, end = data.draw(sizes) + start - 500, data.draw(sizes) + start
                same(audio, tape.slice(begin, end), plain[max(begin, start) : max(end, start)])
        assert (tape.end, tape.size) == (len(plain), len(plain) - start)
        takes = sum(map(len, tape._blocks)) + sum(map(len, tape._fresh))
        assert takes <= tape.size / (2 if audio is PCM16 else 1) + second_
    same(audio, tape.rewind(), plain[start:])


def same(audio: AudioFormat, held: bytes, plain: bytes) -> None:
    assert len(held) == len(plain)
    if audio is PCMU:
        assert held == plain
        return
    came = np.frombuffer(plain, np.int16).astype(int)
    wrong = np.abs(np.frombuffer(held, np.int16) - came)
    assert (wrong <= 8 + np.abs(came) // 16).all()


def test_a_caller_who_is_silent_costs_half_of_what_is_held() -> None:
    tape = InputTape(PCM16, replay_ms=30_000, quiet_ms=12_000)
    tape.speaking = False
    for _ in range(50 * 20):
        tape.append(bytes(960))
    assert tape.size == 48 * 12_000
    assert sum(map(len, tape._blocks)) + sum(map(len, tape._fresh)) <= 24 * 12_000 + 24 * 1000


@given(st.lists(st.tuples(st.sampled_from(["append", "settle", "rewind"]), st.integers(0, 400))))
def test_the_tape_gives_back_exactly_the_newest_unsettled_audio(steps: list[tuple[str, int]]) -> None:
    tape = InputTape(PCMU, replay_ms=100, quiet_ms=100)
    everything, settled, clock = b"", 0, 0
    for step, number in steps:
        if step == "append":
            audio = bytes((clock + n) % 251 for n in range(number))
            clock += number
            everything += audio
            tape.append(audio)
        elif step == "settle":
            settled = max(settled, min(number, len(everything)))
            tape.settle(number)
        else:
            taken = tape.rewind()
            assert everything.endswith(taken)
            tape.append(taken)
        held = tape.slice(0, tape.end)
        assert everything.endswith(held)
        assert len(held) == tape.size == min(len(everything) - settled, 800)


@given(
    st.lists(st.tuples(st.text("ab ", max_size=12), st.floats(0, 400)), max_size=30),
    st.floats(0, 5000),
    st.floats(0, 5000),
)
def test_more_time_never_means_fewer_words(
    pieces: list[tuple[str, float]], first: float, second_: float
) -> None:
    alignment = Alignment()
    for words, milliseconds in pieces:
        alignment.words(words)
        alignment.audio(milliseconds)
    alignment.finish()
    low, high = sorted((first, second_))
    assert alignment.text.startswith(alignment.heard(low))
    assert len(alignment.heard(low)) <= len(alignment.heard(high))
    assert alignment.heard(alignment.audio_ms + 1) == alignment.text
    assert alignment.heard(0) == ""


def test_words_that_ran_ahead_of_their_audio_were_not_heard() -> None:
    alignment = Alignment()
    alignment.words("a transcript that came all at once, long before anything of it sounded")
    alignment.audio(400)
    assert len(alignment.heard(400)) <= 12


def test_an_update_of_another_kind_replaces_and_of_the_same_kind_adds() -> None:
    base = {"turn_detection": {"type": "server_vad", "threshold": 0.5}, "tools": [1], "voice": "a"}
    added = merged(base, {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}})
    assert added["turn_detection"] == {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 300}
    other = merged(base, {"turn_detection": {"type": "semantic_vad"}, "tools": [], "voice": None})
    assert other == {"turn_detection": {"type": "semantic_vad"}, "tools": [], "voice": None}
    assert base["tools"] == [1]


def test_a_connection_of_which_nothing_comes_is_given_up() -> None:
    vigil = Vigil(progress=10, response=30)
    outstanding = Outstanding(8)
    assert vigil.verdict(outstanding, 0.0, 1000.0) is None
    assert vigil.next_due(outstanding, 0.0) is None
    outstanding.put({"type": "conversation.item.create", "item": {"id": "i"}}, 0, 50.0)
    assert vigil.next_due(outstanding, 0.0) is None, "some providers never confirm an item"
    outstanding.put({"type": "session.update", "session": {}}, 0, 100.0)
    assert vigil.verdict(outstanding, 95.0, 109.0) is None
    verdict = vigil.verdict(outstanding, 95.0, 110.0)
    assert isinstance(verdict, GiveUp)
    assert verdict.code == "silent"
    assert vigil.verdict(outstanding, 105.0, 110.0) is None, "something came since"


def test_an_answer_that_goes_silent_is_cancelled_first_and_a_tool_gets_more_time() -> None:
    vigil = Vigil(progress=10, response=30)
    outstanding = Outstanding(8)
    outstanding.server({"type": "response.created", "response": {"id": "r1"}}, 100.0)
    answer = outstanding.answers["r1"]
    assert vigil.verdict(outstanding, 100.0, 129.0) is None
    assert vigil.verdict(outstanding, 129.0, 130.0) == Cancel(answer)
    outstanding.server({"type": "response.mcp_call.in_progress", "item_id": "m"}, 120.0)
    assert vigil.verdict(outstanding, 129.0, 239.0) is None
    answer.cancelled_at = 240.0
    verdict = vigil.verdict(outstanding, 249.0, 250.0)
    assert isinstance(verdict, GiveUp)
    assert verdict.code == "stuck_response"


def test_a_refused_event_is_over_even_when_the_error_names_nothing() -> None:
    outstanding = Outstanding(2)
    outstanding.put({"type": "response.create", "event_id": "e1"}, 0, 1.0)
    outstanding.put({"type": "response.create", "event_id": "e2"}, 0, 1.0)
    assert outstanding.full
    refused = outstanding.server({"type": "error", "error": {"event_id": "e2"}}, 1.0)
    assert refused is not None
    assert refused.event["event_id"] == "e2"
    outstanding.server({"type": "error", "error": {"event_id": None}}, 1.0)
    assert len(outstanding) == 0


def test_echoes_in_another_order_fail_the_restoration() -> None:
    creates = tuple({"item": {"id": name}} for name in "ab")
    check = RestoreCheck(RestorePlan(None, creates))
    check.server({"type": "conversation.item.added", "item": {"id": "b"}})
    assert check.failed is not None
    assert not check.complete


def test_waits_grow_at_random_up_to_their_cap() -> None:
    recovery = RecoveryParameters(backoff_base=1, backoff_cap=5, random=lambda: 0.5)
    assert [recovery.delay(n) for n in (1, 2, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    with pytest.raises(ValueError, match=r"recovery\.attempts must be greater than 0, got 0"):
        RecoveryParameters(attempts=0)
    with pytest.raises(ValueError, match=r"recovery\.rotate_after must not be below 0, got -1"):
        RecoveryParameters(rotate_after=-1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "item",
        "response",
        "session",
        "error",
        "item_id",
        "response_id",
        "content_index",
        "audio_end_ms",
        "delta",
        "audio_start_ms",
        "previous_item_id",
        "transcript",
        "arguments",
        "text",
        "id",
        "content",
        "role",
        "type",
        "output",
        "status",
        "call_id",
        "name",
        "conversation_id",
        "event_id",
        "audio",
        "input",
        "turn_detection",
    ]
)
BODY = st.recursive(
    JSON | st.sampled_from(["i1", "a1", "r1", "message", "input_audio", "audio", 10**400, float("inf"), -1]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted({*GA_NAMES, *BETA_NAMES})), st.dictionaries(NAMES, BODY, max_size=6)
        ),
        max_size=12,
    )
)
def test_no_event_of_a_provider_breaks_what_is_kept(events: list[tuple[str, dict[str, Any]]]) -> None:
    kept = Kept()
    kept.user("i1")
    kept.answer("r1", "a1", "some words")
    for kind, fields in events:
        kept.keeper.server({**fields, "type": kind}, 1.0)
        assert kept.keeper.settled in (True, False)
    kept.keeper.lost(b"", "x")
    plan = kept.keeper.plan()
    if isinstance(plan, RestorePlan):
        kept.keeper.carried(plan, rotation=False)
        check = RestoreCheck(plan)
        for kind, fields in events:
            check.server({**fields, "type": kind})
