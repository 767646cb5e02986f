"""The chat brain against a chat completions service on loopback, its faults included."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI
from parley_local import LocalProviderConfig, serve
from parley_local.brains import BrainError
from parley_local.brains.chat import ChatBrain, ChatSettings
from parley_local.core.effects import BrainRequest, Say, Utterance

KEY = "sk-the-chat-key"
REQUEST = BrainRequest("", (Utterance("user", "hello"),))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[str]:
    """The URL of a service that answers as `handler` does."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def brain(handler: Handler, **settings: Any) -> AsyncIterator[ChatBrain]:
    async with service(handler) as url:
        made = ChatBrain(ChatSettings(url, key=KEY, **settings))
        try:
            yield made
        finally:
            await made.close()


def completion(content: str | None, *calls: tuple[str, dict[str, Any]]) -> web.Response:
    tool_calls = [
        {"id": "1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in calls
    ]
    return web.json_response({"choices": [{"message": {"content": content, "tool_calls": tool_calls}}]})


async def test_a_conversation_with_a_tool_over_the_realtime_protocol() -> None:
    """The service calls the session's function, is told its result and answers with it."""
    asked: list[dict[str, Any]] = []
    keys: list[str | None] = []

    async def model(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(body)
        keys.append(request.headers.get("Authorization"))
        last = body["messages"][-1]
        if last["role"] == "tool":
            return completion(f"It is {json.loads(last['content'])['degrees']} degrees.")
        return completion("One moment.", ("get_weather", {"city": "Paris"}))

    async with service(model) as url:
        config = LocalProviderConfig(port=0, brain="chat", chat_url=url, chat_model="tiny", chat_key=KEY)
        async with (
            serve(config) as provider,
            AsyncOpenAI(api_key="x", websocket_base_url=f"ws://127.0.0.1:{provider.port}/v1") as client,
            client.realtime.connect(model="m") as connection,
        ):
            tool: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
            await connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Be brief.",
                    "output_modalities": ["text"],
                    "tools": [tool],
                }
            )
            content: Any = [{"type": "input_text", "text": "weather in Paris?"}]
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": content}
            )
            await connection.response.create()
            first = await done(connection)
            words, call = first.output
            assert words.content[0].text == "One moment."
            assert json.loads(call.arguments) == {"city": "Paris"}
            output: Any = {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": '{"degrees": 21}',
            }
            await connection.conversation.item.create(item=output)
            await connection.response.create()
            (answer,) = (await done(connection)).output
    assert answer.content[0].text == "It is 21 degrees."
    assert keys == [f"Bearer {KEY}"] * 2
    assert [m["role"] for m in asked[1]["messages"]] == ["system", "user", "assistant", "assistant", "tool"]
    assert (asked[0]["model"], asked[0]["tools"][0]["function"]["name"]) == ("tiny", "get_weather")


async def done(connection: Any) -> Any:
    async with asyncio.timeout(20):
        async for event in connection:
            assert event.type != "error", event
            if event.type == "response.done":
                return event.response
    raise AssertionError("the connection ended")


async def test_a_failed_answer_is_a_failed_response_and_the_session_goes_on() -> None:
    answers = [
        web.json_response(
            {"error": {"code": "insufficient_quota", "message": f"no money, {KEY}"}}, status=429
        ),
        completion("Back again."),
    ]

    async def model(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    async with service(model) as url:
        config = LocalProviderConfig(port=0, brain="chat", chat_url=url, chat_key=KEY)
        async with (
            serve(config) as provider,
            AsyncOpenAI(api_key="x", websocket_base_url=f"ws://127.0.0.1:{provider.port}/v1") as client,
            client.realtime.connect(model="m") as connection,
        ):
            await connection.response.create(response={"output_modalities": ["text"]})
            failed = await done(connection)
            assert failed.status == "failed"
            assert failed.status_details.error.code == "insufficient_quota"
            assert KEY not in failed.model_dump_json()
            await connection.response.create(response={"output_modalities": ["text"]})
            assert (await done(connection)).output[0].content[0].text == "Back again."


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (404, "model_not_found"), (429, "rate_limit_exceeded"), (400, "chat_refused"),
     (500, "server_error"), (302, "chat_refused")],
)  # fmt: skip
async def test_refusals(status: int, code: str) -> None:
    seen: list[int] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(status)
        body = json.dumps({"error": {"message": f"the key {KEY} is wrong"}})
        return web.Response(status=status, text=body, headers={"Location": "http://elsewhere.test/"})

    async with brain(refuse) as chat:
        with pytest.raises(BrainError, match=f"HTTP {status}") as caught:
            await chat.reply(REQUEST)
    assert caught.value.failure.code == code
    assert KEY not in str(caught.value)
    assert len(seen) == 1


async def test_a_bad_gateway_is_tried_once_more() -> None:
    answers = [web.Response(status=502), completion("Here.")]

    async def flaky(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    async with brain(flaky) as chat:
        assert await chat.reply(REQUEST) == (Say("Here."),)


async def test_nobody_there() -> None:
    async with service(_never) as url:
        pass
    chat = ChatBrain(ChatSettings(url))
    with pytest.raises(BrainError, match="cannot be reached") as caught:
        await chat.reply(REQUEST)
    await chat.close()
    assert caught.value.failure.code == "chat_unreachable"


async def test_a_service_that_hangs_or_never_ends() -> None:
    async with brain(_never, timeout_s=0.2) as chat:
        with pytest.raises(BrainError, match=r"within 0\.2 s") as caught:
            await chat.reply(REQUEST)
    assert caught.value.failure.code == "chat_timeout"

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" " * 65536)
        return response

    async with brain(endless) as chat:
        with pytest.raises(BrainError, match="longer than"):
            await chat.reply(REQUEST)


async def _never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()
