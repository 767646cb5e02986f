"""Tools written with the SDK: served over NATS, verified as webhooks, answered by the caller."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from embedded_stack import manifests, tones_stack
from media_calls import worker
from media_server_double import DoubleLeg, media_server
from nats_server import NatsServer, free_port
from parley_client import (
    Call,
    ConnectError,
    ConversationEvent,
    UsageError,
    connect,
    resolve_address,
    transcript_of,
    write_wav,
)
from parley_client.tools import ToolCall, ToolError, serve_tool
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.clock import SystemClock
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import SessionKey
from parley_worker.transport.nats_connection import ConnectionSettings
from parley_worker.transport.nats_tools import NatsTools
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest
from scripts import load_script

EXAMPLES = Path(__file__).parents[3] / "examples"
SESSION = SessionKey("calls", "first-call", "uid-7", 2)


# Over NATS


def request(arguments: str = '{"city": "Graz"}', call_id: str = "call 1", timeout: float = 10) -> ToolRequest:
    clock, route = SystemClock(), ToolRoute("weather", ToolRouteKind.NATS, timeout)
    until = clock.monotonic() + timeout
    return ToolRequest(SESSION, call_id, "weather", arguments, route, until, clock.wall() + timeout)


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[tuple[NatsServer, NatsTools]]:
    server = NatsServer(folder)
    await server.start()
    route = NatsTools(ConnectionSettings(server.url, retry_min=0.02, retry_max=0.05))
    running = asyncio.create_task(route.run())
    try:
        await connected(route)
        yield server, route
    finally:
        running.cancel()
        await asyncio.wait([running])
        await server.stop()


async def connected(route: NatsTools) -> None:
    async with asyncio.timeout(20):
        while not route.connected:  # noqa: ASYNC110 - its task tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(url: str, handler: Any, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    ready = asyncio.Event()
    task = asyncio.create_task(serve_tool(url, "weather", handler, ready=ready, **options))
    try:
        await asyncio.wait_for(ready.wait(), 10)
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_handler_gets_the_call_and_its_session(tmp_path: Path) -> None:
    calls: list[ToolCall] = []

    async def weather(call: ToolCall) -> dict[str, object]:
        calls.append(call)
        return {"sky": "klar, 21 °C"}

    async with nats(tmp_path) as (server, route), serving(server.url, weather):
        assert json.loads(await route.call(request())) == {"sky": "klar, 21 °C"}
    (call,) = calls
    assert (call.name, call.call_id, call.arguments) == ("weather", "call 1", {"city": "Graz"})
    assert (call.session_uid, call.namespace, call.session, call.attempt) == (
        "uid-7",
        "calls",
        "first-call",
        2,
    )
    assert call.key == "uid-7.2.call%201"
    assert call.deadline_unix == pytest.approx(SystemClock().wall() + 10, abs=10)


async def test_what_handlers_raise(tmp_path: Path) -> None:
    def weather(call: ToolCall) -> object:
        match call.arguments["city"]:
            case "crash":
                raise KeyError("a secret")
            case "odd":
                return {1, 2}
            case _:
                raise ToolError("no such city:\r\nname another")

    async def says(route: NatsTools, city: str) -> str:
        with pytest.raises(ToolCallFailed) as failed:
            await route.call(request(json.dumps({"city": city})))
        assert failed.value.problem.code == "failed"
        return failed.value.problem.message

    async with nats(tmp_path) as (server, route), serving(server.url, weather):
        assert await says(route, "nowhere") == "'weather' failed: no such city: name another"
        assert await says(route, "crash") == "'weather' failed: 'weather' failed"
        assert await says(route, "odd") == "'weather' failed: 'weather' failed"


async def test_a_call_goes_to_one_server_and_outlives_the_others_end(tmp_path: Path) -> None:
    began = asyncio.Event()
    go = asyncio.Event()
    seen: list[str] = []

    async def first(call: ToolCall) -> str:
        seen.append(call.call_id)
        began.set()
        await go.wait()
        return "from the first"

    async def second(call: ToolCall) -> str:
        return "from the second"

    async with nats(tmp_path) as (server, route), serving(server.url, first) as leaving:
        calling = asyncio.create_task(route.call(request(call_id="a")))
        await asyncio.wait_for(began.wait(), 10)
        async with serving(server.url, second):
            leaving.cancel()
            await asyncio.sleep(0.1)
            assert await route.call(request(call_id="b")) == "from the second"
            go.set()
            assert await calling == "from the first"
    assert seen == ["a"]


async def test_at_most_so_many_calls_run_at_once(tmp_path: Path) -> None:
    running, most = 0, 0

    async def weather(call: ToolCall) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return call.call_id

    async with nats(tmp_path) as (server, route), serving(server.url, weather, concurrency=3):
        names = [f"c{n}" for n in range(20)]
        assert await asyncio.gather(*(route.call(request(call_id=n)) for n in names)) == names
    assert most == 3


async def test_a_lost_server_is_found_again(tmp_path: Path) -> None:
    async def weather(call: ToolCall) -> str:
        return "here"

    async with nats(tmp_path) as (server, route), serving(server.url, weather):
        await server.kill()
        await server.start()
        await connected(route)
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await route.call(request()) == "here"
                    break
                except ToolCallFailed:
                    await asyncio.sleep(0.05)


async def test_what_cannot_be_served_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        await serve_tool("nats://127.0.0.1:1", "a.b", lambda call: "x")
    with pytest.raises(UsageError, match="nats://host:port"):
        await serve_tool("http://127.0.0.1:1", "weather", lambda call: "x")
    with pytest.raises(ConnectError, match="cannot be reached"):
        await serve_tool("nats://127.0.0.1:1", "weather", lambda call: "x", connect_timeout=0.2)


# The caller's own


def called(call_id: str, name: str = "sum", arguments: str = '{"a": 1}', **more: Any) -> str:
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}
    return json.dumps({"type": "response.output_item.done", "response_id": "r", "item": item})


async def outputs(leg: DoubleLeg, count: int) -> dict[str, str]:
    found: dict[str, str] = {}
    async with asyncio.timeout(10):
        while len(found) < count:
            message = await leg.requests.get()
            assert message is not None
            if message.WhichOneof("message") == "tool_output":
                found[message.tool_output.call_id] = message.tool_output.output
    return found


def listening(address: str) -> Call:
    return connect(resolve_address(address, "ticket"))


async def test_registered_functions_are_answered_and_others_left_alone() -> None:
    given: dict[str, str] = {}

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        kind = "response.output_item.done"
        for number, body in enumerate(
            [
                called("c1"),
                called("c2", "nap"),
                called("c3", "bad", "{"),
                called("c4", "fail"),
                called("other", "of_a_service"),
                called("cut", status="incomplete"),
                called("c1"),
            ],
            1,
        ):
            await leg.event(number, kind, body)
        given.update(await outputs(leg, 4))
        await leg.ended()

    async def total(call: ToolCall) -> object:
        return {"a": call.arguments["a"], "key": call.key}

    def fail(call: ToolCall) -> object:
        raise ToolError("not today")

    async with media_server(script) as server:
        call = listening(server.address)
        call.on_tool("sum", total)
        call.on_tool("nap", lambda _: None)
        call.on_tool("bad", total)
        call.on_tool("fail", fail)
        with pytest.raises(UsageError, match="already"):
            call.on_tool("sum", total)
        async with call:
            await asyncio.wait_for(call.wait_ended(), 10)
    assert json.loads(given.pop("c1")) == {"a": 1, "key": "uid-1.1.c1"}
    assert given.pop("c2") == "null"
    errors = {call_id: json.loads(text)["error"]["message"] for call_id, text in given.items()}
    assert errors == {"c3": "the arguments of 'bad' are not a JSON object", "c4": "not today"}


async def test_a_call_that_is_given_up_ends_its_handler_and_so_does_the_session() -> None:
    states: list[str] = []
    began = asyncio.Semaphore(0)

    async def wait(call: ToolCall) -> str:
        began.release()
        try:
            await asyncio.Event().wait()
        finally:
            states.append(call.call_id)
        return ""

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        for number, call_id in enumerate(("c1", "c2"), 1):
            await leg.event(number, "response.output_item.done", called(call_id, "wait"))
        await began.acquire()
        await began.acquire()
        notice = {"type": "parley.tool_cancelled", "call_id": "c1", "name": "wait", "reason": "timeout"}
        await leg.event(3, "parley.tool_cancelled", json.dumps(notice))
        async with asyncio.timeout(10):
            while not states:  # noqa: ASYNC110 - the handler tells nobody
                await asyncio.sleep(0.01)
        assert states == ["c1"]
        await leg.ended()

    async with media_server(script) as server:
        call = listening(server.address)
        call.on_tool("wait", wait)
        async with call:
            await asyncio.wait_for(call.wait_ended(), 10)
    assert states == ["c1", "c2"]


async def test_a_real_worker_takes_results_and_gives_up_what_takes_too_long() -> None:
    local = LocalProviderConfig(port=0, brain="tool_brain:ToolBrain", audio_speed=0)
    functions = [{"type": "function", "name": name, "parameters": {}} for name in ("quick", "stuck")]
    ended = asyncio.Event()

    async def stuck(call: ToolCall) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    async with serve(local) as provider, worker() as host:
        config = host.admit(
            provider.url,
            session={"type": "realtime", "tools": functions},
            tools=(ToolRoute("stuck", timeout=0.3),),
        )
        call = connect(resolve_address(host.app.media_address, f"ticket-{config.key.uid}"))
        call.on_tool("quick", lambda call: {"n": call.arguments["n"]})
        call.on_tool("stuck", stuck)
        async with call:
            content = [{"type": "input_text", "text": "use quick(5) stuck(6)"}]
            item = {"type": "message", "role": "user", "content": content}
            await call.send_event({"type": "conversation.item.create", "item": item})
            await call.send_event({"type": "response.create"})
            async with asyncio.timeout(20):
                async for event in call:
                    words = transcript_of(event) if isinstance(event, ConversationEvent) else None
                    if words and words.final and words.role == "assistant":
                        break
            assert ended.is_set()
    assert words
    assert 'quick={"n": "5"}' in words.text
    assert '"code":"timeout"' in words.text


# The examples


def example(name: str) -> ModuleType:
    return load_script(EXAMPLES / "tools" / f"{name}.py", f"example_{name}")


@asynccontextmanager
async def program(name: str, *arguments: str, **environment: str) -> AsyncIterator[str]:
    """A running example; gives its first line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "tools" / f"{name}.py"), *arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        yield line.decode().strip()
    finally:
        process.terminate()
        await process.wait()


CHAIN = """
rules:
  - match: seconds of sound
    call: {name: get_weather, arguments: {city: Graz}}
  - tool: get_weather
    match: '"temperature": 21'
    call: {name: get_order, arguments: {number: "42"}}
  - tool: get_order
    match: on its way
    call: {name: get_location}
  - tool: get_location
    say: You are at {result.place}.
"""


@pytest.mark.timeout(120)
async def test_the_examples_serve_one_conversation_together(tmp_path: Path) -> None:
    """The agent asks for the weather over NATS, the order by a webhook, the place from the caller."""
    time = np.arange(24000) / 24000
    write_wav(tmp_path / "q.wav", (np.sin(2 * math.pi * 440 * time) * 12000).astype(np.int16), 24000)
    (tmp_path / "brain.yaml").write_text(CHAIN)
    text = (EXAMPLES / "tools" / "session.yaml").read_text()
    key = (
        next(line for line in text.splitlines() if "signingKey" in line).split("signingKey: ")[1].strip("} ")
    )
    brain, port = f"script:{tmp_path / 'brain.yaml'}", free_port()
    async with (
        tones_stack(tmp_path / "run", brain=brain, nats_port=port) as stack,
        program("nats_tool", f"nats://127.0.0.1:{port}") as serving_weather,
        program("webhook", "0", PARLEY_TOOL_KEY=key) as serving_orders,
    ):
        assert serving_weather == "serving get_weather"
        url = serving_orders.rpartition(" ")[2]
        target = await stack.open_session(manifests(text.replace("http://127.0.0.1:8787/get_order", url)))
        said = await example("caller_tool").converse(target, str(tmp_path / "q.wav"), str(tmp_path / "a.wav"))
    assert said == "You are at gate 7."
