"""Scenarios in processes of their own, in a real worker with the local provider."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from cutting_proxy import cutting
from media_calls import Caller, Worker, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.core.agent import MediaAccess, ScenarioConfig, ToolRoute, ToolRouteKind
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


EVENTS = """
async def main(ctx):
    def log(event):
        data = event.data
        kind = data.get("payload", {}).get("type", "")
        ctx.log.info(event.name, kind, sorted(data), event.client is ctx.client)
    names = BETA if ctx.parameters["beta"] else GA
    for event in names:
        ctx.client.add_event_listener(event, log)
    async def connected(event):
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        if ctx.parameters["beta"]:
            ctx.client.conversation_item_create(None, item)
            ctx.client.response_create({"instructions": "be short"})
        else:
            ctx.client.conversation_item_create({"item": item})
            ctx.client.response_create({"response": {"instructions": "be short"}})
        ctx.log.info(bool(ctx.client.id()), bool(ctx.client.web_socket_id()))
    ctx.caller.add_event_listener(CallEvents.Connected, connected)
    ended = BetaEvents.WebSocketMediaEnded if ctx.parameters["beta"] else Events.WebSocketMediaEnded
    ctx.client.add_event_listener(ended, lambda e: ctx.set_timeout(lambda: ctx.caller.hangup(), 0.1))
GA = [RealtimeAPIEvents.ConversationItemDone, RealtimeAPIEvents.ResponseDone]
GA += [Events.WebSocketMediaStarted, Events.WebSocketMediaEnded]
BETA = [BetaRealtimeAPIEvents.ConversationItemCreated, BetaRealtimeAPIEvents.ResponseDone]
BETA += [BetaEvents.WebSocketMediaStarted, BetaEvents.WebSocketMediaEnded]
"""


@pytest.mark.parametrize("api_version", ["ga", "beta"])
async def test_the_client_of_a_scenario_has_the_methods_and_events_of_its_shape(api_version: str) -> None:
    beta = api_version == "beta"
    scenario = source(EVENTS, parameters={"beta": beta})
    session = {"modalities": ["text", "audio"]} if beta else SESSION
    async with serve(LOCAL) as local, worker() as host:
        provider = {"model": "local", "api_version": api_version}
        config = host.admit(local.url, provider=provider, scenario=scenario, session=session)
        async with calling(host, start(config)) as caller:
            ended = await caller.expect("ended")
            assert ended.reason == "AgentHangup", ended.message
        log = logged(host, config)
        prefix = "OpenAI.Beta." if beta else "OpenAI."
        item = "RealtimeAPI.ConversationItemCreated" if beta else "RealtimeAPI.ConversationItemDone"
        kind = "conversation.item.created" if beta else "conversation.item.done"
        assert f"{prefix}{item} {kind} ['payload'] True" in log
        assert f"{prefix}RealtimeAPI.ResponseDone response.done ['payload'] True" in log
        assert f"{prefix}Events.WebSocketMediaStarted  ['custom_parameters', 'encoding', 'tag'] True" in log
        assert f"{prefix}Events.WebSocketMediaEnded  ['media_info', 'tag'] True" in log
        assert "True True" in log


async def test_tools_of_a_scenario_answer_the_model_and_their_errors_cost_no_call() -> None:
    code = """
    async def main(ctx):
        @ctx.tool("weather")
        async def weather(arguments):
            await asyncio.sleep(0.01)
            return {"sky": "clear", "city": arguments["city"]}
        @ctx.tool("broken")
        def broken(arguments):
            raise RuntimeError("inside")
    """
    rules = [
        {"match": "weather", "call": {"name": "weather", "arguments": {"city": "Rome"}}},
        {"match": "broken", "call": {"name": "broken"}},
        {"match": "nothing", "call": {"name": "nothing"}},
        {"tool": "weather", "say": "In {result.city} it is {result.sky}."},
        {"tool": "broken", "match": "error", "say": "That failed."},
        {"tool": "nothing", "match": "error", "say": "That is not there."},
    ]
    names = ("weather", "broken", "nothing")
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in names]
    routes = tuple(ToolRoute(name, ToolRouteKind.SCENARIO, timeout=5.0) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "brain.yaml"
        file.write_text(json.dumps({"rules": rules}))
        local_config = LocalProviderConfig(port=0, brain=f"script:{file}")
        async with serve(local_config) as local, worker() as host:
            session = {**SESSION, "tools": tools}
            config = admit(host, local.url, source(code), session=session, tools=routes)
            async with calling(host, start(config)) as caller:
                await caller.expect("started")
                for number, name in enumerate(names, 1):
                    content = [{"type": "input_text", "text": name}]
                    item = {"type": "message", "role": "user", "content": content}
                    for event in (
                        {"type": "conversation.item.create", "item": item},
                        {"type": "response.create"},
                    ):
                        await caller.send(client_event=pb.ClientEvent(event_json=json.dumps(event)))
                    await said(caller, number)
                await caller.send(hangup=pb.Hangup())
                await caller.expect("ended")
            words = [json.loads(e.event_json)["transcript"] for e in transcripts(caller)]
            assert words == ["In Rome it is clear.", "That failed.", "That is not there."]
            assert logged(host, config) == ["tool broken: scenario.py:11: RuntimeError: inside"]


def transcripts(caller: Caller) -> list[Any]:
    return [e for e in caller.of("event") if e.type == "response.output_audio_transcript.done"]


async def said(caller: Caller, count: int) -> None:
    async with asyncio.timeout(20):
        while len(transcripts(caller)) < count:  # noqa: ASYNC110 - events are kept, not announced
            await asyncio.sleep(0.02)


async def test_lines_are_interrupted_dropped_and_transferred_calls_end() -> None:
    code = """
    async def main(ctx):
        async def talk():
            words = ctx.say("a rather long line that nobody hears to its end because somebody talks")
            ctx.log.info("line", await words)
            ctx.caller.transfer("+15550100", note="please")
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.spawn(talk()))
        ctx.caller.add_event_listener(CallEvents.Disconnected, lambda event: None)
    """
    async with serve(LOCAL) as local, worker() as host:
        config = admit(host, local.url, source(code))
        async with calling(host, start(config)) as caller:
            await caller.expect("audio", 5)
            await caller.send(clear=pb.ClearRequest())
            moved = await caller.expect("transfer")
            assert (moved.target, moved.note) == ("+15550100", "please")
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        assert logged(host, config) == ["line interrupted"]
        assert "transferred" in host.facts(config)


async def test_http_of_a_scenario_keeps_to_its_hosts_and_sizes() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/big":
            return web.Response(text="x" * 3_000_000)
        if request.path == "/away":
            raise web.HTTPFound("http://elsewhere.example/")
        return web.json_response({"got": await request.text(), "how": request.method})

    code = """
    async def main(ctx):
        base = ctx.parameters["base"]
        async def ask(url, body=None):
            try:
                answer = await (ctx.http.post(url, body) if body else ctx.http.get(url, timeout=3))
                ctx.log.info(answer.status, answer.json() if answer.ok else answer.headers["Location"])
            except HttpError as error:
                ctx.log.info(error)
        async def ask_all():
            await ask(base + "/")
            await ask(base + "/", {"a": 1})
            await ask(base + "/away")
            for url in ("/big", "http://example.com/", "http://169.254.169.254/", "file:///etc/passwd"):
                await ask(url if "://" in url else base + url)
            ctx.terminate()
        ctx.add_event_listener(AppEvents.Started, lambda event: ctx.spawn(ask_all()))
    """
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with serve(LOCAL) as local, worker() as host:
            access = MediaAccess(hosts=("127.0.0.1", "169.254.169.254:80"))
            config = admit(host, local.url, source(code, parameters={"base": base}), media_access=access)
            assert (await over(host, config)).end_reason == "ScenarioCompleted"
            assert logged(host, config) == [
                "200 {'got': '', 'how': 'GET'}",
                "200 {'got': '{\"a\": 1}', 'how': 'POST'}",
                "302 http://elsewhere.example/",
                "host '127.0.0.1' answered more than 2097152 bytes",
                "host 'example.com' is not allowed: the pool lists hosts in media.allowedHosts",
                "host '169.254.169.254' leads to an address that is refused",
                "the url must be http or https, with a host",
            ]
    finally:
        await runner.cleanup()


async def test_under_privacy_nothing_that_a_scenario_says_leaves_it(caplog: pytest.LogCaptureFixture) -> None:
    code = """
    async def main(ctx):
        ctx.log.info("canary one")
        print("canary two")
        ctx.set_timeout(fail, 0.05)
    def fail():
        raise ValueError("canary three")
    """
    caplog.set_level(logging.DEBUG)
    async with serve(LOCAL) as local, worker() as host:
        config = admit(host, local.url, source(code), privacy=True)
        report = await over(host, config)
        assert report.end_message == "scenario.py:9: ValueError"
        assert host.of(config, "journal") == []
        assert "canary" not in caplog.text + repr([dict(r.fields) for r in host.records])


async def test_players_are_ordered_by_scenarios(tmp_path: Path) -> None:
    import soundfile

    wave = (np.sin(np.arange(12_000) * 0.1) * 9000).astype(np.int16)
    await asyncio.to_thread(soundfile.write, tmp_path / "beep.wav", wave, 24_000)
    code = """
    async def main(ctx):
        async def play():
            player = ctx.create_player(ctx.parameters["file"])
            for event in PlayerEvents:
                player.add_event_listener(event, lambda e: ctx.log.info(e.name, e.data.get("message", "")))
            player.send_media_to(ctx.caller)
            ctx.log.info("finished", await player.finished(10))
            other = ctx.create_player("/etc/passwd")
            failed = await other.next(PlayerEvents.Error, 5)
            ctx.log.info(failed.data["message"])
            ctx.caller.hangup(after_speech=True)
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.spawn(play()))
    """
    async with serve(LOCAL) as local, worker() as host:
        access = MediaAccess(directories=(str(tmp_path),))
        scenario = source(code, parameters={"file": str(tmp_path / "beep.wav")})
        config = admit(host, local.url, scenario, media_access=access)
        async with calling(host, start(config)) as caller:
            ended = await caller.expect("ended")
            assert ended.reason == "AgentHangup", ended.message
            assert len(caller.audio()) >= 20_000
        log = logged(host, config)
        assert "finished True" in log
        assert "Player.Started " in log
        assert log[-1] == "file '/etc/passwd' lies in no allowed directory of media"


async def test_an_entry_point_of_the_image_runs_with_the_network(tmp_path: Path) -> None:
    module = "import socket\nasync def main(ctx):\n    socket.socket().close()\n    ctx.terminate('fine')\n"
    (tmp_path / "my_scenario.py").write_text(module)
    async with serve(LOCAL) as local, worker(scenario_paths=(str(tmp_path),)) as host:
        config = admit(host, local.url, ScenarioConfig(entry_point="my_scenario:main"))
        assert (await over(host, config)).end_message == "the scenario has ended: fine"


async def test_code_of_the_image_reads_no_key_of_its_worker(tmp_path: Path) -> None:
    module = """
def end_of(name):
    try:
        return open(name).read()
    except OSError as error:
        return type(error).__name__
async def main(ctx):
    ctx.terminate(" ".join(map(end_of, ctx.parameters["names"])))
"""
    modules, keys = tmp_path / "modules", tmp_path / "keys"
    modules.mkdir()
    keys.mkdir()
    (modules / "reader.py").write_text(module)
    (keys / "nats.creds").write_text("secret")
    (keys / "other").write_text("fine")
    parameters = {"names": [str(keys / "nats.creds"), str(keys / "other")]}
    settings: dict[str, Any] = {"scenario_paths": (str(modules),), "nats_creds": keys / "nats.creds"}
    async with serve(LOCAL) as local, worker(**settings) as host:
        config = admit(host, local.url, ScenarioConfig(entry_point="reader:main", parameters=parameters))
        assert (await over(host, config)).end_message == "the scenario has ended: PermissionError fine"


async def test_a_scenario_goes_on_when_the_web_socket_of_its_provider_is_cut() -> None:
    code = """
    async def main(ctx):
        before = []
        async def talk():
            ctx.log.info("first", await ctx.say("One."))
            before.append(ctx.client.web_socket_id())
            ctx.log.info("cut me")
        async def again(event):
            ctx.log.info(event.data["cause"], ctx.client.web_socket_id() != before[0])
            ctx.spawn(last())
        async def last():
            ctx.log.info("second", await ctx.say("Two."))
            ctx.terminate()
        ctx.add_event_listener(AppEvents.Reconnected, again)
        ctx.add_event_listener(AppEvents.Reconnecting, lambda event: ctx.log.info("gone"))
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.spawn(talk()))
    """
    session = {**SESSION, "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    async with serve(LOCAL) as local, cutting(local.url) as proxy, worker() as host:
        config = admit(host, proxy.url, source(code), session=session)
        async with calling(host, start(config)) as caller:
            await until_logged(host, config, "cut me")
            proxy.cut()
            ended = await caller.expect("ended")
            assert ended.reason == "ScenarioCompleted", ended.message
        log = logged(host, config)
        assert log[0] == "first heard"
        assert log[-3:] == ["gone", "lost True", "second heard"]
        await host.nothing_left()
