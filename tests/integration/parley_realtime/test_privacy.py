"""With `privacy` no word of the conversation leaves by a log, an error, a close event or an exception's text.

Each case is one way for words to come in; `canary` is in all of them. Real sockets on loopback.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import parley_realtime
import pytest
from parley_realtime import (
    RealtimeAPIClientParameters,
    RealtimeError,
    ScenarioError,
    WebSocketCloseEvent,
    beta,
)
from parley_realtime.recovery import RecoveryParameters, RecoveryRecord
from scripted_provider import Line, ScriptedProvider

CANARY = "Tschirikowspatz"
APIS: dict[str, Any] = {"ga": parley_realtime, "beta": beta}


async def error_then_close(line: Line) -> None:
    await line.refuse(4000, {"type": "invalid_request_error", "code": "odd", "message": CANARY}, CANARY)


async def error_then_cut(line: Line) -> None:
    await line.send({"type": "error", "error": {"message": CANARY, "param": CANARY}})
    line.socket.transport.abort()


async def close_for(line: Line, code: int) -> None:
    await line.socket.close(code, CANARY)


async def broken_json(line: Line) -> None:
    await line.send_raw('{"type": "response.done", "' + CANARY)


async def not_an_object(line: Line) -> None:
    await line.send_raw(f'["{CANARY}"]')


async def odd_constant(line: Line) -> None:
    await line.send_raw(f'{{"type": "{CANARY}", "x": NaN}}')


async def odd_audio(line: Line) -> None:
    await line.send(
        {"type": "response.output_audio.delta", "delta": CANARY, "response_id": "r", "item_id": "i"}
    )


async def not_text(line: Line) -> None:
    await line.send_raw(b"\xff" + CANARY.encode())


async def too_large(line: Line) -> None:
    await line.send({"type": "x", "filler": CANARY * 1000})


async def an_event_the_listener_raises_about(line: Line) -> None:
    await line.send({"type": "rate_limits.updated", "rate_limits": [{"name": CANARY}]})


WAYS: dict[str, Callable[[Line], Awaitable[None]]] = {
    "error and close": error_then_close,
    "error and cut": error_then_cut,
    "close 1000": lambda line: close_for(line, 1000),
    "close 1011": lambda line: close_for(line, 1011),
    "close 3000": lambda line: close_for(line, 3000),
    "close 4004": lambda line: close_for(line, 4004),
    "broken JSON": broken_json,
    "no object": not_an_object,
    "NaN": odd_constant,
    "broken base64": odd_audio,
    "no UTF-8": not_text,
    "too large": too_large,
    "raising listener": an_event_the_listener_raises_about,
}


def all_text(error: BaseException) -> str:
    """Everything a log with traceback would show of an error."""
    return "".join(traceback.format_exception(error)) + repr(vars(error))


@pytest.mark.parametrize("recovers", [False, True], ids=["", "recovery"])
@pytest.mark.parametrize("shape", APIS)
@pytest.mark.parametrize("way", WAYS)
async def test_no_word_leaves(shape: str, way: str, recovers: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parley_realtime")
    closes: list[WebSocketCloseEvent] = []
    told: list[ScenarioError] = []
    records: list[RecoveryRecord] = []

    def repeats(event: Any) -> None:
        raise LookupError(event.data["payload"]["rate_limits"][0]["name"])

    async def script(line: Line) -> None:
        await line.greet(instructions=CANARY)
        await line.send({"type": f"brand.new.{CANARY}", "text": CANARY})
        await WAYS[way](line)
        await line.listen()

    async with ScriptedProvider(script) as provider:
        client = APIS[shape].RealtimeAPIClient(
            RealtimeAPIClientParameters(
                base_url=provider.base_url,
                privacy=True,
                statistics=True,
                max_frame_bytes=10_000,
                on_web_socket_close=closes.append,
                on_scenario_error=told.append,
                recovery=RecoveryParameters(on_recovery=records.append) if recovers else None,
            )
        )
        client.add_event_listener(APIS[shape].RealtimeAPIEvents.RateLimitsUpdated, repeats)
        await client.connect()
        error = await asyncio.wait_for(client.wait_closed(), 15)
    assert isinstance(error, RealtimeError)
    assert isinstance(error, ScenarioError) == (way == "raising listener")
    seen = [all_text(error), *map(repr, closes), *map(all_text, told), str(client.statistics), caplog.text]
    seen += [str(asdict(record)) for record in records]
    assert [text for text in seen if CANARY in text] == []
    assert len(closes) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
async def test_no_word_of_a_refused_handshake(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parley_realtime")
    async with ScriptedProvider(status=status, body=CANARY) as provider:
        with pytest.raises(RealtimeError) as caught:
            await parley_realtime.create_realtime_api_client(
                RealtimeAPIClientParameters(base_url=provider.base_url, privacy=True)
            )
    assert str(status) in str(caught.value)
    assert CANARY not in all_text(caught.value) + caplog.text


async def test_no_word_of_an_error_before_the_time_is_up() -> None:
    async def script(line: Line) -> None:
        await line.send({"type": "error", "error": {"code": "insufficient_quota", "message": CANARY}})
        await line.listen()

    async with ScriptedProvider(script) as provider:
        with pytest.raises(parley_realtime.QuotaError) as caught:
            await parley_realtime.create_realtime_api_client(
                RealtimeAPIClientParameters(base_url=provider.base_url, privacy=True, connect_timeout=0.5)
            )
    assert CANARY not in all_text(caught.value)


@pytest.mark.parametrize("policy", ["end", "log"])
async def test_a_listener_is_named_and_its_words_are_not(
    policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_handler_error="log"` lets the call go on, and the log has the listener's name alone."""
    done = asyncio.Event()

    def repeats(event: Any) -> None:
        raise LookupError(event.data["payload"]["response"]["id"])

    async with ScriptedProvider() as provider:
        client = await parley_realtime.create_realtime_api_client(
            RealtimeAPIClientParameters(base_url=provider.base_url, privacy=True, on_handler_error=policy)
        )
        events = parley_realtime.RealtimeAPIEvents
        client.add_event_listener(events.ResponseDone, repeats)
        client.add_event_listener(events.RateLimitsUpdated, lambda _: done.set())
        line = await provider.accepted()
        await line.send({"type": "response.done", "response": {"id": CANARY}})
        if policy == "log":
            await line.send({"type": "rate_limits.updated", "rate_limits": []})
            await asyncio.wait_for(done.wait(), 15)
            assert "repeats of OpenAI.RealtimeAPI.ResponseDone raised LookupError" in caplog.text
            client.close()
        error = await asyncio.wait_for(client.wait_closed(), 15)
    assert isinstance(error, ScenarioError) == (policy == "end")
    assert CANARY not in caplog.text


async def test_without_privacy_the_words_help() -> None:
    """The same paths do tell what the provider said: the tests above would notice a word."""

    async def script(line: Line) -> None:
        await line.greet()
        await error_then_close(line)

    async with ScriptedProvider(script) as provider:
        closes: list[WebSocketCloseEvent] = []
        client = await parley_realtime.create_realtime_api_client(
            RealtimeAPIClientParameters(base_url=provider.base_url, on_web_socket_close=closes.append)
        )
        error = await asyncio.wait_for(client.wait_closed(), 15)
    assert CANARY in str(error)
    assert closes[0].reason == CANARY
