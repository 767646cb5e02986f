"""What brains share, brains of one's own, and the parts of a reply that only scripts make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_session import Harness
from parley_local.brains import BrainError, caller_turns, load_brain, word_for_word
from parley_local.brains.script import ScriptBrain, ScriptError
from parley_local.core.effects import (
    BrainFailure,
    BrainRequest,
    Call,
    Emit,
    McpCall,
    Reply,
    Say,
    ToolResult,
    ToolUse,
    Utterance,
)
from parley_local.core.mcp import McpServer
from parley_local.core.settings import Shape

LINE = 'Say exactly this, word for word: "Hello, "dear" caller."'
DOCS = McpServer(({"name": "search", "input_schema": {}}, {"name": "read", "input_schema": {}}))


class Parrot:
    """A brain of one's own, as `module:Class` names it."""

    async def reply(self, request: BrainRequest) -> Reply:
        return (Say(request.session_id),)


class Mute:
    """Has no `reply`."""


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no luck")


@pytest.mark.parametrize("brain", [load_brain("echo"), ScriptBrain.parse({"greeting": "No."})])
async def test_a_line_is_said_word_for_word_and_nothing_else(brain: Any) -> None:
    history = (Utterance("user", "something else"),)
    assert await brain.reply(BrainRequest(LINE, history)) == (Say('Hello, "dear" caller.'),)


def test_a_line_may_be_a_json_string() -> None:
    line = 'A "quote", a \\ and\na new line.'
    instructions = f"Say exactly this, word for word: {json.dumps(line)}"
    assert word_for_word(BrainRequest(instructions, ())) == line


@pytest.mark.parametrize("around", ["Be nice. " + LINE, LINE + " Then stop.", "", "Say exactly this."])
def test_only_the_whole_form_is_a_line(around: str) -> None:
    assert word_for_word(BrainRequest(around, ())) is None


def test_what_the_caller_said() -> None:
    said = Utterance("user", "a")
    result = ToolResult("f", "1", "c")
    history = (Utterance("system", "s"), said, ToolUse("c", "f", "{}"), result, Utterance("assistant", "b"))
    assert caller_turns(BrainRequest("", history)) == [said, result]


async def test_a_brain_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    brain = load_brain("test_brain_parts:Parrot")
    assert await brain.reply(BrainRequest("", (), session_id="sess_1")) == (Say("sess_1"),)
    for name, words in (
        ("test_brain_parts:Mute", "needs a method 'async def reply"),
        ("test_brain_parts:Broken", "raised RuntimeError: no luck"),
        ("test_brain_parts:Absent", "Absent"),
        ("no_such_module_here:Brain", "PYTHONPATH"),
        ("chat", "set chat_url"),
        ("script:", "unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            load_brain(name)


async def test_the_documented_brain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "local-provider.md").read_text()
    example = next(part for part in page.split("```python\n")[1:] if part.startswith("# mine.py"))
    (tmp_path / "documented_brain.py").write_text(example.split("```", 1)[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    brain = load_brain("documented_brain:Clock")
    assert await brain.reply(BrainRequest("", ())) == (Say("Ask me for the time."),)
    asked = (Utterance("user", "what time is it?"),)
    assert await brain.reply(BrainRequest("", asked, ("clock",))) == (Say("One moment."), Call("clock", {}))
    with pytest.raises(BrainError, match="no tool 'clock'"):
        await brain.reply(BrainRequest("", asked))


async def test_the_documented_script() -> None:
    page = (Path(__file__).parents[3] / "docs" / "local-provider.md").read_text()
    scripts = [part.split("```", 1)[0] for part in page.split("```yaml\n")[1:]]
    assert len(scripts) == 2
    for text in scripts:
        ScriptBrain.parse(yaml.safe_load(text))


async def test_a_script_emits_events_calls_mcp_tools_and_fails() -> None:
    dtmf = {"type": "input_audio_buffer.dtmf_event_received", "event": "{1}", "received_at": 7}
    brain = ScriptBrain.parse(
        {
            "mcp": {"docs": {"tools": [{"name": "search"}]}, "gone": {"error": "unreachable"}},
            "rules": [
                {"match": r"press (\d)", "emit": [dtmf], "say": "Thank you."},
                {
                    "match": r"find (\w+)",
                    "mcp_call": {
                        "server": "docs",
                        "name": "search",
                        "arguments": {"q": "{1}"},
                        "output": "found",
                    },
                },
                {"match": "break", "fail": "It broke."},
            ],
        }
    )
    assert brain.mcp_servers["gone"].error == "unreachable"
    assert brain.mcp_servers["docs"].tools == ({"input_schema": {"type": "object"}, "name": "search"},)

    async def ask(text: str) -> Reply:
        return await brain.reply(BrainRequest("", (Utterance("user", text),)))

    assert await ask("press 5") == (Emit({**dtmf, "event": "5"}), Say("Thank you."))
    assert await ask("find it") == (McpCall("docs", "search", {"q": "it"}, "found"),)
    with pytest.raises(BrainError, match=r"It broke\.") as caught:
        await ask("break")
    assert caught.value.failure == BrainFailure("It broke.")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"match": "a", "emit": [{"type": "no.such.event"}]}, "no server event"),
        ({"match": "a", "emit": [{"type": "mcp_list_tools.failed"}]}, "needs 'item_id'"),
        ({"match": "a", "emit": {"type": "error"}}, "must be a list"),
        ({"match": "a", "emit": ["x"]}, "with a 'type'"),
        ({"match": "a", "mcp_call": {"name": "f"}}, "needs 'server'"),
        ({"match": "a", "mcp_call": {"name": "f", "server": "s", "output": 5}}, "must be a string"),
    ],
)
def test_faults_of_the_new_parts_are_named(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        ScriptBrain.parse({"rules": [rule]})


@pytest.mark.parametrize("servers", [[], {"a": []}, {"a": {"tools": [{}]}}, {"a": {"other": 1}}])
def test_faults_of_servers_are_named(servers: Any) -> None:
    with pytest.raises(ScriptError, match="mcp"):
        ScriptBrain.parse({"mcp": servers})


def with_mcp(label: str, **tool: Any) -> tuple[Harness, list[dict[str, Any]]]:
    harness = Harness(mcp_servers={"docs": DOCS, "gone": McpServer(error="unreachable")})
    tools = [{"type": "mcp", "server_label": label, "server_url": "https://mcp.test", **tool}]
    return harness, harness.send("session.update", session={"type": "realtime", "tools": tools})


def test_tools_of_an_mcp_server_are_listed_once() -> None:
    harness, new = with_mcp("docs", allowed_tools=["read"])
    assert [event["type"] for event in new] == [
        "session.updated", "conversation.item.added", "mcp_list_tools.in_progress",
        "mcp_list_tools.completed", "conversation.item.done",
    ]  # fmt: skip
    assert [tool["name"] for tool in new[-1]["item"]["tools"]] == ["read"]
    again = harness.send("session.update", session={"type": "realtime", "instructions": "x"})
    assert [event["type"] for event in again] == ["session.updated"]


@pytest.mark.parametrize("label", ["gone", "nobody-knows-it"])
def test_an_mcp_server_that_is_not_there(label: str) -> None:
    _, new = with_mcp(label)
    assert new[-1]["type"] == "mcp_list_tools.failed"
    assert new[-1]["item_id"] == new[1]["item"]["id"]


@pytest.mark.parametrize("error", [None, "no such page"])
def test_an_mcp_call_is_an_item_with_its_output(error: str | None) -> None:
    harness = Harness()
    harness.user_says("search")
    harness.send("response.create", response={"output_modalities": ["text"]})
    harness.finish_work(lambda _: (McpCall("docs", "search", {"q": "x"}, "42", error), Say("Done.")))
    outcome = "completed" if error is None else "failed"
    kinds = [event["type"] for event in harness.events if "mcp" in event["type"]]
    assert kinds == [
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        f"response.mcp_call.{outcome}",
    ]
    call, message = harness.last("response.done")["response"]["output"]
    assert json.loads(call["arguments"]) == {"q": "x"}
    assert call.get("output") == ("42" if error is None else None)
    assert message["content"][0]["text"] == "Done."


def test_mcp_is_not_part_of_the_beta_shape() -> None:
    harness = Harness(Shape.BETA, mcp_servers={"docs": DOCS})
    tools = [{"type": "mcp", "server_label": "docs"}]
    assert [e["type"] for e in harness.send("session.update", session={"tools": tools})] == [
        "session.updated"
    ]
    harness.user_says("search")
    harness.send("response.create")
    harness.finish_work(lambda _: (McpCall("docs", "search"), Call("f", "not json")))
    (call,) = harness.last("response.done")["response"]["output"]
    assert (call["type"], call["arguments"]) == ("function_call", "not json")


def test_directives_are_sent_in_their_place_with_ids_filled() -> None:
    harness = Harness()
    harness.user_says("go")
    harness.send("response.create", response={"output_modalities": ["text"]})
    started = {"type": "output_audio_buffer.started", "response_id": "$response_id"}
    harness.finish_work(lambda _: (Say("One."), Emit(started)))
    response = harness.last("response.done")["response"]
    assert harness.last("output_audio_buffer.started")["response_id"] == response["id"]
    types = harness.types
    assert types.index("response.output_item.done") < types.index("output_audio_buffer.started")
    assert types.index("output_audio_buffer.started") < types.index("response.done")


def test_a_brain_that_fails_says_why() -> None:
    harness = Harness()
    harness.user_says("go")
    harness.send("response.create")
    (think,) = harness.work
    failure = BrainFailure("The service is gone.", "chat_unreachable")
    harness.take(harness.session.replied(think.response_id, failure, harness.now))  # type: ignore[union-attr]
    response = harness.last("response.done")["response"]
    assert (response["status"], response["output"]) == ("failed", [])
    assert response["status_details"]["error"]["code"] == "chat_unreachable"


def test_a_model_that_tells_speakers_apart_gives_segments() -> None:
    from local_session import tone

    harness = Harness()
    audio = {
        "input": {"turn_detection": None, "transcription": {"model": "gpt-4o-transcribe-diarize"}},
    }
    harness.send("session.update", session={"type": "realtime", "audio": audio})
    harness.append(tone(500))
    harness.send("input_audio_buffer.commit")
    harness.finish_work(lambda _: (), heard="hello there")
    segment = harness.last("conversation.item.input_audio_transcription.segment")
    assert (segment["text"], segment["start"], segment["end"]) == ("hello there", 0.0, 0.5)
