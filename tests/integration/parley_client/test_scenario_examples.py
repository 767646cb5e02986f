"""Every example of examples/scenarios in embedded mode, as `parley run` runs it, with tones for speech."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from embedded_stack import tones_stack
from parley_client import Call, ConversationEvent, MissingProgram, connect
from parley_client.embedded.manifests import parse_manifests
from parley_client.embedded.programs import find_program
from parley_client.embedded.stack import EmbeddedStack
from parley_client.events import Transfer

EXAMPLES = Path(__file__).parents[3] / "examples"
FOLDER = EXAMPLES / "scenarios"

try:
    find_program("nats-server")
    MISSING = ""
except MissingProgram as error:
    MISSING = str(error)

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(120)]


class Talk:
    """A call, the events that came, and a way to wait for one."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.seen: list[Any] = []
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        async for event in self.call:
            async with self._news:
                self.seen.append(event)
                self._news.notify_all()

    async def until(self, test: Callable[[Any], bool], count: int = 1) -> Any:
        async with asyncio.timeout(40), self._news:
            await self._news.wait_for(lambda: sum(map(test, self.seen)) >= count)
        return [event for event in self.seen if test(event)][count - 1]

    async def said(self, words: str) -> None:
        """The agent's words, as the provider tells them."""

        def has(event: Any) -> bool:
            kinds = ("response.output_audio_transcript.done",)
            is_words = isinstance(event, ConversationEvent) and event.type in kinds
            return bool(is_words and words in event.data["transcript"])

        await self.until(has)

    async def speak(self, seconds: float) -> None:
        """A tone and then silence, in real time."""
        wave = np.sin(np.arange(round(24000 * seconds)) * 0.115) * 12000
        samples = np.concatenate((wave, np.zeros(24000))).astype("<i2").tobytes()
        for at in range(0, len(samples), 960):
            await self.call.send_audio(samples[at : at + 960])
            await asyncio.sleep(0.02)


@asynccontextmanager
async def talking(stack: EmbeddedStack, name: str, *changes: tuple[str, str]) -> AsyncIterator[Talk]:
    text = (FOLDER / f"{name}.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    target = await stack.open_session(parse_manifests(text, name))
    async with connect(target) as call:
        talk = Talk(call)
        listening = asyncio.create_task(talk.listen())
        yield talk
        await asyncio.wait_for(listening, 40)


async def receptionist(stack: EmbeddedStack) -> None:
    phrases = ("[goodbye, that is all]", "[seconds of sound]")
    async with talking(stack, "receptionist", phrases) as talk:
        await talk.said("Hello, this is the front desk.")
        await talk.speak(0.6)
        await talk.said("Goodbye, and have a nice day.")
    assert talk.call.ended is not None
    assert talk.call.ended.reason == "AgentHangup"


async def survey(stack: EmbeddedStack) -> None:
    async with talking(stack, "survey", ("answerSeconds: 6", "answerSeconds: 2")) as talk:
        await talk.said("how was your stay?")
        await talk.call.send_dtmf("9")
        await talk.call.send_dtmf("4")
        await talk.said("I did not get that. From one to five, how was the breakfast?")
        await talk.call.send_dtmf("5")
        await talk.said("Thank you")
    assert talk.call.ended is not None
    assert talk.call.ended.reason == "ScenarioCompleted"
    assert talk.call.ended.message == "the scenario has ended: answers: 4, 5"


async def transfer(stack: EmbeddedStack) -> None:
    async with talking(stack, "transfer") as talk:
        await talk.said("Hello, sales or service?")
        content = [{"type": "input_text", "text": "Service, please"}]
        item = {"type": "message", "role": "user", "content": content}
        await talk.call.send_event({"type": "conversation.item.create", "item": item})
        await talk.call.send_event({"type": "response.create"})
        await talk.said("I am connecting you to service.")
        moved = await talk.until(lambda event: isinstance(event, Transfer))
        assert moved.target == "sip:service@example.com"
        assert moved.note.endswith("wants service")
        await talk.call.hang_up()
    assert talk.call.ended is not None
    assert talk.call.ended.reason == "CallerHangup"


async def transcription(stack: EmbeddedStack) -> None:
    posted: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        posted.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/said", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/said"
        entry = "entryPoint: transcription:main"
        change = (entry, f"{entry}\n      parameters: {{url: '{url}'}}")
        async with talking(stack, "transcription", change) as talk:
            await talk.speak(0.6)
            kind = "conversation.item.input_audio_transcription.completed"
            await talk.until(lambda event: isinstance(event, ConversationEvent) and event.type == kind)
            await talk.call.hang_up()
        async with asyncio.timeout(10):
            while not posted:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0.05)
    finally:
        await runner.cleanup()
    types = {event.type for event in talk.seen if isinstance(event, ConversationEvent)}
    assert "response.created" not in types
    (body,) = posted
    assert body["reason"] == "CallerHangup"
    assert body["lines"][0].endswith("seconds of sound")


@pytest.mark.parametrize("example", [receptionist, survey, transfer, transcription])
async def test_an_example_does_what_it_says(
    tmp_path: Path, example: Callable[[EmbeddedStack], Awaitable[None]]
) -> None:
    brain = f"script:{EXAMPLES / 'brains' / 'transfer.yaml'}"
    async with tones_stack(tmp_path / "run", brain=brain, scenario_paths=(FOLDER,)) as stack:
        await example(stack)


def test_no_example_is_left_out() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    assert names == {"receptionist", "survey", "transfer", "transcription"}
