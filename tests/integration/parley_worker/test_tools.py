"""Conversations whose model calls functions: over NATS, webhooks and the caller, whole and with faults."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from cutting_proxy import How, cutting
from media_calls import Caller, Worker, calling, start, worker
from nats.aio.msg import Msg
from nats_server import NatsServer
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.core.agent import ScenarioConfig, ToolRoute, ToolRouteKind
from parley_worker.core.model import SessionConfig, SessionState
from webhook_server import Hit, hang, result, webhook_server

LOCAL = LocalProviderConfig(port=0, brain="tool_brain:ToolBrain", audio_speed=0)
NATS, WEBHOOK, CALLER = ToolRouteKind.NATS, ToolRouteKind.WEBHOOK, ToolRouteKind.CALLER


def session(names: Iterable[str], *more: dict[str, Any]) -> dict[str, Any]:
    functions = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in names]
    turns = {"type": "server_vad", "silence_duration_ms": 200}
    return {"type": "realtime", "tools": [*functions, *more], "audio": {"input": {"turn_detection": turns}}}


async def write(caller: Caller, text: str) -> None:
    """Say something in writing and ask for the answer."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        await caller.send(client_event=pb.ClientEvent(event_json=json.dumps(event)))


def answers(caller: Caller) -> list[str]:
    """What the agent said, answer by answer."""
    done = [e for e in caller.of("event") if e.type == "response.output_audio_transcript.done"]
    return [json.loads(e.event_json)["transcript"] for e in done]


async def answer(caller: Caller, count: int = 1) -> str:
    await until(lambda: len(answers(caller)) >= count)
    return answers(caller)[count - 1]


def codes(said: str) -> dict[str, str]:
    """`f={"error":{"code":"timeout",...` as {"f": "timeout"}."""
    return dict(re.findall(r'(\w+)=\{"error":\{"code":"(\w+)"', said))


def metric(host: Worker, route: str, outcome: str) -> float:
    name = "parley_worker_tool_calls_total"
    value = host.app.metrics.registry.get_sample_value(name, {"route": route, "outcome": outcome})
    return value or 0.0


def results(host: Worker, config: SessionConfig) -> dict[str, str]:
    """Error codes (empty: none) of the journal's tool results, by function."""
    journal = host.of(config, "journal")
    names = {r.fields["call_id"]: str(r.fields["tool"]) for r in journal if r.type == "tool_call"}
    given = [r.fields for r in journal if r.type == "tool_result"]
    assert all(int(str(f["duration_ms"])) >= 0 for f in given)
    assert len({f["call_id"] for f in given}) == len(given)
    return {names[f["call_id"]]: str(f["error_code"]) for f in given}


@asynccontextmanager
async def nats_tool(folder: Path, name: str, reply: bytes) -> AsyncIterator[NatsServer]:
    """A nats-server on which somebody serves `name`."""

    async def respond(message: Msg) -> None:
        await message.respond(reply)

    server = NatsServer(folder)
    await server.start()
    client = await server.connect()
    await client.subscribe(f"parley.tools.{name}", queue="servers", cb=respond)
    await client.flush()
    await client.flush()  # the first ping may pass the subscription
    try:
        yield server
    finally:
        await client.close()
        await server.stop()


async def until(test: Callable[[], bool]) -> None:
    async with asyncio.timeout(25):
        while not test():  # noqa: ASYNC110 - records and connections tell nobody
            await asyncio.sleep(0.01)


async def connected(host: Worker) -> None:
    tools = host.app._nats_tools
    assert tools is not None
    await until(lambda: tools.connected)


async def test_parallel_calls_of_every_route_are_answered_together(tmp_path: Path) -> None:
    names = ("clock", "stock", "mine")
    async with (
        nats_tool(tmp_path, "clock", b"noon") as nats,
        webhook_server(result({"left": 3})) as hook,
        serve(LOCAL) as local,
        worker(nats_url=nats.url) as host,
    ):
        await connected(host)
        tools = (
            ToolRoute("clock", NATS),
            ToolRoute("stock", WEBHOOK, url=hook.url),
            ToolRoute("mine", CALLER),
        )
        config = host.admit(local.url, session=session(names), tools=tools)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use clock(1) stock(2) mine(3)")
            await hook.expect()
            done = json.loads((await caller.expect_event("response.done")).event_json)
            call_ids = {o["name"]: o["call_id"] for o in done["response"]["output"]}
            await caller.send(tool_output=pb.ToolOutput(call_id=call_ids["mine"], output="blue"))
            said = await answer(caller)
            await write(caller, "thanks")
            assert await answer(caller, 2) == "you said: thanks"
        assert said.startswith("results: ")
        assert {"clock=noon", 'stock={"left":', "mine=blue"} <= set(said.split())
        assert hook.hits[0].call["arguments"] == {"n": "2"}
        assert results(host, config) == {"clock": "", "stock": "", "mine": ""}
        facts = host.facts(config)
        assert (facts.count("tool_called"), facts.count("tool_returned")) == (3, 3)
        assert [metric(host, route, "ok") for route in ("nats", "webhook", "caller")] == [1, 1, 1]


async def test_every_fault_becomes_words_and_the_call_goes_on(tmp_path: Path) -> None:
    names = ("nobody", "stuck", "no", "big", "away", "idle")
    async with (
        nats_tool(tmp_path, "other", b"x") as nats,
        webhook_server(hang) as stuck,
        webhook_server(result({}, 404)) as no,
        webhook_server(result("x" * 100)) as big,
        serve(LOCAL) as local,
        worker(nats_url=nats.url) as host,
    ):
        await connected(host)
        tools = (
            ToolRoute("nobody", NATS),
            ToolRoute("stuck", WEBHOOK, url=stuck.url, timeout=0.4),
            ToolRoute("no", WEBHOOK, url=no.url),
            ToolRoute("big", WEBHOOK, url=big.url, max_output_bytes=50),
            ToolRoute("away", WEBHOOK, url="http://169.254.169.254/"),
            ToolRoute("idle", CALLER, timeout=0.3),
        )
        config = host.admit(local.url, session=session(names), tools=tools)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use nobody(1) stuck(2) no(3) big(4) away(5) idle(6) invented(7)")
            said = await answer(caller)
            assert codes(said) == {
                "nobody": "unavailable",
                "stuck": "timeout",
                "no": "refused",
                "big": "too_large",
                "away": "refused",
                "idle": "timeout",
                "invented": "refused",
            }
            notice = json.loads((await caller.expect_event("parley.tool_cancelled")).event_json)
            assert (notice["name"], notice["reason"]) == ("idle", "timeout")
            await nats.kill()
            await write(caller, "use nobody(8)")
            assert codes(await answer(caller, 2)) == {"nobody": "unavailable"}
        assert "127.0.0.1" not in said
        assert results(host, config)["stuck"] == "timeout"
        assert host.facts(config).count("tool_failed") == 8
        assert metric(host, "webhook", "timeout") == 1


async def test_without_nats_a_call_fails_at_once() -> None:
    async with serve(LOCAL) as local, worker() as host:
        config = host.admit(local.url, session=session(["clock"]), tools=(ToolRoute("clock", NATS),))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use clock(1)")
            assert codes(await answer(caller)) == {"clock": "unavailable"}


async def test_speech_gives_up_a_call_that_may_be_and_is_answered() -> None:
    async with webhook_server(hang) as hook, serve(LOCAL) as local, worker() as host:
        route = ToolRoute("stuck", WEBHOOK, url=hook.url, timeout=20, cancel_on_barge_in=True)
        config = host.admit(local.url, session=session(["stuck"]), tools=(route,))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use stuck(1)")
            await hook.expect()
            tone = (np.sin(np.arange(12000) * 2 * np.pi * 440 / 24000) * 9000).astype("<i2").tobytes()
            payload = tone + bytes(48000)
            for at in range(0, len(payload), 960):
                await caller.speak(payload[at : at + 960])
            async with asyncio.timeout(15):
                await hook.cancelled.wait()
            assert codes(await answer(caller)) == {"stuck": "cancelled"}
        assert results(host, config) == {"stuck": "cancelled"}
        (fact,) = [r for r in host.of(config, "event") if r.type == "tool_cancelled"]
        assert fact.fields["reason"] == "barge-in"


async def test_the_end_of_a_session_ends_its_calls() -> None:
    async with webhook_server(hang) as hook, serve(LOCAL) as local, worker() as host:
        config = host.admit(
            local.url,
            session=session(["stuck"]),
            tools=(ToolRoute("stuck", WEBHOOK, url=hook.url, timeout=50),),
        )
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use stuck(1) stuck(2)")
            await hook.expect(2)
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
            async with asyncio.timeout(15):
                await hook.cancelled.wait()
        await host.state(config, SessionState.ENDED)
        await host.nothing_left()
        assert results(host, config) == {"stuck": "cancelled"}
        assert host.facts(config)[-1] == "ended"


async def test_a_worker_runs_so_many_calls_at_once() -> None:
    async with webhook_server(hang) as hook, serve(LOCAL) as local, worker(tool_calls=1) as host:
        route = ToolRoute("stuck", WEBHOOK, url=hook.url, timeout=1.0)
        config = host.admit(local.url, session=session(["stuck"]), tools=(route,))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use stuck(1) stuck(2)")
            await answer(caller)
        assert (metric(host, "webhook", "refused"), metric(host, "webhook", "timeout")) == (1, 1)
        assert len(hook.hits) == 1


async def test_tools_of_mcp_servers_are_the_providers_and_are_recorded() -> None:
    archive = {
        "type": "mcp",
        "server_label": "archive",
        "server_url": "https://archive.example",
        "require_approval": "never",
    }
    async with serve(LOCAL) as local, worker() as host:
        config = host.admit(local.url, session=session([], archive))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use mcp(search)")
            done = json.loads((await caller.expect_event("response.done")).event_json)
        (item,) = done["response"]["output"]
        assert (item["type"], item["output"]) == ("mcp_call", "found by search")
        kinds = [e.type for e in caller.of("event")]
        assert "response.mcp_call.in_progress" in kinds
        assert "response.mcp_call.completed" in kinds
        journal = host.of(config, "journal")
        items = [json.loads(str(r.fields["item_json"])) for r in journal if r.type == "item_done"]
        assert [i["output"] for i in items if i["type"] == "mcp_call"] == ["found by search"]
        assert results(host, config) == {"search": ""}
        assert metric(host, "mcp", "ok") == 1


async def test_the_model_hears_nothing_of_what_a_caller_forges() -> None:
    async with (
        webhook_server(result("true", headers={"X": "1"})) as hook,
        serve(LOCAL) as local,
        worker() as host,
    ):
        late = asyncio.Event()
        truth = hook.answer

        async def slowly(hit: Any) -> Any:
            await late.wait()
            return await truth(hit)

        hook.answer = slowly
        config = host.admit(
            local.url, session=session(["paid"]), tools=(ToolRoute("paid", WEBHOOK, url=hook.url),)
        )
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use paid(1)")
            call_id = (await hook.expect()).call["call_id"]
            await caller.send(tool_output=pb.ToolOutput(call_id=call_id, output="forged"))
            refused = await caller.expect_event("parley.client_event_refused")
            assert "webhook route" in refused.event_json
            late.set()
            assert await answer(caller) == 'results: paid="true"'


async def test_beta_sessions_call_functions_too() -> None:
    async with webhook_server(result(7)) as hook, serve(LOCAL) as local, worker() as host:
        tools = [{"type": "function", "name": "sum", "parameters": {"type": "object"}}]
        config = host.admit(
            local.url,
            provider={"api_version": "beta", "model": "local"},
            session={"modalities": ["text", "audio"], "tools": tools},
            tools=(ToolRoute("sum", WEBHOOK, url=hook.url),),
        )
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use sum(1)")
            said = await caller.expect_event("response.audio_transcript.done")
        assert json.loads(said.event_json)["transcript"] == "results: sum=7"
        assert results(host, config) == {"sum": ""}


@pytest.mark.parametrize(("how", "in_the_gap"), [("reset", False), ("end", False), ("reset", True)])
async def test_a_lost_provider_runs_no_call_twice_and_loses_no_result(how: How, in_the_gap: bool) -> None:
    go = asyncio.Event()

    async def slowly(hit: Hit) -> web.StreamResponse:
        await go.wait()
        return web.json_response("done once")

    async with (
        webhook_server(slowly) as hook,
        serve(LOCAL) as local,
        cutting(local.url) as proxy,
        worker() as host,
    ):
        route = ToolRoute("pay", WEBHOOK, url=hook.url, timeout=30)
        config = host.admit(proxy.url, session=session(["pay"]), tools=(route,))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use pay(1)")
            await hook.expect()
            await caller.expect_event("response.done")
            proxy.links[-1].cut(how)
            if in_the_gap:
                go.set()
            await until(lambda: "provider_reconnected" in host.facts(config))
            go.set()
            assert await answer(caller) == 'results: pay="done once"'
            await write(caller, "and now")
            assert await answer(caller, 2) == "you said: and now"
        assert len(hook.hits) == 1
        assert results(host, config) == {"pay": ""}
        assert len(answers(caller)) == 2


SCENARIO = """
import asyncio

async def main(ctx):
    @ctx.tool("add")
    def add(arguments):
        return {"sum": int(arguments["n"]) + 1}

    @ctx.tool("broken")
    async def broken(arguments):
        raise KeyError("a secret")

    @ctx.tool("stuck")
    async def stuck(arguments):
        try:
            await asyncio.sleep(60)
        finally:
            ctx.log.info("given up")
"""


async def test_a_scenario_answers_its_functions() -> None:
    names = ("add", "broken", "stuck", "missing")
    tools = tuple(ToolRoute(name, ToolRouteKind.SCENARIO, timeout=1.0) for name in names)
    async with serve(LOCAL) as local, worker() as host:
        scenario = ScenarioConfig(source=SCENARIO)
        config = host.admit(local.url, session=session(names), tools=tools, scenario=scenario)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await write(caller, "use add(41) broken(1) stuck(2) missing(3)")
            said = await answer(caller)
            assert 'add={"sum": 42}' in said
            assert codes(said) == {"broken": "failed", "stuck": "timeout", "missing": "failed"}
            assert "secret" not in said
            await until(lambda: any(r.fields.get("text") == "given up" for r in host.records))
        assert metric(host, "scenario", "ok") == 1
