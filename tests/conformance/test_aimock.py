"""The client against @copilotkit/aimock, an emulation of the Realtime API by others."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aimock_server
import pytest
from parley_local import LocalProviderConfig, serve
from parley_realtime import (
    AuthenticationError,
    BetaShapeDisabled,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeEvent,
    WebSocketCloseEvent,
    beta,
    create_realtime_api_client,
)

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        script = aimock_server.install()
    except aimock_server.AimockUnavailable as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    with aimock_server.running(script, tmp_path_factory.mktemp("aimock") / "log") as url:
        yield url


class Conversation:
    """A text conversation: what is said goes in as items, what listeners are told comes back."""

    def __init__(self, client: RealtimeAPIClient) -> None:
        self.client = client
        self.names: list[str] = []
        self.deltas: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self._done: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in RealtimeAPIEvents:
            client.add_event_listener(event, lambda e: self.names.append(e.name.rsplit(".", 1)[1]))
        client.add_event_listener(RealtimeAPIEvents.ResponseOutputTextDelta, self._delta)
        client.add_event_listener(RealtimeAPIEvents.ResponseFunctionCallArgumentsDone, self._call)
        client.add_event_listener(RealtimeAPIEvents.ResponseDone, self._finished)

    def _delta(self, event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
        self.deltas.append(event.data["payload"]["delta"])

    def _call(self, event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
        self.calls.append(event.data["payload"])

    def _finished(self, event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
        self._done.put_nowait(event.data["payload"]["response"])

    def say(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.client.conversation_item_create(
            {"item": {"type": "message", "role": "user", "content": content}}
        )

    async def answer(self) -> dict[str, Any]:
        """Ask for a response and wait for its end."""
        self.deltas.clear()
        self.client.response_create({})
        return await asyncio.wait_for(self._done.get(), 15)


@asynccontextmanager
async def conversation(url: str) -> AsyncIterator[Conversation]:
    parameters = RealtimeAPIClientParameters(api_key=aimock_server.API_KEY, base_url=url)
    client = await create_realtime_api_client(parameters)
    try:
        talk = Conversation(client)
        client.session_update({"session": {"output_modalities": ["text"], "tools": [TOOL]}})
        yield talk
    finally:
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)
    assert client.error is None


async def test_text(aimock: str) -> None:
    async with conversation(aimock) as talk:
        talk.say("hello there")
        response = await talk.answer()
        assert response["status"] == "completed"
        assert response["output"][0]["content"][0]["text"] == "Hello! How can I help you today?"
        assert "".join(talk.deltas) == "Hello! How can I help you today?"
        assert "Error" not in talk.names
        order = [
            "SessionCreated",
            "SessionUpdated",
            "ConversationItemAdded",
            "ResponseCreated",
            "ResponseDone",
        ]
        assert [name for name in talk.names if name in order][: len(order)] == order


async def test_tools(aimock: str) -> None:
    """The model calls a tool, is given its result, and answers with it."""
    async with conversation(aimock) as talk:
        talk.say("what is the weather?")
        response = await talk.answer()
        assert response["output"][0]["type"] == "function_call"
        (call,) = talk.calls
        assert json.loads(call["arguments"]) == {"city": "Paris"}
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"degrees": 18}'}
        talk.client.conversation_item_create({"item": result})
        response = await talk.answer()
        assert "".join(talk.deltas) == "It is 18 degrees in Paris."
        assert response["status"] == "completed"
        assert "Error" not in talk.names


async def test_several_turns_and_an_error_in_between(aimock: str) -> None:
    async with conversation(aimock) as talk:
        talk.client.session_update({"session": {"type": "nonsense"}})
        for _ in range(3):
            talk.say("hello again")
            assert (await talk.answer())["status"] == "completed"
        assert talk.names.count("ResponseDone") == 3
        assert talk.names.count("Error") == 1


async def test_our_formats_are_what_it_is_told(aimock: str) -> None:
    async with conversation(aimock) as talk:
        updated: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        talk.client.add_event_listener(
            RealtimeAPIEvents.SessionUpdated, lambda e: updated.put_nowait(e.data["payload"]["session"])
        )
        theirs = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcmu"}}}
        talk.client.session_update({"session": {"instructions": "second", "audio": theirs}})
        session: dict[str, Any] = {}
        while session.get("instructions") != "second":
            session = await asyncio.wait_for(updated.get(), 15)
        assert "pcmu" not in json.dumps(session["audio"])


async def test_the_documented_example(aimock: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "realtime-client.md").read_text()
    example = page.split("```python\n", 1)[1].split("```", 1)[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        example,
        env={**os.environ, "REALTIME_URL": aimock, "OPENAI_API_KEY": aimock_server.API_KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, wrong.decode()) == (0, "")
    assert said.decode() == "Hello! How can I help you today?"


async def test_the_local_provider_thinks_with_its_chat_completions(aimock: str) -> None:
    """Our client, our provider, and the chat service of others behind it: words, a call and its result."""
    config = LocalProviderConfig(
        port=0, brain="chat", chat_url=f"{aimock}/v1", chat_model="gpt-4o", chat_key=aimock_server.API_KEY
    )
    async with serve(config) as provider, conversation(f"http://127.0.0.1:{provider.port}") as talk:
        talk.say("hello there")
        response = await talk.answer()
        assert response["output"][0]["content"][0]["text"] == "Hello! How can I help you today?"
        talk.say("what is the weather?")
        (call,) = (await talk.answer())["output"]
        assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"degrees": 18}'}
        talk.client.conversation_item_create({"item": result})
        response = await talk.answer()
        assert response["output"][0]["content"][0]["text"] == "It is 18 degrees in Paris."


async def test_the_beta_refusal(aimock: str) -> None:
    """101, then an error, then close 4000: one clear error, told once, and nothing left open."""
    closes: list[WebSocketCloseEvent] = []
    parameters = RealtimeAPIClientParameters(
        api_key=aimock_server.API_KEY, base_url=aimock, on_web_socket_close=closes.append
    )
    with pytest.raises(BetaShapeDisabled, match="use the GA client") as caught:
        await beta.create_realtime_api_client(parameters)
    assert caught.value.reason == "ProviderProtocolError"
    assert (caught.value.code, caught.value.close_code) == ("beta_api_shape_disabled", 4000)
    assert not caught.value.retryable
    assert [(c.code, c.reason) for c in closes] == [(4000, "invalid_request_error.beta_api_shape_disabled")]


async def test_a_key_it_does_not_know(aimock: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        await create_realtime_api_client(
            RealtimeAPIClientParameters(api_key="sk-not-this-one", base_url=aimock)
        )
    assert caught.value.reason == "ProviderAuthFailed"
    assert "not-this-one" not in str(caught.value)
