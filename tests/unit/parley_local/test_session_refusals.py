"""What a client gets wrong: one error event with the right code, and the session as it was."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_session import Harness, error_of, tone
from parley_local.core.effects import Say
from parley_local.core.settings import Shape


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "realtime", "bogus_field": 1}, "unknown_parameter", "session.bogus_field"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"type": "realtime", "model": "other"}, "invalid_value", "session.model"),
        (
            {"type": "realtime", "output_modalities": ["text", "audio"]},
            "invalid_value",
            "session.output_modalities",
        ),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}},
            "integer_below_min_value",
            "session.audio.input.format.rate",
        ),
        (
            {
                "type": "realtime",
                "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}},
            },
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"type": "realtime", "audio": {"output": {"voice": "nobody"}}},
            "invalid_value",
            "session.audio.output.voice",
        ),
        (
            {"type": "realtime", "tools": [{"type": "function"}]},
            "missing_required_parameter",
            "session.tools[0].name",
        ),
        (
            {"type": "realtime", "max_output_tokens": 0},
            "integer_below_min_value",
            "session.max_output_tokens",
        ),
        ("text", "invalid_value", "session"),
    ],
)
def test_an_invalid_update_is_discarded_whole(session: Any, code: str, param: str) -> None:
    harness = Harness()
    before = harness.session.settings
    if isinstance(session, dict) and session:
        session = {"instructions": "would change", **session}
    error = error_of(harness.send("session.update", session=session, event_id="mine"))
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine")
    assert harness.session.settings == before


def test_updates_are_deep_and_partial() -> None:
    harness = Harness()
    first = {"turn_detection": {"type": "server_vad", "threshold": 0.7}, "format": {"type": "audio/pcmu"}}
    harness.send("session.update", session={"type": "realtime", "audio": {"input": first}})
    second = {"turn_detection": {"type": "server_vad", "silence_duration_ms": 700}}
    harness.send(
        "session.update", session={"type": "realtime", "audio": {"input": second}, "instructions": "be"}
    )
    session = harness.last("session.updated")["session"]
    turns = session["audio"]["input"]["turn_detection"]
    assert (turns["threshold"], turns["silence_duration_ms"], turns["prefix_padding_ms"]) == (0.7, 700, 300)
    assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    harness.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    assert harness.last("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    assert harness.last("session.updated")["session"]["instructions"] == "be"


def test_beta_fields_are_flat_and_ga_fields_unknown_there() -> None:
    harness = Harness(Shape.BETA)
    harness.send(
        "session.update", session={"input_audio_format": "g711_ulaw", "temperature": 0.7, "voice": "ash"}
    )
    session = harness.last("session.updated")["session"]
    assert (session["input_audio_format"], session["temperature"], session["voice"]) == (
        "g711_ulaw",
        0.7,
        "ash",
    )
    assert error_of(harness.send("session.update", session={"audio": {}}))["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"type": "response.cancel", "x": ' + "[" * 200 + "]" * 200 + "}", "invalid_json"),
        ('{"type": "session.update", "session": {"type": "realtime", "tracing": NaN}}', "invalid_json"),
        (b"\x00\x01", "invalid_event"),
        ("{}", "missing_required_parameter"),
        ('{"type": "nonsense"}', "invalid_value"),
        ('{"type": 7}', "invalid_value"),
        ('{"type": "response.cancel", "event_id": "%s"}' % ("x" * 513), "string_above_max_length"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_value"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        ('{"type": "conversation.item.delete", "item_id": "none"}', "item_not_found"),
        ('{"type": "conversation.item.create", "item": {"type": "message"}}', "missing_required_parameter"),
        ('{"type": "conversation.item.create"}', "invalid_value"),
        ('{"type": "response.cancel"}', "response_cancel_not_active"),
        ('{"type": "response.create", "response": {"bogus": 1}}', "unknown_parameter"),
    ],
)
def test_refused_events(message: str | bytes, code: str) -> None:
    harness = Harness()
    assert error_of(harness.raw(message))["code"] == code
    harness.user_says("still here")
    assert harness.types[-1] == "conversation.item.done"


def test_one_active_response_per_conversation() -> None:
    harness = Harness()
    harness.send("response.create")
    error = error_of(harness.send("response.create"))
    assert error["code"] == "conversation_already_has_active_response"
    assert harness.last("response.created")["response"]["id"] in error["message"]


def test_commit_without_vad_and_too_short() -> None:
    harness = Harness()
    harness.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    harness.append(tone(60))
    assert "only has 60.00ms" in error_of(harness.send("input_audio_buffer.commit"))["message"]
    harness.append(tone(60))
    assert [event["type"] for event in harness.send("input_audio_buffer.commit")] == [
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
    ]  # fmt: skip
    assert "response.created" not in harness.types
    harness.append(tone(500))
    assert [event["type"] for event in harness.send("input_audio_buffer.clear")] == [
        "input_audio_buffer.cleared"
    ]
    assert error_of(harness.send("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"


def test_the_input_buffer_is_bounded() -> None:
    harness = Harness()
    harness.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    block = base64.b64encode(bytes(15 * 1024 * 1024)).decode()
    assert harness.send("input_audio_buffer.append", audio=block) == []
    assert harness.send("input_audio_buffer.append", audio=block) == []
    assert (
        error_of(harness.send("input_audio_buffer.append", audio="AAAA"))["code"] == "input_audio_buffer_full"
    )


def test_items_go_where_the_client_says() -> None:
    harness = Harness()
    content = [{"type": "input_text", "text": "x"}]
    for name, after in (("a", None), ("b", None), ("c", "a"), ("d", "root")):
        item = {"id": name, "type": "message", "role": "user", "content": content}
        harness.send("conversation.item.create", item=item, previous_item_id=after)
    assert [item.id for item in harness.session.conversation] == ["d", "a", "c", "b"]
    again = {"id": "a", "type": "message", "role": "user", "content": content}
    assert error_of(harness.send("conversation.item.create", item=again))["code"] == "invalid_value"
    lost = error_of(
        harness.send("conversation.item.create", item={**again, "id": "e"}, previous_item_id="zz")
    )
    assert (lost["code"], lost["param"]) == ("item_not_found", "previous_item_id")


def test_the_voice_is_fixed_after_the_first_audio() -> None:
    harness = Harness()
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("x"),))
    voice = {"type": "realtime", "audio": {"output": {"voice": "ash"}}}
    assert error_of(harness.send("session.update", session=voice))["code"] == "cannot_update_voice"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "session",
        "item",
        "item_id",
        "audio",
        "response",
        "event_id",
        "previous_item_id",
        "content_index",
        "audio_end_ms",
        "type",
        "role",
        "content",
        "input",
        "output",
        "format",
        "turn_detection",
        "transcription",
        "tools",
        "voice",
        "conversation",
        "metadata",
        "modalities",
        "response_id",
    ]
)
SHAPED = st.recursive(
    JSON
    | st.sampled_from(["message", "user", "realtime", "server_vad", "function_call", "audio/pcm", "auto"]),
    lambda inner: st.dictionaries(KEYS, inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=15,
)
TYPES = st.sampled_from(
    [
        "session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "conversation.item.create",
        "conversation.item.truncate",
        "conversation.item.delete",
        "conversation.item.retrieve",
        "response.create",
        "response.cancel",
        "input_audio_buffer.clear",
        "transcription_session.update",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(Shape)),
    st.lists(st.tuples(TYPES, st.dictionaries(KEYS, SHAPED, max_size=5)), max_size=6),
)
def test_garbage_never_breaks_a_session(shape: Shape, events: list[tuple[str, dict[str, Any]]]) -> None:
    harness = Harness(shape)
    for kind, fields in events:
        for event in harness.raw(json.dumps({**fields, "type": kind})):
            json.dumps(event)
        harness.finish_work(lambda _: (Say("x"),))
    harness.user_says("still here")
    assert harness.types[-1] in ("conversation.item.done", "conversation.item.created")


def test_an_answer_for_which_a_full_conversation_has_no_room_fails() -> None:
    harness = Harness()
    for _ in range(2000):
        harness.user_says("x")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("no room"),))
    response = harness.last("response.done")["response"]
    assert (response["status"], response["output"]) == ("failed", [])
    assert error_of(harness.user_says("x"))["code"] == "conversation_full"
