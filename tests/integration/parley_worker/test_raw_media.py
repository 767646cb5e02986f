"""VoxEngine's raw media streams against the worker's `/media` endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
import socket as socketlib
from typing import Any

import pytest
from media_calls import Worker, worker
from parley_worker.config import Address
from parley_worker.core.model import EndReason, SessionConfig, SessionState
from provider_script import Socket, scripted
from websockets.asyncio.client import ClientConnection, connect

LOCAL = Address("127.0.0.1", 0)
VOICE = bytes(range(256)) * 20


def path(host: Worker, config: SessionConfig | None = None) -> str:
    base = host.app.endpoint.telephony.removesuffix("/twilio") + "/media"
    return base if config is None else f"{base}/ticket-{config.key.uid}"


def begin(encoding: str, **more: Any) -> str:
    start = {"mediaFormat": {"encoding": encoding, **more}, "customParameters": {}, "tag": "call"}
    return json.dumps({"event": "start", "sequenceNumber": 0, "start": start})


def media(chunk: int, payload: bytes) -> str:
    body = {
        "chunk": chunk,
        "timestamp": chunk * 20,
        "payload": base64.b64encode(payload).decode(),
        "tag": "call",
    }
    return json.dumps({"event": "media", "sequenceNumber": chunk, "media": body})


async def frames(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        return [json.loads(await socket.recv()) for _ in range(count)]


@pytest.mark.parametrize(("encoding", "rate", "size"), [("ULAW", 8000, 160), ("PCM16", 16000, 640)])
async def test_audio_goes_both_ways_in_the_format_of_the_start(encoding: str, rate: int, size: int) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(3000)
        await socket.say(VOICE[:4800], "resp_1", "item_1")

    async with scripted(provider) as script, worker(telephony_address=LOCAL) as host:
        config = host.admit(script.url, provider_audio="g711_ulaw")
        async with connect(path(host, config)) as socket:
            await socket.send(begin(encoding, sampleRate=rate, channels=1))
            (start,) = await frames(socket, 1)
            assert start["event"] == "start"
            assert start["start"]["mediaFormat"] == {"encoding": encoding, "sampleRate": rate, "channels": 1}
            for chunk in range(1, 16):
                await socket.send(media(chunk, VOICE[:size] if encoding == "ULAW" else bytes(size)))
            await socket.send(json.dumps({"event": "stop", "stop": {"mediaInfo": {"duration": 300}}}))
            await socket.send(begin(encoding))
            for chunk in range(1, 16):
                await socket.send(media(chunk, VOICE[:size] if encoding == "ULAW" else bytes(size)))
            sent = await frames(socket, 30)
            assert [f["media"]["chunk"] for f in sent] == list(range(1, 31))
            assert [f["media"]["timestamp"] for f in sent] == list(range(0, 600, 20))
            audio = b"".join(base64.b64decode(f["media"]["payload"]) for f in sent)
            assert len(audio) == 30 * size
            if encoding == "ULAW":
                assert audio == VOICE[:4800]
                assert (await script.socket()).audio == VOICE[:160] * 30
            host.app.registry.terminate(config.key, EndReason.AGENT_HANGUP, "bye")
            (stop,) = await frames(socket, 1)
            assert stop == {"event": "stop", "stop": {"mediaInfo": {"bytesSent": 30 * size, "duration": 600}}}
            await socket.wait_closed()
            assert socket.close_code == 1000
        assert host.facts(config).count("first_audio") == 1
        await host.nothing_left()


async def test_a_close_in_good_order_hangs_up_and_a_lost_connection_does_not() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()

    async with scripted(provider) as script, worker(telephony_address=LOCAL) as host:
        for lost, state in ((False, SessionState.ENDED), (True, SessionState.DETACHED)):
            config = host.admit(script.url)
            async with connect(path(host, config)) as socket:
                await socket.send(begin("PCM8"))
                await host.state(config, SessionState.ACTIVE)
                if lost:
                    socket.transport.abort()
                else:
                    await socket.close()
            report = await host.state(config, state)
            assert report.end_reason is (None if lost else EndReason.CALLER_HANGUP)


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (begin("OPUS"), "format-unsupported"),
        (begin("ULAW", sampleRate=16000), "format-unsupported"),
        (begin("ULAW", channels=2), "format-unsupported"),
        (begin("PCM8"), "credential-missing"),
        (media(1, b"\0\0"), "start-missing"),
    ],
)
async def test_starts_that_cannot_be_taken(frame: str, word: str) -> None:
    async with worker(telephony_address=LOCAL) as host, connect(path(host)) as socket:
        await socket.send(frame)
        async with asyncio.timeout(20):
            await socket.wait_closed()
        assert (socket.close_code, (socket.close_reason or "").split(":")[0]) == (1008, word)


async def test_another_format_needs_another_connection() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()

    async with scripted(provider) as script, worker(telephony_address=LOCAL) as host:
        config = host.admit(script.url)
        async with connect(path(host, config)) as socket:
            await socket.send(begin("PCM8"))
            await host.state(config, SessionState.ACTIVE)
            await socket.send(begin("ALAW"))
            async with asyncio.timeout(20):
                await socket.wait_closed()
            assert (socket.close_reason or "").startswith("format-changed: the stream began with PCM8")


async def test_a_reader_that_does_not_read_loses_its_leg_and_not_its_session() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(160)
        await socket.say(bytes(8000 * 60), "resp_1", "item_1", finish=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parley_worker.app.TelephonySettings", _narrow)
        async with scripted(provider) as script, worker(telephony_address=LOCAL) as host:
            config = host.admit(script.url, provider_audio="g711_ulaw")
            narrow = _narrow_socket(host)
            async with connect(path(host, config), sock=narrow) as socket:
                await socket.send(begin("PCM16"))
                await host.state(config, SessionState.ACTIVE)
                socket.transport.pause_reading()
                await socket.send(media(1, bytes(6400)))
                await host.state(config, SessionState.DETACHED)
                socket.transport.abort()
            causes = [r.fields["cause"] for r in host.of(config, "event") if r.type == "leg_detached"]
            assert causes == ["slow-reader"]


def _narrow_socket(host: Worker) -> socketlib.socket:
    """A connection with as small a window as the system gives."""
    narrow = socketlib.socket()
    narrow.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_RCVBUF, 2048)
    address, _, port = host.app.telephony_address.rpartition(":")
    narrow.connect((address, int(port)))
    narrow.setblocking(False)
    return narrow


def _narrow(**given: Any) -> Any:
    from parley_worker.transport.leg import LegBounds
    from parley_worker.transport.media_websocket import TelephonySettings

    return TelephonySettings(leg=LegBounds(messages=4, bytes=8000, stall=0.05), **given)
