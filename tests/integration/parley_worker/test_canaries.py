"""Words that may be nowhere: keys and tickets never, what was said not under privacy, however calls fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import web
from media_calls import Worker, calling, start, worker
from parley_worker.config import Address
from parley_worker.core.agent import (
    MediaAccess,
    RecordingConfig,
    ScenarioConfig,
    ToolRoute,
    ToolRouteKind,
)
from parley_worker.core.model import EndReason, Secret, SessionConfig, SessionState
from prometheus_client import generate_latest
from provider_script import Socket, scripted
from twilio_side import TwilioCall
from webhook_server import Hit, webhook_server
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

KEY, SIGNING = "canary-provider-key-1234", "canary-signing-key-1234"
S3_ID, S3_KEY = "CANARYACCESSKEY1234", "canary-store-key-1234"
SECRETS = (KEY, SIGNING, S3_ID, S3_KEY, "ticket-uid-")
SAID = "xylophone"
"""Stands in everything that is said, called, answered and thrown."""


def shown(host: Worker, config: SessionConfig, caplog: pytest.LogCaptureFixture) -> str:
    """Everything that leaves the worker beside the caller's stream."""
    formatter = logging.Formatter("%(name)s %(message)s")
    logs = [formatter.format(record) for record in caplog.records]
    records = [repr((r.type, r.fields)) for r in host.records]
    metrics = generate_latest(host.app.metrics.registry).decode()
    return "\n".join([*logs, *records, repr(host.report(config)), metrics])


async def until_fact(host: Worker, config: SessionConfig, *names: str) -> None:
    """Wait for an event of one of those types."""
    await host.until(config, lambda _: not {r.type for r in host.of(config, "event")}.isdisjoint(names))


def plain(value: Any) -> str:
    """A configuration as some careless `repr` would show it."""
    if is_dataclass(value):
        return " ".join(plain(getattr(value, f.name)) for f in fields(value) if f.repr) + repr(value)
    return repr(value)


def secret_config(host: Worker, url: str, hook: str, **changes: Any) -> SessionConfig:
    tool = ToolRoute("look_up", ToolRouteKind.WEBHOOK, 2.0, hook, Secret(SIGNING), retries=1)
    store = RecordingConfig(
        s3_url="s3://nowhere", s3_endpoint="http://127.0.0.1:9",
        s3_access_key=Secret(S3_ID), s3_secret_key=Secret(S3_KEY),
    )  # fmt: skip
    given = {"provider": {"api_key": Secret(KEY)}, "tools": (tool,), "recording": store, "trace": True}
    return host.admit(url, **(given | changes))


async def echo(hit: Hit) -> web.Response:
    """A careless server: its error repeats what it was sent."""
    words = " ".join(f"{name}: {value}" for name, value in hit.headers.items())
    return web.json_response({"error": {"message": f"{words} {SAID}"}}, status=400)


async def call_tool(socket: Socket) -> None:
    call = {"type": "function_call", "id": "f", "call_id": "c1", "name": "look_up", "status": "completed"}
    call["arguments"] = json.dumps({"word": SAID})
    item = {"response_id": "r1", "output_index": 0}
    await socket.send("response.created", response={"id": "r1", "status": "in_progress", "output": []})
    await socket.send("response.output_item.added", **item, item={**call, "status": "in_progress"})
    await socket.send("response.output_item.done", **item, item=call)
    await socket.send("response.done", response={"id": "r1", "status": "completed", "output": [call]})
    await socket.expect("conversation.item.create")


async def talk(socket: Socket) -> None:
    await socket.greet(note=SAID)
    await call_tool(socket)
    done = "conversation.item.input_audio_transcription.completed"
    await socket.send(done, item_id="u", content_index=0, transcript=f"my word is {SAID}")
    await socket.say(bytes(4800), "r2", f"item-{SAID}")
    await asyncio.sleep(0.5)  # the caller attaches, before any of the ends that follow
    error = {"type": "invalid_request_error", "code": "bad", "message": f"{SAID}: key {KEY} is wrong"}
    await socket.send("error", error=error)


async def close_with_words(socket: Socket) -> None:
    await talk(socket)
    await socket.connection.close(1008, f"{KEY} {SAID}")


async def send_garbage(socket: Socket) -> None:
    await talk(socket)
    await socket.connection.send(f"{KEY} {SAID} is no JSON")
    await socket.connection.send(json.dumps({"type": f"new.{SAID}.{KEY}", "x": f"{KEY} {SAID}"}))
    await asyncio.sleep(0.2)
    await socket.connection.close(1011, f"{KEY} {SAID}")


async def end_fatally(socket: Socket) -> None:
    await talk(socket)
    message = f"Incorrect API key provided: {KEY}. You said {SAID}."
    await socket.send(
        "error", error={"type": "invalid_request_error", "code": "invalid_api_key", "message": message}
    )
    await socket.connection.close(3000, "invalid_request_error")


@pytest.mark.parametrize("privacy", [False, True])
@pytest.mark.parametrize("way", [close_with_words, send_garbage, end_fatally])
async def test_no_secret_leaves_by_a_call_that_fails(
    way: Callable[[Socket], Any], privacy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "parley_worker")
    caplog.set_level(logging.DEBUG, "parley_realtime")
    async with scripted(way) as script, webhook_server(echo) as hook, worker() as host:
        changes: dict[str, Any] = {"privacy": True, "recording": None, "trace": False} if privacy else {}
        config = secret_config(host, script.url, hook.url, **changes)
        assert not any(secret in plain(config) for secret in SECRETS[:-1])
        async with calling(host, start(config)) as caller:
            resume = (await caller.expect("started")).resume_token
            await until_fact(host, config, "tool_returned", "tool_failed")
            await asyncio.sleep(0.5)
            await caller.stream.done_writing()
            host.app.registry.terminate(config.key, EndReason.TERMINATED, "done")
            await host.state(config, SessionState.ENDED)
        text = shown(host, config, caplog)
        assert [secret for secret in (*SECRETS, resume) if secret in text] == []
        assert (SAID in text) is not privacy


async def test_no_secret_leaves_by_a_refused_handshake(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parley_worker")

    def refuse(connection: ServerConnection, request: Request) -> Response:
        words = f"{request.headers.get('Authorization')} {request.path} {SAID}".encode()
        return Response(HTTPStatus.UNAUTHORIZED, "no", Headers({"Content-Length": str(len(words))}), words)

    async def never(connection: ServerConnection) -> None: ...

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server, worker() as host:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        config = secret_config(host, url, "http://127.0.0.1:9/", recording=None)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_message
        text = shown(host, config, caplog)
        assert [secret for secret in SECRETS if secret in text] == []


async def test_no_ticket_of_a_path_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(talk) as script, worker(telephony_address=Address("127.0.0.1", 0)) as host:
        config = host.admit(script.url, provider_audio="g711_ulaw")
        url = host.app.endpoint.telephony
        for ticket in (f"ticket-{config.key.uid}", "canary-wrong-ticket"):
            async with TwilioCall(f"{url}/{ticket}", parameters={}) as phone:
                await asyncio.sleep(0.2)
                with contextlib.suppress(ConnectionClosed):
                    await phone.stop()
        caplog.handler.records[:] = [r for r in caplog.records if not r.name.startswith("websockets.client")]
        text = shown(host, config, caplog)
        assert "canary-wrong-ticket" not in text
        assert f"ticket-{config.key.uid}" not in text


SCENARIO = f"""
async def main(ctx):
    ctx.log.info("{SAID}")
    print("{SAID}")
    ctx.caller.transfer("tel:1", "{SAID}")
    @ctx.tool("look_up")
    def look_up(arguments):
        raise KeyError(arguments["word"])
    ctx.add_event_listener(AppEvents.Started, started)
def started(event):
    event.target
    {{}}
"""
FAULTS = {
    "raised": (f"raise KeyError('{SAID}')", "scenario.py:13: KeyError$"),
    "an event": (
        f"event.target.client.send_event({{'type': '{SAID}'}})",
        "InvalidEventError: type '...' is not allowed",
    ),
    "a line": (f"event.target.say('{SAID} ' * 10_000)", "say: .*at most 10000"),
    "a field": (f"event.target.client.conversation_item_create({{'item': '{SAID}'}})", "done"),
    "an end": (f"event.target.terminate('{SAID}')", "the scenario has ended$"),
    "a player": (
        f"event.target.create_player('/{SAID}.wav').send_media_to(event.target.caller)",
        "done",
    ),
    "a listener": (
        f"event.target.caller.add_event_listener('{SAID}', print)",
        "UnknownEvent: the caller has no event '...': use one of",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_word_of_a_scenario_leaves_under_privacy(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "parley_worker")
    code = textwrap.dedent(SCENARIO).format(FAULTS[fault][0])
    source = "from parley_scenario import *\n" + code
    async with scripted(talk) as script, worker() as host:
        route = ToolRoute("look_up", ToolRouteKind.SCENARIO, 2.0)
        config = host.admit(
            script.url, privacy=True, tools=(route,), scenario=ScenarioConfig(source=source),
            media_access=MediaAccess(hosts=("127.0.0.1",)),
        )  # fmt: skip
        async with calling(host, start(config)):
            if FAULTS[fault][1] == "done":
                await until_fact(host, config, "scenario_started")
                await asyncio.sleep(0.3)
                host.app.registry.terminate(config.key, EndReason.TERMINATED, "done")
            await host.state(config, SessionState.ENDED)
        report = await host.state(config, SessionState.ENDED)
        assert re.search(FAULTS[fault][1], report.end_message)
        text = shown(host, config, caplog)
        assert SAID not in text, [line for line in text.splitlines() if SAID in line]
