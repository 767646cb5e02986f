"""Scenarios in processes of their own, in a real worker with the local provider."""

from __future__ import annotations

import asyncio
import textwrap
from typing import Any

from media_calls import Worker, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.core.agent import ScenarioConfig
from parley_worker.core.model import SessionConfig, SessionReport, SessionState

LOCAL = LocalProviderConfig(port=0)
SESSION = {"type": "realtime", "output_modalities": ["audio"]}


def source(code: str, **fields: Any) -> ScenarioConfig:
    head = "import asyncio\nfrom parley_scenario import *\n"
    return ScenarioConfig(source=head + textwrap.dedent(code), file_name="scenario.py", **fields)


def admit(host: Worker, url: str, scenario: ScenarioConfig, **changes: Any) -> SessionConfig:
    changes.setdefault("session", SESSION)
    return host.admit(url, provider={"model": "local"}, scenario=scenario, **changes)


def logged(host: Worker, config: SessionConfig) -> list[str]:
    return [str(r.fields["text"]) for r in host.of(config, "journal") if r.type == "scenario_log"]


async def until_logged(host: Worker, config: SessionConfig, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in logged(host, config):  # noqa: ASYNC110 - records have no event to wait for
            await asyncio.sleep(0.02)


async def over(host: Worker, config: SessionConfig) -> SessionReport:
    return await host.state(config, SessionState.ENDED)


async def test_a_scenario_greets_hears_keys_and_ends_the_call() -> None:
    code = """
    async def main(ctx):
        async def connected(event):
            ctx.spawn(talk())
        async def talk():
            ctx.log.info("said", await ctx.say("Press two keys."))
            ctx.log.info("keys", await ctx.caller.collect_digits(2, timeout=5))
            ctx.log.info("said", await ctx.say("Thank you."))
            ctx.terminate("done")
        ctx.caller.add_event_listener(CallEvents.Connected, connected)
        ctx.client.add_event_listener(
            RealtimeAPIEvents.ResponseDone, lambda e: ctx.log.debug(e.data["payload"]["response"]["status"])
        )
        ctx.on_terminating(lambda event: print("last words", event.data["reason"]))
        ctx.log.info(ctx.session.name, dict(ctx.parameters))
    """
    async with serve(LOCAL) as local, worker() as host:
        config = admit(host, local.url, source(code, parameters={"language": "en"}))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await until_logged(host, config, "said heard")
            for digit in "42":
                await caller.send(dtmf=pb.Dtmf(digit=digit, duration_ms=100))
            ended = await caller.expect("ended")
        assert (ended.reason, ended.message) == ("ScenarioCompleted", "the scenario has ended: done")
        log = logged(host, config)
        assert log[0] == f"{config.key.name} {{'language': 'en'}}"
        assert [line for line in log if line.startswith(("said", "keys"))] == [
            "said heard",
            "keys 42",
            "said heard",
        ]
        assert log.count("completed") == 2
        assert "scenario_started" in host.facts(config)
        await host.nothing_left()


async def test_a_scenario_that_fails_ends_its_session_with_the_line() -> None:
    code = """
    async def main(ctx):
        ctx.caller.add_event_listener(CallEvents.Connected, broken)
    def broken(event):
        raise ValueError("too bad")
    """
    async with serve(LOCAL) as local, worker() as host:
        config = admit(host, local.url, source(code))
        async with calling(host, start(config)) as caller:
            ended = await caller.expect("ended")
        assert ended.reason == "ScenarioFailed"
        assert ended.message == "scenario.py:7: ValueError: too bad"
        (fact,) = [r for r in host.of(config, "event") if r.type == "scenario_failed"]
        assert fact.fields["message"] == "scenario.py:7: ValueError"
        await host.nothing_left()
