"""The NATS route against a real nats-server: whoever subscribes serves, in whatever state the server is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_server import NatsServer
from parley_worker.clock import SystemClock
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import SessionKey
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.transport.nats_connection import ConnectionSettings
from parley_worker.transport.nats_tools import NatsTools
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest

SESSION = SessionKey("calls", "first-call", "uid-7", 2)


def request(
    name: str = "weather", arguments: str = '{"city": "Graz"}', call_id: str = "call_1"
) -> ToolRequest:
    clock, route = SystemClock(), ToolRoute(name, ToolRouteKind.NATS, max_output_bytes=1000)
    return ToolRequest(SESSION, call_id, name, arguments, route, clock.monotonic() + 10, clock.wall() + 10)


@asynccontextmanager
async def tools(url: str) -> AsyncIterator[NatsTools]:
    """The route, once it had time to connect (where it can)."""
    route = NatsTools(ConnectionSettings(url, retry_min=0.02, retry_max=0.05))
    running = asyncio.create_task(route.run())
    try:
        yield route
    finally:
        running.cancel()
        await asyncio.wait([running])


async def connected(route: NatsTools, state: bool = True) -> None:
    async with asyncio.timeout(20):
        while route.connected is not state:  # noqa: ASYNC110 - its task tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def nats_server(folder: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def serving(
    server: NatsServer, answer: Callable[[Msg], Awaitable[None]], name: str = "weather"
) -> AsyncIterator[Client]:
    """Somebody who serves the tool, in any language's way: a queue group on the subject."""
    client = await server.connect()
    try:
        await client.subscribe(f"parley.tools.{name}", queue="servers", cb=answer)
        await client.flush()
        await client.flush()  # the first ping may pass the subscription
        yield client
    finally:
        await client.close()


async def problem_of(route: NatsTools, call: ToolRequest) -> ToolProblem:
    with pytest.raises(ToolCallFailed) as failed:
        await route.call(call)
    return failed.value.problem


async def test_a_call_names_its_session_and_one_of_a_group_answers(tmp_path: Path) -> None:
    seen: list[Msg] = []

    async def answer(message: Msg) -> None:
        seen.append(message)
        await message.respond(b'{"sky": "clear"}')

    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        async with serving(server, answer), serving(server, answer):
            assert await route.call(request()) == '{"sky": "clear"}'
    assert [json.loads(m.data) for m in seen] == [{"city": "Graz"}]
    headers = seen[0].headers or {}
    assert headers["Nats-Msg-Id"] == "uid-7.2.call_1"
    assert headers["Parley-Session-Uid"] == "uid-7"
    assert (headers["Parley-Namespace"], headers["Parley-Session"]) == ("calls", "first-call")
    assert (headers["Parley-Attempt"], headers["Parley-Call-Id"]) == ("2", "call_1")
    assert headers["Parley-Deadline"].endswith("Z")
    assert headers["Parley-Timeout-Ms"] == "10000"


async def test_many_calls_at_once_get_their_own_results(tmp_path: Path) -> None:
    async def answer(message: Msg) -> None:
        number = json.loads(message.data)["n"]

        async def later() -> None:
            await asyncio.sleep((50 - number) / 1000)
            await message.respond(str(number).encode())

        late.append(asyncio.create_task(later()))

    late: list[asyncio.Task[None]] = []
    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        async with serving(server, answer):
            calls = [route.call(request(arguments=json.dumps({"n": n}), call_id=f"c{n}")) for n in range(50)]
            assert await asyncio.gather(*calls) == [str(n) for n in range(50)]


@pytest.mark.parametrize(
    ("data", "headers", "code", "says"),
    [
        (
            b"",
            {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such city"},
            "failed",
            "no such city",
        ),
        (b"", {"Nats-Service-Error-Code": "500"}, "failed", "no reason"),
        (b"x" * 1001, {}, "too_large", "1001 bytes; at most 1000"),
        (b"\xff", {}, "invalid_result", "not text"),
        (b"{", {"Content-Type": "application/json"}, "invalid_result", "not JSON"),
    ],
)
async def test_errors_of_the_tool(
    tmp_path: Path, data: bytes, headers: dict[str, str], code: str, says: str
) -> None:
    async def answer(message: Msg) -> None:
        assert message.reply
        await clients[0].publish(message.reply, data, headers=headers)

    clients: list[Client] = []
    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        async with serving(server, answer) as client:
            clients.append(client)
            problem = await problem_of(route, request())
    assert str(problem.code) == code
    assert says in problem.message


async def test_nobody_serves_it(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        began = time.monotonic()
        problem = await problem_of(route, request())
        assert time.monotonic() - began < 5
    assert problem == ToolProblem(ToolCode.UNAVAILABLE, "nobody serves 'weather' at the moment")


@pytest.mark.parametrize("name", ["a.b", "*", ">", "", "a b"])
async def test_names_that_are_no_subject_are_refused(tmp_path: Path, name: str) -> None:
    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        assert (await problem_of(route, request(name))).code is ToolCode.REFUSED


async def test_nats_down_fails_at_once_and_back_again_works(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(message: Msg) -> None:
        asked.set()

    async def answer(message: Msg) -> None:
        await message.respond(b"back")

    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        async with serving(server, never):
            calling = asyncio.create_task(problem_of(route, request()))
            await asyncio.wait_for(asked.wait(), 10)
            await server.kill()
            lost = await asyncio.wait_for(calling, 10)
        assert lost.code is ToolCode.UNAVAILABLE
        await connected(route, False)
        assert (await problem_of(route, request())).code is ToolCode.UNAVAILABLE
        await server.start()
        await connected(route)
        async with serving(server, answer):
            assert await route.call(request()) == "back"


async def test_a_cancelled_call_leaves_nothing_behind(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(message: Msg) -> None:
        asked.set()

    async with nats_server(tmp_path) as server, tools(server.url) as route:
        await connected(route)
        async with serving(server, never):
            calling = asyncio.create_task(route.call(request()))
            await asyncio.wait_for(asked.wait(), 10)
            calling.cancel()
            await asyncio.wait([calling])
            assert calling.cancelled()
            assert route._replies is not None
            assert route._replies._waiting == {}
