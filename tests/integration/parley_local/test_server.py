"""The local provider on a real socket: both shapes, refusals, faults, life and end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from local_session import silence, tone
from parley_local import ConfigError, LocalProvider, LocalProviderConfig, serve
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

BETA = {"OpenAI-Beta": "realtime=v1"}


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    async with serve(LocalProviderConfig(port=0, audio_speed=0)) as running:
        yield running


async def send(client: ClientConnection, kind: str, **fields: Any) -> None:
    await client.send(json.dumps({"type": kind, **fields}))


async def until(client: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """Events up to and with the first of this type."""
    events = []
    async with asyncio.timeout(10):
        while True:
            events.append(json.loads(await client.recv()))
            if events[-1]["type"] == kind:
                return events


async def speak(client: ClientConnection, audio: bytes) -> None:
    for at in range(0, len(audio), 960):
        data = base64.b64encode(audio[at : at + 960]).decode()
        await send(client, "input_audio_buffer.append", audio=data)


@pytest.mark.parametrize("headers", [{}, BETA], ids=["ga", "beta"])
async def test_a_spoken_turn(provider: LocalProvider, headers: dict[str, str]) -> None:
    async with connect(f"{provider.url}?model=any", additional_headers=headers) as client:
        await speak(client, silence(300) + tone(1000) + silence(800))
        events = await until(client, "response.done")
    delta = "response.audio.delta" if headers else "response.output_audio.delta"
    audio = b"".join(base64.b64decode(event["delta"]) for event in events if event["type"] == delta)
    response = events[-1]["response"]
    words = response["output"][0]["content"][0]["transcript"]
    assert words == "You said: 1.8 seconds of sound"
    assert len(audio) == pytest.approx(len(words) * 60 * 48, rel=0.01)
    assert (events[1]["type"] == "conversation.created") == bool(headers)


@pytest.mark.parametrize(
    ("wire", "ga"), [("g711_ulaw", "audio/pcmu"), ("g711_alaw", "audio/pcma")], ids=["ulaw", "alaw"]
)
async def test_g711_both_ways(provider: LocalProvider, wire: str, ga: str) -> None:
    session = {"input_audio_format": wire, "output_audio_format": wire, "turn_detection": None}
    async with connect(f"{provider.url}?model=any", additional_headers=BETA) as client:
        await send(client, "session.update", session=session)
        await speak(client, b"\x10\x90" * 4000)
        await send(client, "input_audio_buffer.commit")
        await send(client, "response.create")
        events = await until(client, "response.done")
    deltas = [event["delta"] for event in events if event["type"] == "response.audio.delta"]
    words = events[-1]["response"]["output"][0]["content"][0]["transcript"]
    assert words == "You said: 1.0 seconds of sound"
    assert sum(len(base64.b64decode(delta)) for delta in deltas) == pytest.approx(
        len(words) * 60 * 8, rel=0.01
    )
    async with connect(f"{provider.url}?model=any") as client:
        formats = {"input": {"format": {"type": ga}}, "output": {"format": {"type": ga}}}
        await send(client, "session.update", session={"type": "realtime", "audio": formats})
        events = await until(client, "session.updated")
    assert events[-1]["session"]["audio"]["output"]["format"] == {"type": ga}


REFUSALS = [
    ("?model=good", {}, [], 3000, None, "invalid_request_error"),
    ("?model=good", {"Authorization": "Bearer wrong"}, [], 3000, "invalid_api_key", None),
    ("?model=good", {"api-key": "wrong"}, [], 3000, "invalid_api_key", None),
    ("?model=bad", {"Authorization": "Bearer right"}, [], 4000, "invalid_model", None),
    ("", {"Authorization": "Bearer right"}, [], 4000, "missing_model", None),
    ("?model=good", {"Authorization": "Bearer right", **BETA}, [], 4000, "beta_api_shape_disabled", None),
    (
        "?model=good",
        {},
        ["realtime", "openai-insecure-api-key.right", "openai-beta.realtime-v1"],
        4000,
        "beta_api_shape_disabled",
        None,
    ),
]


@pytest.mark.parametrize(("query", "headers", "protocols", "close", "code", "reason"), REFUSALS)
async def test_refusals_come_after_the_101(
    query: str,
    headers: dict[str, str],
    protocols: list[Any],
    close: int,
    code: str | None,
    reason: str | None,
) -> None:
    config = LocalProviderConfig(port=0, api_keys=("right", "other"), models=("good",), refuse_beta=True)
    async with serve(config) as provider:
        client = await connect(
            provider.url + query, additional_headers=headers, subprotocols=protocols or None
        )
        error = json.loads(await client.recv())
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert error["type"] == "error"
    assert error["error"]["code"] == code
    assert "right" not in json.dumps(error)
    assert client.close_code == close
    assert client.close_reason == (reason or f"invalid_request_error.{code}")


@pytest.mark.parametrize(
    ("headers", "protocols"),
    [
        ({"Authorization": "Bearer right"}, []),
        ({"api-key": "right"}, []),
        ({}, ["realtime", "openai-insecure-api-key.right"]),
    ],
)
async def test_every_way_to_give_the_key(headers: dict[str, str], protocols: list[Any]) -> None:
    async with serve(LocalProviderConfig(port=0, api_keys=("right",))) as provider:
        url = f"{provider.url}?model=m"
        async with connect(url, additional_headers=headers, subprotocols=protocols or None) as client:
            assert json.loads(await client.recv())["type"] == "session.created"
            assert client.subprotocol == ("realtime" if protocols else None)


async def test_beta_by_subprotocol_alone(provider: LocalProvider) -> None:
    protocols: list[Any] = ["realtime", "openai-beta.realtime-v1"]
    async with connect(f"{provider.url}?model=m", subprotocols=protocols) as client:
        assert "modalities" in json.loads(await client.recv())["session"]


async def test_health_and_unknown_paths(provider: LocalProvider) -> None:
    base = f"http://127.0.0.1:{provider.port}"

    def get(path: str) -> int:
        try:
            with urllib.request.urlopen(base + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert await asyncio.to_thread(get, "/healthz") == 200
    assert await asyncio.to_thread(get, "/elsewhere") == 404
    with pytest.raises(InvalidStatus, match="404"):
        await connect(f"ws://127.0.0.1:{provider.port}/other?model=m")


async def test_a_full_server_says_so() -> None:
    async with serve(LocalProviderConfig(port=0, max_connections=1)) as provider:
        async with connect(f"{provider.url}?model=m") as first:
            await first.recv()
            with pytest.raises(InvalidStatus, match="503"):
                await connect(f"{provider.url}?model=m")
        async with connect(f"{provider.url}?model=m") as second:
            await second.recv()


async def gone(provider: LocalProvider) -> None:
    async with asyncio.timeout(10):
        while provider.connections:  # noqa: ASYNC110 - the server offers a count, no event
            await asyncio.sleep(0.02)


async def test_a_client_cut_off_in_the_middle_of_an_answer() -> None:
    async with serve(LocalProviderConfig(port=0, audio_speed=1.0)) as provider:
        client = await connect(f"{provider.url}?model=m")
        await send(client, "response.create")
        await until(client, "response.output_audio.delta")
        client.transport.abort()
        await gone(provider)
        await client.wait_closed()
        async with connect(f"{provider.url}?model=m") as again:
            assert json.loads(await again.recv())["type"] == "session.created"


async def test_garbage_and_binary_frames_get_errors_and_the_session_lives(provider: LocalProvider) -> None:
    async with connect(f"{provider.url}?model=m") as client:
        await client.recv()
        for message in (b"\x00\xff", "{", "[1]", '{"type":"no"}', "null"):
            await client.send(message)
            assert json.loads(await client.recv())["type"] == "error"
        await send(client, "session.update", session={"type": "realtime"})
        await until(client, "session.updated")


async def overflow(client: ClientConnection) -> None:
    await client.send("x" * (25 * 1024 * 1024))
    await client.recv()


async def test_a_message_beyond_the_limit_closes_that_connection_only(provider: LocalProvider) -> None:
    client = await connect(f"{provider.url}?model=m", compression=None, max_size=None)
    await client.recv()
    with pytest.raises(ConnectionClosed):
        await overflow(client)
    assert client.close_code == 1009
    async with connect(f"{provider.url}?model=m") as other:
        await other.recv()
    await gone(provider)


async def test_a_flood_of_events_is_answered_in_order(provider: LocalProvider) -> None:
    async with connect(f"{provider.url}?model=m") as client:
        for number in range(500):
            await send(client, "conversation.item.delete", item_id="none", event_id=str(number))
        got = await until_count(client, "error", 500)
    assert [event["error"]["event_id"] for event in got] == [str(number) for number in range(500)]


async def until_count(client: ClientConnection, kind: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found.append((await until(client, kind))[-1])
    return found


async def test_a_client_that_does_not_read_is_cut_off(provider: LocalProvider) -> None:
    client = await connect(f"{provider.url}?model=m", compression=None, max_size=None)
    await send(
        client, "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    )
    audio = base64.b64encode(bytes(6 * 1024 * 1024)).decode()
    await send(client, "input_audio_buffer.append", audio=audio)
    await send(client, "input_audio_buffer.commit")
    item_id = (await until(client, "input_audio_buffer.committed"))[-1]["item_id"]
    client.transport.pause_reading()
    for _ in range(20):  # 8 MiB of events each: more than the server holds for one client
        await send(client, "conversation.item.retrieve", item_id=item_id)
    await gone(provider)
    client.transport.abort()
    await client.wait_closed()
    async with connect(f"{provider.url}?model=m") as other:
        await other.recv()


async def test_large_appends_do_not_stop_other_sessions(provider: LocalProvider) -> None:
    block = base64.b64encode(bytes(6 * 1024 * 1024)).decode()
    async with (
        connect(f"{provider.url}?model=m", compression=None) as heavy,
        connect(f"{provider.url}?model=m") as light,
    ):
        await send(heavy, "input_audio_buffer.append", audio=block)
        await send(light, "session.update", session={"type": "realtime"})
        await until(light, "session.updated")
        await send(heavy, "session.update", session={"type": "realtime"})
        await until(heavy, "session.updated")


async def test_the_longest_session() -> None:
    async with serve(LocalProviderConfig(port=0, max_session_s=0.2)) as provider:
        client = await connect(f"{provider.url}?model=m")
        await client.recv()
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (
            1001,
            "Your session hit the maximum duration of 0 minutes.",
        )


async def test_closing_the_server_ends_calls_under_way() -> None:
    async with serve(LocalProviderConfig(port=0, audio_speed=1.0)) as provider:
        client = await connect(f"{provider.url}?model=m")
        await send(client, "response.create")
        await until(client, "response.output_audio.delta")
    with pytest.raises(ConnectionClosed):
        await until(client, "nothing of this name")
    assert client.close_code == 1001


async def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = (
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    )  # fmt: skip
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    async with serve(LocalProviderConfig(port=0, tls_cert=cert, tls_key=key)) as provider:
        assert provider.url.startswith("wss://")
        trusted = ssl.create_default_context(cafile=str(cert))
        async with connect(f"{provider.url}?model=m", ssl=trusted) as client:
            await client.recv()
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(f"{provider.url}?model=m", ssl=ssl.create_default_context())


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="voice 'opera' is unknown: use one of flite, tones"):
        LocalProviderConfig(voice="opera")
    with pytest.raises(ConfigError, match="both a certificate and a key"):
        LocalProviderConfig(tls_cert=Path("x"))
    assert "secret" not in repr(LocalProviderConfig(api_keys=("secret",)))


TONES = {"PARLEY_LOCAL_VOICE": "tones", "PARLEY_LOCAL_RECOGNIZER": "tones", "PARLEY_LOCAL_VAD": "energy"}


async def test_the_program_says_where_it_listens_and_ends_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parley_local", "--port", "0",
        env={**os.environ, **TONES, "PARLEY_LOCAL_API_KEY": "k"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            url = json.loads(await process.stdout.readline())["listening"]
        async with connect(f"{url}?model=m", additional_headers={"Authorization": "Bearer k"}) as client:
            await client.recv()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await client.recv()
        async with asyncio.timeout(20):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--brain", "oracle"], "brain 'oracle' is unknown"),
        (["--port", "{taken}"], "cannot listen"),
        (["--voice", "flite"], "apt-get install flite"),
    ],
)
def test_the_program_names_what_is_wrong(arguments: list[str], message: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        filled = [argument.format(taken=taken.getsockname()[1]) for argument in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "parley_local", "--port", "0", *filled],
            env={**os.environ, **TONES, "PATH": "/nonexistent"},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


async def test_half_a_surrogate_pair_costs_no_connection(provider: LocalProvider) -> None:
    async with connect(f"{provider.url}?model=any") as client:
        await until(client, "session.created")
        await client.send('{"type": "conversation.item.delete", "item_id": "\\ud83d"}')
        (error,) = await until(client, "error")
        assert error["error"]["code"] == "item_not_found"
        await send(client, "response.cancel")
        assert (await until(client, "error"))[0]["error"]["code"] == "response_cancel_not_active"


async def never(*_: object) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("part", ["brain", "voice"])
async def test_a_part_that_never_answers_fails_one_response_in_bounded_time(part: str) -> None:
    config = LocalProviderConfig(port=0, audio_speed=0, speech_timeout_s=0.2)
    async with serve(config) as provider, connect(f"{provider.url}?model=any") as client:
        engines = provider._engines
        stuck = mock.Mock(reply=never, synthesize=never)
        with mock.patch.object(engines, "brain" if part == "brain" else "_voice", stuck):
            await send(client, "response.create")
            assert (await until(client, "response.done"))[-1]["response"]["status"] == "failed"
        await send(client, "response.create", response={"output_modalities": ["text"]})
        assert (await until(client, "response.done"))[-1]["response"]["status"] == "completed"
