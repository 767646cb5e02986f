"""Parameters of VoxEngine's factories and media methods, on both shapes, against a real WebSocket."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import parley_realtime
import pytest
from cutting_proxy import cutting
from parley_local import LocalProviderConfig, serve
from parley_realtime import (
    PCM16,
    ClearMediaBufferParameters,
    RealtimeAPIClientParameters,
    RealtimeAPIClientType,
    ScenarioError,
    SendMediaParameters,
    WebSocketAudioEncoding,
    WebSocketCloseCode,
    WebSocketCloseEvent,
    beta,
    send_media_between,
    stop_media_between,
)
from parley_realtime.recovery import RecoveryEvents, RecoveryParameters
from realtime_units import RecordingUnit
from scripted_provider import Line, ScriptedProvider

APIS: dict[str, Any] = {"ga": parley_realtime, "beta": beta}
SHAPES = pytest.mark.parametrize("shape", ["ga", "beta"])
FRAME = PCM16.frame_bytes


async def connected(shape: str, provider: ScriptedProvider, **more: Any) -> tuple[Any, Line]:
    parameters = RealtimeAPIClientParameters(**{"base_url": provider.base_url, **more})
    client = await APIS[shape].create_realtime_api_client(parameters)
    return client, await provider.accepted()


async def end(*clients: Any) -> None:
    for client in clients:
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)


@SHAPES
async def test_api_key(shape: str) -> None:
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, api_key="sk-the-key")
        await end(client)
    assert line.headers["authorization"] == "Bearer sk-the-key"
    assert "sk-the-key" not in line.path


@SHAPES
async def test_model(shape: str) -> None:
    default = {"ga": "gpt-realtime", "beta": "gpt-4o-realtime-preview-2024-10-01"}[shape]
    async with ScriptedProvider() as provider:
        for given, named in ((None, default), ("gpt realtime/2", "gpt%20realtime%2F2")):
            client, line = await connected(shape, provider, model=given)
            await end(client)
            assert line.path == f"/v1/realtime?model={named}"


@SHAPES
async def test_type(shape: str) -> None:
    """A transcription: the intent in the address, and updates in the words of the shape."""
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, type=RealtimeAPIClientType.TRANSCRIPTION)
        assert line.path == "/v1/realtime?intent=transcription"
        if shape == "ga":
            client.session_update({"session": {"audio": {"input": {"transcription": {"model": "w"}}}}})
            update = await line.expect("session.update")
            assert update["session"]["type"] == "transcription"
            assert update["session"]["audio"]["input"]["transcription"] == {"model": "w"}
            assert "output" not in update["session"]["audio"]
        else:
            client.session_update({"input_audio_transcription": {"model": "w"}}, "e1")
            update = await line.expect("transcription_session.update")
            assert update == {
                "type": "transcription_session.update",
                "event_id": "e1",
                "session": {"input_audio_transcription": {"model": "w"}, "input_audio_format": "pcm16"},
            }
        await end(client)


@SHAPES
async def test_base_url(shape: str) -> None:
    async with ScriptedProvider() as provider:
        for suffix, path in (
            ("", "/v1/realtime"),
            ("/gate/v1", "/gate/v1/realtime"),
            ("/x/realtime", "/x/realtime"),
        ):
            client, line = await connected(shape, provider, base_url=provider.base_url + suffix)
            await end(client)
            assert line.path.partition("?")[0] == path
    assert RealtimeAPIClientParameters().base_url == "https://api.openai.com/"


@SHAPES
async def test_on_web_socket_close(shape: str) -> None:
    """Called once per opened socket; codes without a name come as numbers."""
    closes: list[WebSocketCloseEvent] = []
    async with ScriptedProvider() as provider:
        client, _ = await connected(shape, provider, on_web_socket_close=closes.append)
        await end(client)
        client, line = await connected(shape, provider, on_web_socket_close=closes.append)
        await line.socket.close(4999, "odd")
        await asyncio.wait_for(client.wait_closed(), 15)
    assert [(c.code, c.reason, c.was_clean) for c in closes] == [(1000, "", True), (4999, "odd", True)]
    assert closes[0].code == WebSocketCloseCode.CLOSE_NORMAL
    assert closes[1].web_socket_id == client.web_socket_id()


@SHAPES
@pytest.mark.parametrize("wanted", [True, False])
async def test_statistics(shape: str, wanted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once at the end when asked for; to be read at any time."""
    caplog.set_level(logging.INFO, "parley_realtime")
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, statistics=wanted)
        client.push_media(b"\1\2" * FRAME)
        await line.heard(FRAME * 2)
        assert client.statistics.audio_bytes_sent == FRAME * 2
        assert client.statistics.connect.count == 1
        await end(client)
    logged = [record.getMessage() for record in caplog.records if "audio_bytes_sent=" in record.getMessage()]
    assert len(logged) == wanted


@SHAPES
async def test_trace(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, trace=path, api_key="sk-the-key")
        client.response_create()
        await line.expect("response.create")
        await line.audio(b"\1\2" * 480, beta=shape == "beta")
        await line.send({"type": "error", "error": {"message": "about sk-the-key"}})
        client.response_cancel()
        await line.expect("response.cancel")
        await line.socket.close()
        await asyncio.wait_for(client.wait_closed(), 15)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    frames = [
        (direction, line[direction]["type"]) for line in lines for direction in line if direction != "t"
    ]
    assert sorted(frames) == [
        ("received", "audio delta"),
        ("received", "error"),
        ("received", "session.created"),
        ("sent", "response.cancel"),
        ("sent", "response.create"),
    ]
    assert "sk-the-key" not in path.read_text()


@SHAPES
async def test_privacy(shape: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing about the connection is logged, and no error repeats what the provider said."""
    caplog.set_level(logging.DEBUG, "parley_realtime")
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, privacy=True, statistics=True)
        await line.refuse(4000, {"type": "x", "code": "y", "message": "my secret diary"}, "my secret diary")
        error = await asyncio.wait_for(client.wait_closed(), 15)
    assert error is not None
    assert "diary" not in str(error)
    assert [record for record in caplog.records if record.name.startswith("parley_realtime")] == []
    assert RealtimeAPIClientParameters().privacy is False


@SHAPES
async def test_send_media_parameters(shape: str) -> None:
    """`tag`, `custom_parameters` and `encoding` reach the unit, and the audio is in that encoding."""
    unit = RecordingUnit()
    parameters = SendMediaParameters(
        tag="line 1", custom_parameters={"room": "7"}, encoding=WebSocketAudioEncoding.ULAW
    )
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider)
        client.send_media_to(unit, parameters)
        await line.audio(b"\0\0" * 4800, beta=shape == "beta")
        await unit.wait_for_audio(160)
        await end(client)
    name, (source, tag, _, custom) = unit.calls[0]
    assert (name, source, tag, custom) == ("started", client.id(), "line 1", {"room": "7"})
    assert set(unit.chunks[0].payload) <= {0xFF, 0x7F}, "silence in mu-law"
    assert len(unit.chunks[0].payload) == 160


@SHAPES
async def test_clear_media_buffer_parameters(shape: str) -> None:
    """`tag`: only the units of that name forget what they have."""
    one, other = RecordingUnit(own_clock=True), RecordingUnit(own_clock=True)
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider)
        client.send_media_to(one, {"tag": "one"})
        client.send_media_to(other, {"tag": "other"})
        await line.audio(b"\1\2" * 4800, beta=shape == "beta")
        await other.wait_for("media")
        client.clear_media_buffer(ClearMediaBufferParameters(tag="one"))
        assert (one.names().count("cleared"), other.names().count("cleared")) == (1, 0)
        await end(client)


@SHAPES
async def test_send_media_between(shape: str) -> None:
    """Two clients hear each other; after `stop_media_between` neither does."""
    async with ScriptedProvider() as left, ScriptedProvider() as right:
        one, one_line = await connected(shape, left)
        other, other_line = await connected(shape, right)
        send_media_between(one, other)
        await one_line.audio(b"\1\2" * FRAME, beta=shape == "beta")
        await other_line.audio(b"\3\4" * FRAME, beta=shape == "beta")
        assert await other_line.heard(FRAME * 2) == b"\1\2" * FRAME
        assert await one_line.heard(FRAME * 2) == b"\3\4" * FRAME
        stop_media_between(one, other)
        marker = RecordingUnit(own_clock=True)
        one.send_media_to(marker)
        await one_line.audio(b"\5\6" * FRAME, beta=shape == "beta")
        await marker.wait_for("media")
        await asyncio.sleep(0.1)
        assert len(other_line.audio_in) == FRAME * 2
        await end(one, other)


@SHAPES
@pytest.mark.parametrize("wanted", [True, False])
async def test_clear_on_speech(shape: str, wanted: bool) -> None:
    """Chooses what beta does by itself and GA leaves to the scenario."""
    unit, started = RecordingUnit(own_clock=True), asyncio.Event()
    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, clear_on_speech=wanted)
        client.add_event_listener(
            APIS[shape].RealtimeAPIEvents.InputAudioBufferSpeechStarted, lambda _: started.set()
        )
        client.send_media_to(unit)
        await line.audio(b"\1\2" * 4800, beta=shape == "beta")
        await unit.wait_for("media")
        await line.send({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1, "item_id": "i"})
        await asyncio.wait_for(started.wait(), 15)
        assert unit.names().count("cleared") == wanted
        await end(client)


@SHAPES
async def test_handler_limits(shape: str) -> None:
    """`sync_handler_timeout` ends the scenario of a callback that keeps the loop, by its name."""

    def sleeps(_: object) -> None:
        time.sleep(0.06)

    async with ScriptedProvider() as provider:
        client, line = await connected(shape, provider, sync_handler_timeout=0.05)
        client.add_event_listener(APIS[shape].RealtimeAPIEvents.ResponseDone, sleeps)
        await line.send({"type": "response.done", "response": {"id": "r"}})
        error = await asyncio.wait_for(client.wait_closed(), 15)
    assert isinstance(error, ScenarioError)
    assert "test_handler_limits.<locals>.sleeps" in str(error)
    assert "sync_handler_timeout 0.05 s" in str(error)


@SHAPES
async def test_recovery(shape: str) -> None:
    """With `recovery` a lost WebSocket is replaced, and listeners are told."""
    names: list[str] = []
    back, answered = asyncio.Event(), asyncio.Event()
    async with serve(LocalProviderConfig(port=0)) as provider, cutting(provider.url) as proxy:
        client = await APIS[shape].create_realtime_api_client(
            RealtimeAPIClientParameters(base_url=proxy.url, recovery=RecoveryParameters(backoff_base=0))
        )
        for name in RecoveryEvents:
            client.add_event_listener(name, lambda event: names.append(event.name))
        client.add_event_listener(RecoveryEvents.Reconnected, lambda _: back.set())
        client.add_event_listener(APIS[shape].RealtimeAPIEvents.ResponseDone, lambda _: answered.set())
        first = client.web_socket_id()
        proxy.cut("reset")
        await asyncio.wait_for(back.wait(), 15)
        client.response_create({})
        await asyncio.wait_for(answered.wait(), 15)
        assert client.web_socket_id() != first
        await end(client)
    assert names == [RecoveryEvents.Reconnecting, RecoveryEvents.Reconnected]


def test_impossible_parameters_are_named() -> None:
    for fields, said in (
        ({"base_url": "ftp://x"}, "base_url"),
        ({"type": "telepathy"}, "telepathy"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"trace": "path.jsonl"}, "trace"),
    ):
        with pytest.raises(ValueError, match=said):
            RealtimeAPIClientParameters(**fields)  # type: ignore[arg-type]
