"""The chat brain's request and what it reads out of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parley_local.brains import BrainError
from parley_local.brains.chat import ChatSettings, parse_answer, request_body
from parley_local.core.effects import BrainRequest, Call, Entry, Say, ToolResult, ToolUse, Utterance

SETTINGS = ChatSettings("http://chat.test/v1", "small", "sk-secret-key")


def messages(*history: Entry, **settings: Any) -> list[dict[str, Any]]:
    chosen = ChatSettings("http://chat.test/v1", **settings)
    body: list[dict[str, Any]] = request_body(BrainRequest("", history), chosen)["messages"]
    return body


def test_instructions_tools_and_choice() -> None:
    function = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}
    choice = {"type": "function", "name": "f"}
    request = BrainRequest("Be brief.", (Utterance("user", "hi"),), ("f",), (function,), choice)
    assert request_body(request, SETTINGS) == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


def test_results_stand_right_behind_their_calls() -> None:
    """Parallel calls are one message; what the caller said before the results came follows them."""
    told = messages(
        ToolUse("a", "f", "{}"),
        ToolUse("b", "g", '{"x": 1}'),
        Utterance("user", "hurry up"),
        ToolResult("g", "two", "b"),
        ToolResult("f", "one", "a"),
    )
    assert [(m["role"], m.get("tool_call_id"), m["content"]) for m in told] == [
        ("assistant", None, None),
        ("tool", "a", "one"),
        ("tool", "b", "two"),
        ("user", None, "hurry up"),
    ]
    assert [call["function"]["name"] for call in told[0]["tool_calls"]] == ["f", "g"]


def test_calls_without_results_and_results_without_calls() -> None:
    told = messages(ToolResult("f", "late", "gone"), ToolUse("c", "g", "{}"))
    assert told[0] == {"role": "system", "content": "Result of the tool f: late"}
    assert told[2] == {"role": "tool", "tool_call_id": "c", "content": "(still running)"}


def test_what_was_not_understood_is_said_so_and_silence_of_the_assistant_is_left_out() -> None:
    told = messages(Utterance("assistant", ""), Utterance("user", " "))
    assert told == [{"role": "user", "content": "(nothing was understood)"}]


def test_only_the_newest_entries_are_sent() -> None:
    told = messages(*(Utterance("user", str(n)) for n in range(9)), max_entries=2)
    assert [m["content"] for m in told] == ["7", "8"]


def answer(message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message}]}).encode()


def test_words_and_calls() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert parse_answer(answer({"content": "Wait.", "tool_calls": calls})) == (Say("Wait."), Call("f", "{}"))
    assert parse_answer(answer({"content": "Hi.", "tool_calls": None})) == (Say("Hi."),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": 5}]}',
        b"[" * 200_000,
        answer({"tool_calls": [{}]}),
        answer({"tool_calls": 5}),
        answer({"content": ["x"]}),
        answer({"content": " "}),
    ],
)
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(BrainError, match="chat service's answer"):
        parse_answer(body)


def test_settings_hide_the_key_and_are_checked() -> None:
    assert "sk-secret-key" not in repr(SETTINGS)
    with pytest.raises(ValueError, match="chat_url 'ftp"):
        ChatSettings("ftp://x")
    with pytest.raises(ValueError, match="above 0"):
        ChatSettings("http://x", timeout_s=0)
