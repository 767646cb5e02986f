"""Twilio's side of a call against the worker's telephony endpoint, over a real WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_calls import Worker, worker
from parley_worker.config import Address
from parley_worker.core.audio import Encoding, encode
from parley_worker.core.model import EndReason, SessionConfig, SessionState
from parley_worker.transport.media_websocket import signature
from pki import TestAuthority
from provider_script import ScriptedProvider, Socket, scripted
from twilio_side import TwilioCall
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from worker_process import control, worker_process

LOCAL = Address("127.0.0.1", 0)
TONE = encode((np.sin(np.arange(8000) * 2 * np.pi * 440 / 8000) * 8000).astype(np.int16), Encoding.G711_ULAW)
VOICED = "input_audio_buffer.speech_started"


async def greeting(socket: Socket) -> None:
    await socket.greet()


@asynccontextmanager
async def telephony(behaviour: Any, **changes: Any) -> AsyncIterator[tuple[Worker, ScriptedProvider]]:
    async with scripted(behaviour) as script, worker(telephony_address=LOCAL, **changes) as host:
        yield host, script


def admitted(host: Worker, script: ScriptedProvider, **changes: Any) -> SessionConfig:
    return host.admit(script.url, provider_audio="g711_ulaw", **changes)


def url(host: Worker, ticket: str = "") -> str:
    return host.app.endpoint.telephony + (f"/{ticket}" if ticket else "")


def call(host: Worker, config: SessionConfig, **given: Any) -> TwilioCall:
    return TwilioCall(url(host), parameters={"ticket": f"ticket-{config.key.uid}"}, **given)


async def test_audio_marks_keys_and_the_end_of_a_call() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(4800)
        await socket.say(TONE, "resp_1", "item_1")

    async with telephony(provider) as (host, script):
        config = admitted(host, script)
        async with call(host, config) as phone:
            phone.say(TONE[:4000])
            await phone.press("4")
            await phone.press("#")
            await phone.until(lambda: len(phone.of("played")) >= 10)
            assert bytes(phone.heard) == TONE
            assert phone.of("media") == [20.0] * 50
            marks = phone.of("mark")
            assert phone.of("played") == marks
            assert len(marks) in (10, 11)
            assert (await script.socket()).audio[:4000] == TONE[:4000]
            await phone.stop()
            assert (await phone.closed())[0] == 1000
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is EndReason.CALLER_HANGUP
        keys = [record.fields["digit"] for record in host.of(config, "journal") if record.type == "dtmf"]
        assert keys == ["4", "#"]
        assert host.facts(config).count("dtmf_received") == 2
        await host.nothing_left()


async def test_a_barge_in_clears_and_ends_the_history_between_the_marks() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(160)
        await socket.say(TONE * 4, "resp_1", "item_1", finish=False)
        await asyncio.sleep(1.3)
        await socket.send(VOICED, item_id="item_u", audio_start_ms=0)
        await socket.say(TONE, "resp_1", "item_1", finish=False)
        await socket.finish("resp_1", "item_1", "cancelled")
        await socket.expect("conversation.item.truncate")
        await socket.say(TONE[:1600], "resp_2", "item_2")

    async with telephony(provider) as (host, script):
        config = admitted(host, script)
        async with call(host, config) as phone:
            await phone.until(lambda: "clear" in [event[0] for event in phone.events])
            heard = len(phone.heard) / 8
            cut = await (await script.socket()).expect("conversation.item.truncate")
            assert abs(cut["audio_end_ms"] - heard) <= 100
            await phone.until(lambda: len(phone.heard) / 8 >= heard + 200)
            before = phone.events[: phone.events.index(("clear",))]
            after = phone.events[phone.events.index(("clear",)) :]
            played = [event[1] for event in before if event[0] == "played"]
            flushed = [event[1] for event in after if event[0] == "flushed"]
            sent = [event[1] for event in before if event[0] == "mark"]
            assert played + flushed == sent
            assert after[1 : 1 + len(flushed)] == [("flushed", name) for name in flushed]
            # Nothing of the cut answer comes after its clear, and flushed marks acknowledge nothing.
            await asyncio.sleep(0.3)
            assert abs(len(phone.heard) / 8 - heard - 200) <= 20
            assert len((await script.socket()).of("conversation.item.truncate")) == 1
        (barge_in,) = [record for record in host.of(config, "event") if record.type == "barge_in"]
        assert barge_in.fields["source"] == "mark"


async def test_the_ticket_may_stand_in_the_path_and_counts_once() -> None:
    async with telephony(greeting) as (host, script):
        config = admitted(host, script)
        async with TwilioCall(url(host, f"ticket-{config.key.uid}")):
            await host.state(config, SessionState.ACTIVE)
            async with TwilioCall(url(host, f"ticket-{config.key.uid}")) as second:
                code, reason = await second.closed()
                assert (code, reason.split(":")[0]) == (1008, "ticket-used")


async def test_a_lost_call_is_held_and_an_agent_that_hangs_up_closes_the_stream() -> None:
    async with telephony(greeting) as (host, script):
        config = admitted(host, script)
        async with call(host, config) as phone:
            await host.state(config, SessionState.ACTIVE)
            phone.socket.transport.abort()
            await host.state(config, SessionState.DETACHED)
        config = admitted(host, script)
        async with call(host, config) as phone:
            await host.state(config, SessionState.ACTIVE)
            host.app.registry.terminate(config.key, EndReason.AGENT_HANGUP, "goodbye")
            assert await phone.closed() == (1000, "the session is over")


START: dict[str, Any] = {
    "event": "start",
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"ticket": "no-such-ticket"},
    },
}


def started(**changes: Any) -> str:
    return json.dumps({**START, "start": {**START["start"], **changes}})


@pytest.mark.parametrize(
    ("frame", "code", "word"),
    [
        ("{", 1008, "frame-not-json"),
        ("[" * 5000, 1008, "frame-not-json"),
        ("[]", 1008, "frame-without-event"),
        ('{"event": 5}', 1008, "frame-without-event"),
        (b"\x00\x01", 1003, "frame-binary"),
        ("x" * 100_000, 1009, "frame with 100000 bytes exceeds limit of 98304 bytes"),
        ('{"event": "media", "media": {"chunk": "1", "payload": ""}}', 1008, "start-missing"),
        (json.dumps({"event": "start"}), 1008, "stream-missing"),
        (started(mediaFormat={"encoding": "audio/l16", "sampleRate": 16000}), 1008, "format-unsupported"),
        (started(customParameters={}), 1008, "credential-missing"),
        (started(customParameters=[1]), 1008, "credential-missing"),
        (started(), 1008, "ticket-unknown"),
        (json.dumps({"event": "connected"}), 1008, "start-missing"),
    ],
)
async def test_what_cannot_be_a_start_is_closed_with_the_reason(
    frame: str | bytes, code: int, word: str
) -> None:
    async with worker(telephony_address=LOCAL) as host, connect(url(host)) as socket:
        for _ in range(4 if isinstance(frame, str) and "connected" in frame else 1):
            await socket.send(frame)
        async with asyncio.timeout(20):
            await socket.wait_closed()
        assert (socket.close_code, (socket.close_reason or "").split(":")[0]) == (code, word)


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        ('{"event": "start", "start": {}}', "start-repeated"),
        ('{"event": "connected"}', "connected-repeated"),
        ("nonsense", "frame-not-json"),
        ('{"event": "media", "media": {"chunk": "1", "payload": "?"}}', "payload-invalid"),
        ('{"event": "media", "media": {"chunk": "x", "payload": "AAAA"}}', "chunk-invalid"),
        ('{"event": "media", "media": {"chunk": "1", "payload": ""}}', "frame-empty"),
        ('{"event": "media", "streamSid": "MZ2", "media": {"chunk": "1"}}', "stream-other"),
    ],
)
async def test_garbage_ends_the_stream_and_not_the_session(frame: str, word: str) -> None:
    async with telephony(greeting) as (host, script):
        config = admitted(host, script)
        async with call(host, config, start=False) as phone:
            await phone.send("start", start=phone.start_object())
            for harmless in ({"event": "mark", "mark": {"name": "m1"}}, {"event": "news"}, {"event": "dtmf"}):
                await phone.socket.send(json.dumps(harmless))
            await host.state(config, SessionState.ACTIVE)
            await phone.socket.send(frame)
            code, reason = await phone.closed()
            assert (code, reason.split(":")[0]) == (1008, word)
        await host.state(config, SessionState.DETACHED)


async def test_other_paths_and_missing_starts() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parley_worker.app.TelephonySettings", _quick)
        async with worker(telephony_address=LOCAL) as host:
            for path in ("/", "/twilio/a/b", "/metrics", "/twiliox"):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(url(host).removesuffix("/twilio") + path)
                assert refused.value.response.status_code == 404
            async with connect(url(host)) as socket:
                async with asyncio.timeout(10):
                    await socket.wait_closed()
                assert (socket.close_code, socket.close_reason) == (
                    1008,
                    "start-missing: no start came within 0.2 s",
                )


def _quick(**given: Any) -> Any:
    from parley_worker.transport.media_websocket import TelephonySettings

    return TelephonySettings(start_timeout=0.2, **given)


async def test_with_an_auth_token_only_signed_streams_are_taken() -> None:
    async with telephony(greeting, twilio_auth_token="a-token") as (host, script):
        config = admitted(host, script)
        public = url(host).replace("ws://", "wss://")
        for headers in ({}, {"X-Twilio-Signature": signature("another", public).decode()}):
            with pytest.raises(InvalidStatus) as refused:
                async with call(host, config, headers=headers):
                    pass
            assert refused.value.response.status_code == 403
        through = public.replace("/twilio", "/w/10.0.0.7/twilio")
        good = {"X-Twilio-Signature": signature("a-token", through).decode()}
        ticket = {"ticket": f"ticket-{config.key.uid}"}
        async with TwilioCall(through.replace("wss", "ws"), parameters=ticket, headers=good):
            await host.state(config, SessionState.ACTIVE)
        assert "a-token" not in repr(host.app.settings) + repr(host.app.settings.shown())


async def test_streams_over_tls_follow_a_replaced_certificate(tmp_path: Path) -> None:
    authority = TestAuthority()
    authority.issue("worker").write(tmp_path)
    async with telephony(greeting, media_tls_dir=tmp_path) as (host, script):
        assert host.app.endpoint.telephony.startswith("wss://")
        serials = []
        for _ in range(2):
            config = admitted(host, script)
            trust = ssl.create_default_context(cadata=authority.pem.decode())
            async with call(host, config, tls=trust) as phone:
                await host.state(config, SessionState.ACTIVE)
                tls = phone.socket.transport.get_extra_info("ssl_object")
                serials.append(tls.getpeercert()["serialNumber"])
            authority.issue("worker").write(tmp_path)
        assert serials[0] != serials[1]


@pytest.mark.parametrize("shards", [0, 2])
async def test_a_worker_process_tells_where_telephony_attaches_and_serves_it_over_tls(
    tmp_path: Path, shards: int
) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(160)
        await socket.say(bytes(9600), "resp_1", "item_1")

    authority = TestAuthority()
    authority.issue("worker").write(tmp_path)
    settings = {"telephony_address": "127.0.0.1:0", "media_tls_dir": str(tmp_path), "drain_timeout": "0"}
    settings["shards"] = str(shards)
    async with scripted(provider) as script, worker_process(**settings) as process:
        async with control(process.ready["control"], process.instance) as operator:
            request = operator.request(script.url, ticket_sha256=hashlib.sha256(b"a-ticket").digest())
            await operator.admit(operator.request(script.url, "first"))
            told = (await operator.admit(request)).admitted.telephony_endpoint
        place = process.ready["shards"][1] if shards else process.ready
        assert told == place["telephony"]
        assert told.startswith("wss://127.0.0.1:")
        trust = ssl.create_default_context(cadata=authority.pem.decode())
        async with TwilioCall(told, parameters={"ticket": "a-ticket"}, tls=trust) as phone:
            await phone.until(lambda: len(phone.of("played")) >= 2)
            assert len(phone.heard) == 1600
        process.process.terminate()
        assert await process.wait() == 0
        assert b"a-ticket" not in process.log
