"""A conversation comes out of its journal as the model and the caller knew it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime.protocol.history import ConversationHistory
from parley_worker.codec import journal_json
from parley_worker.core.changes import Changes
from parley_worker.core.restored import JournalRecord, Reach, from_hand_over, from_journal, holes_in, unheard
from parley_worker.core.saved import HandOver, LateEvent, SavedState
from parley_worker.core.usage import Usage


class Journal:
    """Records as a session writes them."""

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
        self.records: list[JournalRecord] = []

    def add(self, type: str, event: int = 0, **fields: Any) -> Journal:
        self.records.append(JournalRecord(self.attempt, len(self.records) + 1, type, fields, event))
        return self

    def item(self, event: int = 0, previous: str = "", **body: Any) -> Journal:
        return self.add("item_done", event, item_json=json.dumps(body), previous_item_id=previous)

    def heard(self, item_id: str, text: str, event: int = 0) -> Journal:
        """A turn of the caller, its words behind it."""
        content = [{"type": "input_audio", "transcript": None}]
        self.item(event, id=item_id, type="message", role="user", content=content)
        return self.add("transcript", event, item_id=item_id, content_index=0, role="user", text=text)

    def said(self, item_id: str, text: str, ms: int = 1000, event: int = 0, **cut: Any) -> Journal:
        fields = {"item_id": item_id, "content_index": 0, "role": "assistant", "text": text, "audio_ms": ms}
        self.add("transcript", event, **fields)
        content = [{"type": "output_audio", "transcript": text}]
        self.item(event, id=item_id, type="message", role="assistant", content=content)
        return self.add("transcript", event, **fields, truncated=True, **cut) if cut else self

    def call(self, call_id: str, output: str | None = None) -> Journal:
        self.add("tool_call", call_id=call_id, tool="lookup", arguments='{"key":"k"}')
        if output is not None:
            self.add("tool_result", call_id=call_id, output=output, error_code="", duration_ms=3)
        return self

    def restored(self, **how: Any) -> Any:
        return from_journal(self.records, ga=True, **how)


def carried(restored: Any) -> list[dict[str, Any]]:
    """What the next provider is given."""
    history = ConversationHistory()
    restored.carry(history)
    return history.canonical()


def test_turns_come_back_with_the_words_that_were_heard() -> None:
    journal = Journal().heard("u1", "hello").said("a1", "one two three four", heard_text="one two")
    journal.heard("u2", "go on").said("a2", "five six")
    assert carried(journal.restored()) == [
        {"id": "u1", "type": "message", "role": "user", "words": "hello"},
        {"id": "a1", "type": "message", "role": "assistant", "words": "one two"},
        {"id": "u2", "type": "message", "role": "user", "words": "go on"},
        {"id": "a2", "type": "message", "role": "assistant", "words": "five six"},
    ]


def test_an_answer_of_which_nothing_was_heard_is_left_out() -> None:
    journal = Journal().heard("u1", "hello").said("a1", "one two", heard_text="")
    assert [item["id"] for item in carried(journal.restored())] == ["u1"]


def test_calls_come_back_with_their_results_whether_the_provider_told_of_them_or_not() -> None:
    journal = Journal().heard("u1", "look").call("c1", "r1").call("c2", "r2").call("c3")
    body = {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"key":"k"}'}
    journal.item(id="f1", **body)
    journal.item(id="o1", previous="f1", type="function_call_output", call_id="c1", output="r1")
    restored = journal.restored()
    kinds = [(i["type"], i.get("call_id"), i.get("output")) for i in carried(restored)]
    assert kinds == [
        ("message", None, None),
        ("function_call", "c1", None),
        ("function_call_output", "c1", "r1"),
        ("function_call", "c2", None),
        ("function_call_output", "c2", "r2"),
        ("function_call", "c3", None),
    ]
    assert [(c.call_id, c.answered) for c in restored.calls] == [("c1", True), ("c2", True), ("c3", False)]


def test_items_stand_where_the_provider_said_and_deleted_ones_nowhere() -> None:
    journal = Journal().heard("u1", "one").heard("u3", "three")
    content = [{"type": "input_audio", "transcript": None}]
    journal.item(id="u2", previous="u1", type="message", role="user", content=content)
    journal.add("transcript", item_id="u2", content_index=0, role="user", text="two")
    journal.heard("u4", "four").add("item_deleted", item_id="u4")
    assert [item["id"] for item in carried(journal.restored())] == ["u1", "u2", "u3"]


def test_what_cannot_be_brought_back_is_said() -> None:
    journal = Journal().heard("u1", "hello")
    journal.item(id="u2", type="message", role="user", content=[{"type": "input_audio", "transcript": None}])
    journal.item(id="big", type="message", parley_omitted_bytes=900_000)
    restored = journal.restored(holes=2, cut=True)
    assert [item["id"] for item in carried(restored)] == ["u1"]
    assert "1 turns of the caller without a transcript" in restored.degraded
    assert "1 items that were too large" in restored.degraded
    assert "2 records" in restored.degraded
    assert "beginning" in restored.degraded
    assert Journal().heard("u1", "hello").restored().degraded == ""


def test_the_last_checkpoint_counts_and_a_strange_one_is_said() -> None:
    state = SavedState(Usage(1, 2, 3, 4.5, 6.25), 1_000_000.5, True, (b"a" * 32, b"b" * 32))
    journal = Journal().add("checkpoint", state_json=json.dumps(SavedState().write()))
    journal.add("checkpoint", state_json=json.dumps(state.write()))
    assert journal.restored().state == state
    broken = journal.add("checkpoint", state_json='{"v":1}').restored()
    assert broken.state == state
    assert "checkpoint" in broken.degraded


def test_changes_of_the_session_are_merged_and_a_restart_forgets_all() -> None:
    journal = Journal().heard("u1", "hello").add("session_updated", session_json='{"a":{"b":1},"c":2}')
    journal.add("session_updated", session_json='{"a":{"d":3}}')
    assert journal.restored().changes.session == {"a": {"b": 1, "d": 3}, "c": 2}
    journal.attempt = 2
    restored = journal.add("takeover", mode="restart").heard("u9", "again").restored()
    assert [item["id"] for item in carried(restored)] == ["u9"]
    assert (restored.changes.session, restored.from_attempt) == ({}, 2)
    assert restored.fresh().items == ()


def test_holes_are_counted_within_each_attempt() -> None:
    assert holes_in([(1, 1), (1, 2), (2, 1), (2, 2)]) == 0
    assert holes_in([(1, 1), (1, 4), (2, 2)]) == 3


REACHES = [
    (None, (), (), False),
    (Reach("a1", 0, 1000), (), (), False),
    (Reach("a1", 0, 800), (), (), False),
    (Reach("a1", 0, 400), (("a1", 0, 400),), (), True),
    (Reach("a0", 0, 1000), (), ("a1",), True),
    (Reach("a0", 0, 100), (("a0", 0, 100),), ("a1",), True),
    (Reach("unknown", 0, 100), (), (), False),
]


@pytest.mark.parametrize(("reach", "cuts", "gone", "asks"), REACHES)
def test_what_nobody_heard_is_taken_back(reach: Reach | None, cuts: Any, gone: Any, asks: bool) -> None:
    restored = Journal().heard("u1", "hello").said("a0", "first").said("a1", "one two three").restored()
    found = unheard(restored, reach)
    assert (found.cuts, found.gone, found.asks) == (cuts, gone, asks)


def test_a_question_without_an_answer_is_asked() -> None:
    assert unheard(Journal().heard("u1", "hello").restored(), None).asks
    assert unheard(Journal().heard("u1", "hello").call("c", "r").restored(), None).asks
    assert not unheard(Journal().heard("u1", "hello").call("c").restored(), None).asks
    assert not unheard(Journal().restored(), None).asks


def test_nothing_is_owed_to_a_session_that_was_moved() -> None:
    """A program may have left words without asking for an answer, and moves come when none is owed."""
    note = {"id": "n", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    assert not unheard(from_hand_over(HandOver(1, SavedState(), (note,))), None).asks


def test_what_a_cut_answer_was_heard_of_is_known_by_its_share() -> None:
    restored = Journal().heard("u", "x").said("a", "one two three four five six seven eight").restored()
    history = ConversationHistory()
    restored.carry(history)
    history.truncate("a", 0, 500)
    assert history.canonical()[-1]["words"] == "one two three four"


def test_told_events_carry_the_number_that_the_caller_knew_them_by() -> None:
    restored = Journal().heard("u1", "hello", event=4).said("a1", "one", event=9).restored()
    told = [(t.sequence, t.payload["type"]) for t in restored.told]
    assert told == [
        (4, "conversation.item.done"),
        (4, "conversation.item.input_audio_transcription.completed"),
        (9, "response.output_audio_transcript.done"),
        (9, "conversation.item.done"),
    ]
    assert len({t.payload["event_id"] for t in restored.told}) == 4


def test_a_hand_over_comes_out_as_it_went_in() -> None:
    items = (
        {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"id": "f", "type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"id": "o", "type": "function_call_output", "call_id": "c", "output": "r"},
    )
    state = SavedState(Usage(1, 1, 0, 0.5, 0.5), 5.0, True, (b"x" * 32,))
    changes = Changes({"voice": "v"}, {"voice": "d"})
    given = HandOver(3, state, items, changes, (LateEvent(3, 7, "t", "{}"),), 7)
    assert HandOver.read(given.write()) == given
    restored = from_hand_over(given)
    assert restored.handed_over
    assert [item["id"] for item in carried(restored)] == ["u", "f", "o"]
    assert not unheard(restored, Reach("f", 0, 0)).cuts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v":1}', "nonsense", '{"v":2,"events":[],"items":[]}'])
def test_what_is_no_hand_over_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="does not know") as error:
        HandOver.read(text)
    assert not text or text not in str(error.value)


NAMES = st.sampled_from(["i1", "i2", "i3", "c1", ""])
VALUES = st.one_of(NAMES, st.integers(-5, 5000), st.booleans(), st.none(), st.text(max_size=5))
BODIES = st.dictionaries(
    st.sampled_from(["id", "type", "role", "content", "call_id", "name", "output", "transcript"]),
    st.one_of(VALUES, st.lists(st.dictionaries(st.sampled_from(["type", "text"]), VALUES), max_size=2)),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("item_id", "content_index", "audio_ms", "audio_end_ms", "call_id"), VALUES),
        **dict.fromkeys(("role", "text", "heard_text", "truncated", "mode", "output", "tool"), VALUES),
        "item_json": BODIES.map(json.dumps),
        "state_json": VALUES.map(json.dumps),
        "session_json": BODIES.map(json.dumps),
    },
)
TYPES = st.sampled_from(
    [
        "item_done",
        "transcript",
        "item_truncated",
        "item_deleted",
        "tool_call",
        "tool_result",
        "takeover",
        "checkpoint",
        "session_updated",
        "session_ended",
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(TYPES, FIELDS), max_size=12))
def test_no_journal_breaks_the_rebuilding(records: list[tuple[str, dict[str, Any]]]) -> None:
    read = [JournalRecord(1, n, kind, fields) for n, (kind, fields) in enumerate(records, 1)]
    restored = from_journal(read, ga=True)
    ids = [item.get("id") for item in restored.items]
    assert len(ids) == len(set(ids))
    carried(restored)
    unheard(restored, Reach("i1", 0, 100))


def test_records_are_read_as_they_are_written() -> None:
    text = (
        '{"namespace":"n","sessionUid":"u","attempt":2,"sequence":"7","occurTime":"2026-01-01T00:00:00Z",'
        '"eventSequence":"12","transcript":{"itemId":"i","role":"assistant","text":"x","audioMs":"900"}}'
    )
    record = journal_json.read(text.encode())
    fields = {"item_id": "i", "role": "assistant", "text": "x", "audio_ms": 900}
    assert record == JournalRecord(2, 7, "transcript", fields, 12)
    for broken in (
        b"",
        b"[]",
        b"{}",
        b'{"attempt":"x","dtmf":{}}',
        b'{"attempt":1,"later":{}}',
        b'{"dtmf":3}',
    ):
        assert journal_json.read(broken) is None
