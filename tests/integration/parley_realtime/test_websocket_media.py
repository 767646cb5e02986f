"""Raw media both ways over a real WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from parley_realtime import (
    MediaChunk,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    UnavailableError,
    create_realtime_api_client,
    send_media_between,
    stop_media_between,
)
from parley_realtime.units.websocket_media import MAX_QUEUED, WebSocketEvents, WebSocketMedia
from realtime_units import RecordingUnit
from scripted_provider import Line, ScriptedProvider
from websockets.asyncio.server import ServerConnection, serve


class Source:
    def id(self) -> str:
        return "source"


class Peer:
    """The other end: what came, and its socket."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.socket: ServerConnection | None = None
        self.url = ""
        self._news = asyncio.Event()

    async def serve(self, socket: ServerConnection) -> None:
        self.socket = socket
        self._news.set()
        async for text in socket:
            self.events.append(json.loads(text))
            self._news.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event[kind] for event in self.events if event["event"] == kind]

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(15):
            while self.socket is None or len(self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(kind)

    async def say(self, kind: str, **body: Any) -> None:
        assert self.socket is not None
        await self.socket.send(json.dumps({"event": kind, kind: body}))


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    async with serve(made.serve, "127.0.0.1", 0, close_timeout=1) as server:
        made.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield made


@asynccontextmanager
async def client_of(provider: ScriptedProvider) -> AsyncIterator[tuple[RealtimeAPIClient, Line]]:
    async with await create_realtime_api_client(
        RealtimeAPIClientParameters(base_url=provider.base_url)
    ) as client:
        yield client, await provider.accepted()


async def test_a_client_and_a_web_socket_hear_each_other() -> None:
    async with (
        ScriptedProvider() as provider,
        peer() as other,
        WebSocketMedia(other.url) as media,
        client_of(provider) as (client, line),
    ):
        send_media_between(client, media)
        await line.audio(np.full(24_000, 4000, "<i2").tobytes())
        (start,) = await other.until("start")
        assert start["mediaFormat"] == {"encoding": "PCM16", "sampleRate": 16000, "channels": 1}
        chunks = await other.until("media", 40)
        heard = np.frombuffer(b"".join(base64.b64decode(c["payload"]) for c in chunks), "<i2")
        assert abs(heard[1000:-1000].astype(int) - 4000).max() < 20
        assert [c["chunk"] for c in chunks] == list(range(1, len(chunks) + 1))
        await other.say("start", mediaFormat={"encoding": "PCM16", "sampleRate": 16000})
        payload = base64.b64encode(np.full(8000, -3000, "<i2").tobytes()).decode()
        await other.say("media", chunk=1, timestamp=0, payload=payload)
        said = np.frombuffer(await line.heard(20_000), "<i2")
        assert abs(said[1000:-1000].astype(int) + 3000).max() < 20
        stop_media_between(client, media)
        (stop,) = await other.until("stop")
        assert stop["mediaInfo"]["duration"] >= 780


async def test_events_encodings_and_tags() -> None:
    async with ScriptedProvider() as provider, peer() as other, WebSocketMedia(other.url) as media:
        told: list[tuple[str, dict[str, Any]]] = []
        ended = asyncio.Event()
        for name in WebSocketEvents:
            media.add_event_listener(name, lambda event: told.append((event.name.name, event.data)))
        media.add_event_listener(WebSocketEvents.MEDIA_ENDED, lambda _: ended.set())
        async with client_of(provider) as (client, line):
            client.send_media_to(media, {"tag": "a", "encoding": "ALAW", "custom_parameters": {"x": "1"}})
            client.send_media_to(media, {"tag": "a", "encoding": "ULAW"})
            await line.audio(bytes(48_000))
            starts = await other.until("start", 2)
            assert [s["mediaFormat"]["encoding"] for s in starts] == ["ALAW", "ULAW"]
            assert starts[0]["customParameters"] == {"x": "1"}
            assert len(await other.until("stop")) == 1
            assert (await other.until("media"))[0]["tag"] == "a"
        await other.until("stop", 2)
        left, right = RecordingUnit(), RecordingUnit()
        media.send_media_to(left, {"tag": "left"})
        media.send_media_to(right)
        for tag in ("left", "other"):
            await other.say("start", tag=tag, mediaFormat={"encoding": "ULAW"}, customParameters={"t": tag})
            payload = base64.b64encode(b"z" * 800).decode()
            await other.say("media", tag=tag, chunk=1, timestamp=0, payload=payload)
        await other.say("stop", tag="left")
        await other.say("hello", text="not audio")
        await asyncio.wait_for(ended.wait(), 10)
        assert left.audio == b"z" * 800
        assert left.calls[0] == ("started", (media.id(), "left", "pcmu", {}))
        assert right.audio == b""
        started = [data for name, data in told if name == "MEDIA_STARTED"]
        assert started[0] == {"tag": "left", "encoding": "ULAW", "custom_parameters": {"t": "left"}}
        assert ("MEDIA_ENDED", {"tag": "left", "media_info": {"duration": 100}}) in told
        assert next(data["text"] for name, data in told if name == "MESSAGE").startswith('{"event": "hello"')
    assert told[-1] == ("CLOSE", {"code": 1000, "reason": ""})


async def test_two_sources_need_tags_of_their_own() -> None:
    async with (
        ScriptedProvider() as provider,
        peer() as other,
        WebSocketMedia(other.url) as media,
        client_of(provider) as (one, _),
        client_of(provider) as (two, line),
    ):
        one.send_media_to(media)
        two.send_media_to(media)
        assert two.statistics.media_units_failed == 1
        two.send_media_to(media, {"tag": "two"})
        await line.audio(bytes(960 * 5))
        assert (await other.until("media", 4))[0]["tag"] == "two"


async def test_what_cannot_be_sent_in_time_is_dropped_and_counted() -> None:
    async with peer() as other:
        media = WebSocketMedia(other.url)
        media.media_started(Source(), tag=None, encoding="PCM16", custom_parameters={})
        for _ in range(MAX_QUEUED + 100):
            media.media(Source(), MediaChunk(bytes(640), "", "", 0))
        assert media.dropped == 101
        await media.connect()
        await other.until("media", MAX_QUEUED - 1)
        assert len(other.of("start")) == 1
        media.close()
        await media.wait_closed()


async def test_a_web_socket_that_cannot_be_opened() -> None:
    with pytest.raises(UnavailableError, match="cannot be opened"):
        await WebSocketMedia("ws://127.0.0.1:9").connect()


async def test_a_web_socket_that_is_cut_is_told() -> None:
    async with peer() as other:
        media = await WebSocketMedia(other.url).connect()
        closed = asyncio.Event()
        media.add_event_listener(WebSocketEvents.CLOSE, lambda _: closed.set())
        await other.until("none", 0)
        assert other.socket is not None
        other.socket.transport.abort()
        await asyncio.wait_for(closed.wait(), 10)
        await asyncio.wait_for(media.wait_closed(), 10)
