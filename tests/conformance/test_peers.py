"""Clients made by others hold spoken conversations with the local provider, interruptions included.

Each runs in the peers' own environment as a child process with its own logic of interruption. What is said is
real speech, what it hears is recognised again, and a proxy tells what went over the wire.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import pytest
import speech
from parley_local import LocalProvider, LocalProviderConfig, serve
from pki import TestAuthority
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


@dataclass(frozen=True)
class Peer:
    """A program, what it wants behind the provider's address, and what it does."""

    program: str
    query: str = ""
    greets: bool = False
    shape: str = "ga"
    tls: bool = False

    @property
    def delta(self) -> str:
        return "response.output_audio.delta" if self.shape == "ga" else "response.audio.delta"


async def converse(provider: LocalProvider, peer: Peer, folder: Path) -> None:
    codes = (speech.random_code(), speech.random_code())
    steps = await plan(folder, codes)
    if peer.greets:
        steps.insert(0, {"name": "greeting"})
    task: dict[str, Any] = {"key": KEY, "deadline_s": 100, "steps": steps, "shape": peer.shape}
    context = None
    if peer.tls:
        files = TestAuthority().issue("provider").write(folder / "tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files / "tls.crt", files / "tls.key")
        task["ca"] = str(files / "ca.crt")
    async with recording(provider.url, context) as proxy:
        ran = await peers.run(peer.program, {**task, "url": proxy.url + peer.query}, folder)
    told = f"exit {ran.code}\n{ran.lines[-5:]}\n{ran.complaint}"
    assert ran.code == 0, told
    assert ran.of("finished"), told
    assert ran.of("error") == [], told
    answers = {line["step"]: line for line in ran.of("answer")}
    if peer.greets:
        words = await asyncio.to_thread(speech.recognize, *peers.read_wav(answers["greeting"]["path"]))
        assert "code" in words.lower()
    assert await digits_of(answers["first"]) == codes[0]
    assert await digits_of(answers["second"]) == codes[1]
    for code in codes:
        assert any(code in line["words"] for line in ran.of("history")), told
    check_interruption(proxy, ran, peer)


def check_interruption(proxy: RecordingProxy, ran: peers.Ran, peer: Peer) -> None:
    """One interruption: the response cancelled, the item truncated at what was played, nothing refused."""
    assert len(ran.of("interrupted")) == 1
    story = story_response(proxy)
    assert story["status_details"]["reason"] == "turn_detected"
    truncated = {e["item_id"]: e for e in proxy.received("conversation.item.truncated")}
    item = story["output"][0]["id"]
    assert list(truncated) == [item], "the client did not truncate the story, or something else too"
    sent = sum(
        len(e["delta"]) * 3 // 4 / 2 / RATE * 1000 for e in proxy.received(peer.delta) if e["item_id"] == item
    )
    played = truncated[item]["audio_end_ms"]
    assert CUT_IN_AFTER_S * 1000 <= played < sent - 1000
    assert proxy.received("error") == []


PEERS = {
    "openai-ga": Peer("openai_sdk.py", greets=True, tls=True),
    "openai-beta": Peer("openai_sdk.py", greets=True, shape="beta", tls=True),
    "openai-agents": Peer("agents_sdk.py", "?model=gpt-realtime"),
    "pipecat-ai": Peer("pipecat_bot.py", greets=True),
}


@pytest.mark.parametrize(
    "names", [("openai-ga", "openai-beta"), ("openai-agents", "pipecat-ai")], ids="+".join
)
async def test_a_spoken_conversation_with_an_interruption(
    provider: LocalProvider, tmp_path: Path, names: tuple[str, str]
) -> None:
    """Two at a time: what takes long is the talking. `openai` insists on TLS for the beta shape."""
    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
    talks = (converse(provider, PEERS[name], tmp_path / name) for name in names)
    results = await asyncio.gather(*talks, return_exceptions=True)
    failed = {name: result for name, result in zip(names, results, strict=True) if result is not None}
    for name, error in failed.items():
        error.add_note(f"peer: {name}")
    if failed:
        raise BaseExceptionGroup(f"failed: {', '.join(failed)}", list(failed.values()))
