"""Echo and the scripted dialogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parley_local.brains import load_brain
from parley_local.brains.script import ScriptBrain, ScriptError
from parley_local.core.effects import BrainRequest, Call, Reply, Say, ToolResult, Utterance

EXAMPLES = Path(__file__).parents[3] / "examples" / "brains"


def ask(*history: Utterance | ToolResult) -> BrainRequest:
    return BrainRequest("", history)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ((), "Hello. Say something, and I will say it back."),
        ((Utterance("user", "My code is 471203."),), "You said: My code is 4, 7, 1, 2, 0, 3."),
        (
            (Utterance("user", "a"), Utterance("assistant", "You said: a"), Utterance("user", "")),
            "I did not hear anything.",
        ),
        ((ToolResult("clock", "1234"),), "clock returned: 1, 2, 3, 4"),
    ],
)
async def test_echo(history: tuple[Any, ...], words: str) -> None:
    assert await load_brain("echo").reply(ask(*history)) == (Say(words),)


SCRIPT = {
    "greeting": "Welcome.",
    "default": "Pardon?",
    "rules": [
        {"match": r"code is (?P<code>\d+)", "say": "Thank you, {code}."},
        {
            "match": r"weather in (\w+)",
            "say": "One moment.",
            "call": {"name": "weather", "arguments": {"city": "{1}", "n": 2}},
        },
        {"tool": "weather", "match": "error", "say": "No weather today."},
        {"tool": "weather", "say": "It is {result.sky} and {result.degrees} degrees."},
    ],
}


@pytest.mark.parametrize(
    ("history", "reply"),
    [
        ((), (Say("Welcome."),)),
        ((Utterance("user", "My code is four seven, one two."),), (Say("Thank you, 4, 7, 1, 2."),)),
        (
            (Utterance("user", "The WEATHER in Oslo"),),
            (Say("One moment."), Call("weather", {"city": "Oslo", "n": 2})),
        ),
        ((ToolResult("weather", '{"sky": "clear", "degrees": 7}'),), (Say("It is clear and 7 degrees."),)),
        ((ToolResult("weather", "error: none"),), (Say("No weather today."),)),
        ((ToolResult("other", "x"),), (Say("Pardon?"),)),
        ((Utterance("user", "blah"),), (Say("Pardon?"),)),
    ],
)
async def test_script(history: tuple[Any, ...], reply: Reply) -> None:
    assert await ScriptBrain.parse(SCRIPT).reply(ask(*history)) == reply


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected a mapping"),
        ({"rulez": []}, "unknown key 'rulez'"),
        ({"rules": [{"say": "x"}]}, r"rules\[0\]: needs 'match'"),
        ({"rules": [{"match": "("}]}, r"rules\[0\]: 'match' is not a regular expression"),
        ({"rules": [{"match": "a"}]}, r"rules\[0\]: needs 'say'"),
        ({"rules": [{"match": "a", "call": {"arguments": {}}}]}, "with a 'name'"),
        ({"rules": [{"match": "a", "say": 7}]}, "'say' must be a string"),
    ],
)
def test_script_errors_name_the_place(body: object, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        ScriptBrain.parse(body)


def test_unknown_brains_and_files() -> None:
    with pytest.raises(ValueError, match="use 'echo', 'script:FILE', 'chat'"):
        load_brain("oracle")
    with pytest.raises(ValueError, match="cannot be read"):
        load_brain("script:/nonexistent.yaml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
async def test_the_examples_load_and_greet(path: Path) -> None:
    (greeting,) = await load_brain(f"script:{path}").reply(ask())
    assert isinstance(greeting, Say)
    assert greeting.text


@pytest.mark.parametrize(
    ("history", "reply"),
    [
        (
            (Utterance("user", "What is the weather in London?"),),
            (Say("One moment, please."), Call("get_weather", {"city": "London"})),
        ),
        ((Utterance("user", "Goodbye."),), (Call("hang_up", {}),)),
        ((ToolResult("hang_up", '{"ok": true}'),), (Say("Goodbye, and thank you for calling."),)),
    ],
)
async def test_the_dialogue_of_the_guides(history: tuple[Any, ...], reply: Reply) -> None:
    assert await load_brain(f"script:{EXAMPLES / 'realtime.yaml'}").reply(ask(*history)) == reply
