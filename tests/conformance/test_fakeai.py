"""The beta client against fakeai, an emulation of the beta shape by others, with its own habits.

It writes null into unused fields, names an event that the protocol does not have, and fails where it should
speak: a client has to live with all of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import fakeai_server
import peers
import pytest
from parley_realtime import RealtimeAPIClientParameters, beta

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def fakeai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = fakeai_server.running(tmp_path_factory.mktemp("fakeai") / "log")
    try:
        url = server.__enter__()
    except peers.PeersUnavailable as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    try:
        yield url
    finally:
        server.__exit__(None, None, None)


class Talk:
    """A connected client and what its listeners were told, by name."""

    def __init__(self, client: beta.RealtimeAPIClient) -> None:
        self.client = client
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._news = asyncio.Event()
        for name in beta.RealtimeAPIEvents:
            client.add_event_listener(name, self._note)

    def _note(self, event: Any) -> None:
        self.told.append((event.name.rsplit(".", 1)[1], event.data["payload"]))
        self._news.set()

    def of(self, name: str) -> list[dict[str, Any]]:
        return [payload for told, payload in self.told if told == name]

    async def hear(self, name: str, count: int = 1) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while len(self.of(name)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(name)[count - 1]


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[Talk]:
    parameters = RealtimeAPIClientParameters(api_key="sk-fakeai-any", base_url=url)
    client = await beta.create_realtime_api_client(parameters)
    try:
        yield Talk(client)
    finally:
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)
    assert client.error is None


async def test_a_written_conversation(fakeai: str) -> None:
    async with talking(fakeai) as talk:
        talk.client.session_update({"modalities": ["text"]})
        await talk.hear("SessionUpdated")
        for turn in (1, 2):
            item: Any = {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "hello"}],
            }
            talk.client.send_event({"type": "conversation.item.create", "item": item})
            talk.client.send_event({"type": "response.create"})
            done = await talk.hear("ResponseDone", turn)
            assert done["response"]["status"] == "completed"
            await talk.hear("RateLimitsUpdated", turn)
        words = "".join(payload["delta"] for payload in talk.of("ResponseTextDelta"))
        assert len(words) > 10
        assert talk.of("Error") == []


async def test_spoken_input_and_a_server_that_fails(fakeai: str) -> None:
    """Audio is committed; the server then breaks while it speaks, cancels, and the connection goes on."""
    async with talking(fakeai) as talk:
        talk.client.push_media(bytes(48_000))
        talk.client.send_event({"type": "input_audio_buffer.commit"})
        await talk.hear("InputAudioBufferCommitted")
        created = await talk.hear("ConversationItemCreated")
        assert created["item"]["role"] == "user"
        talk.client.send_event({"type": "response.create"})
        await talk.hear("Error")
        talk.client.send_event({"type": "response.cancel"})
        unknown = await talk.hear("Unknown")
        assert unknown["type"] == "response.cancelled"
        talk.client.send_event({"type": "no.such.event"})
        refused = await talk.hear("Error", 2)
        assert refused["error"]["code"] == "unknown_event"
        talk.client.session_update({"modalities": ["text"]})
        await talk.hear("SessionUpdated")
