"""Clients made by others hold spoken conversations with the local provider, interruptions included.

Each runs in the peers' own environment as a child process with its own logic of interruption. What is said is
real speech, what it hears is recognised again, and a proxy tells what went over the wire.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import peers
import pytest
import speech
from parley_local import LocalProvider, LocalProviderConfig, serve
from recording_proxy import RecordingProxy, recording

RATE = 24000
KEY = "sk-peer"
CUT_IN_AFTER_S = 2.0
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def environment() -> None:
    try:
        peers.interpreter()
    except peers.PeersUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    config = LocalProviderConfig(
        port=0,
        voice="flite",
        recognizer="whisper",
        detector="silero",
        brain=f"script:{peers.PROGRAMS / 'dialogue.yaml'}",
        api_keys=(KEY,),
        audio_speed=4,
    )
    async with serve(config) as running:
        yield running


async def plan(folder: Path, codes: tuple[str, str]) -> list[dict[str, Any]]:
    """Greeting, a code, a long story that is interrupted by another code."""

    async def spoken(name: str, text: str) -> str:
        pcm = await asyncio.to_thread(speech.synthesize, text, RATE, tail_s=0.3)
        return peers.write_wav(folder / f"say-{name}.wav", pcm, RATE)

    return [
        {"name": "first", "say": await spoken("first", speech.code_phrase(codes[0]))},
        {
            "name": "story",
            "say": await spoken("story", "Please tell me a long story."),
            "cut_in_after_s": CUT_IN_AFTER_S,
        },
        {"name": "second", "say": await spoken("second", speech.code_phrase(codes[1]))},
    ]


async def digits_of(line: dict[str, Any]) -> str:
    return await asyncio.to_thread(speech.recognize_digits, *peers.read_wav(line["path"]))


def story_response(proxy: RecordingProxy) -> dict[str, Any]:
    """The response that was cut."""
    cut = [e["response"] for e in proxy.received("response.done") if e["response"]["status"] == "cancelled"]
    (response,) = cut
    return dict(response)


async def converse(provider: LocalProvider, program: str, url: str, folder: Path, greets: bool) -> None:
    codes = (speech.random_code(), speech.random_code())
    steps = await plan(folder, codes)
    if greets:
        steps.insert(0, {"name": "greeting"})
    async with recording(provider.url) as proxy:
        ran = await peers.run(
            program, {"url": proxy.url + url, "key": KEY, "deadline_s": 100, "steps": steps}, folder
        )
    told = f"exit {ran.code}\n{ran.lines[-5:]}\n{ran.complaint}"
    assert ran.code == 0, told
    assert ran.of("finished"), told
    assert ran.of("error") == [], told
    answers = {line["step"]: line for line in ran.of("answer")}
    if greets:
        words = await asyncio.to_thread(speech.recognize, *peers.read_wav(answers["greeting"]["path"]))
        assert "code" in words.lower()
    assert await digits_of(answers["first"]) == codes[0]
    assert await digits_of(answers["second"]) == codes[1]
    for code in codes:
        assert any(code in line["words"] for line in ran.of("history")), told
    check_interruption(proxy, ran)


def check_interruption(proxy: RecordingProxy, ran: peers.Ran) -> None:
    """One interruption: the response cancelled, the item truncated at what was played, nothing refused."""
    assert len(ran.of("interrupted")) == 1
    story = story_response(proxy)
    assert story["status_details"]["reason"] == "turn_detected"
    truncated = {e["item_id"]: e for e in proxy.received("conversation.item.truncated")}
    item = story["output"][0]["id"]
    assert list(truncated) == [item], "the client did not truncate the story, or something else too"
    sent = sum(
        len(e["delta"]) * 3 // 4 / 2 / RATE * 1000
        for e in proxy.received("response.output_audio.delta")
        if e["item_id"] == item
    )
    played = truncated[item]["audio_end_ms"]
    assert CUT_IN_AFTER_S * 1000 <= played < sent - 1000
    assert proxy.received("error") == []


async def test_openai_agents(provider: LocalProvider, tmp_path: Path) -> None:
    await converse(provider, "agents_sdk.py", "?model=gpt-realtime", tmp_path, greets=False)


async def test_pipecat(provider: LocalProvider, tmp_path: Path) -> None:
    await converse(provider, "pipecat_bot.py", "", tmp_path, greets=True)
