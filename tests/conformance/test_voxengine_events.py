"""Every event of VoxEngine's RealtimeAPIClient in both shapes: the provider's frame in, the event out.

One WebSocket per test; the frames are made from the payloads' types, with every field that may be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import parley_realtime
import pytest
from parley_realtime import RealtimeAPIClientParameters, RealtimeEvent, beta, catalogue
from payload_samples import sample, server_events
from realtime_units import RecordingUnit
from scripted_provider import Line, ScriptedProvider

APIS: dict[str, Any] = {"ga": parley_realtime, "beta": beta}
OWN = {"Unknown", "HTTPResponse", "WebSocketError", "ConnectorInformation"}
NAMED = [
    (shape, row.name, wire)
    for shape in APIS
    for row in catalogue.rows(shape)
    if row.name not in OWN
    for wire in row.types(shape)
]


@dataclass
class Call:
    """A connected client whose listener puts every event into `heard`."""

    api: Any
    client: Any
    line: Line
    heard: asyncio.Queue[RealtimeEvent[Any, Any]]

    async def next(self) -> RealtimeEvent[Any, Any]:
        return await asyncio.wait_for(self.heard.get(), 15)


@pytest.fixture
def shape(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "ga"))


@pytest.fixture
async def call(shape: str) -> AsyncIterator[Call]:
    api, heard = APIS[shape], asyncio.Queue[RealtimeEvent[Any, Any]]()
    async with ScriptedProvider() as provider:
        client = api.RealtimeAPIClient(RealtimeAPIClientParameters(base_url=provider.base_url))
        for event in (*api.RealtimeAPIEvents, *api.Events):
            client.add_event_listener(event, heard.put_nowait)
        await client.connect()
        call = Call(api, client, await provider.accepted(), heard)
        while (await call.next()).name != api.RealtimeAPIEvents.SessionCreated:
            pass
        yield call
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)


@pytest.mark.parametrize(
    ("shape", "name", "wire"),
    NAMED,
    ids=[
        f"{shape}-{name}" + ("-transcription" if wire.startswith("transcription_") else "")
        for shape, name, wire in NAMED
    ],
    indirect=["shape"],
)
async def test_event(call: Call, shape: str, name: str, wire: str) -> None:
    """The listener gets the name, the client and the provider's own JSON, unknown fields included."""
    frame = {**sample(dict(server_events(shape))[wire]), "obfuscation": "x", "brand_new": {"field": [1]}}
    await call.line.send(frame)
    event = await call.next()
    assert event.name == call.api.RealtimeAPIEvents[name]
    assert event.name == catalogue.name_prefix(shape) + name
    assert event.client is call.client
    assert event.data == {"payload": frame}


NAMELESS = [(shape, wire) for shape in APIS for wire, shapes in catalogue.NAMELESS if shapes.has(shape)] + [
    ("ga", "brand.new"),
    ("beta", "brand.new"),
    ("ga", "response.text.delta"),
    ("beta", "session.closed"),
]


@pytest.mark.parametrize(
    ("shape", "wire"), NAMELESS, ids=[f"{shape}-{wire}" for shape, wire in NAMELESS], indirect=["shape"]
)
async def test_unknown(call: Call, wire: str) -> None:
    """What has no name is `Unknown`, with its payload as it came."""
    await call.line.send({"type": wire, "anything": {"at": "all"}})
    event = await call.next()
    assert event.name == call.api.RealtimeAPIEvents.Unknown
    assert event.data["payload"]["type"] == wire
    assert event.data["payload"]["anything"] == {"at": "all"}


async def test_http_response_and_connector_information() -> None:
    """`HTTPResponse` and `ConnectorInformation` come before the session, in GA."""
    events: list[RealtimeEvent[Any, Any]] = []
    created = asyncio.Event()
    names = parley_realtime.RealtimeAPIEvents
    async with ScriptedProvider() as provider:
        client = parley_realtime.RealtimeAPIClient(RealtimeAPIClientParameters(base_url=provider.base_url))
        for name in (names.HTTPResponse, names.ConnectorInformation):
            client.add_event_listener(name, events.append)
        client.add_event_listener(names.SessionCreated, lambda _: created.set())
        await client.connect()
        await asyncio.wait_for(created.wait(), 15)
        client.close()
        await client.wait_closed()
    assert [event.name for event in events] == [names.HTTPResponse, names.ConnectorInformation]
    assert events[0].data["payload"] == {"status": 101}
    assert events[1].data["payload"] == {
        "web_socket_id": client.web_socket_id(),
        "client_id": client.id(),
        "api_version": "ga",
    }


async def test_web_socket_error(call: Call) -> None:
    """`WebSocketError` says what ended the connection, once, and not after `close()`."""
    await call.line.socket.close(1011, "out of order")
    event = await call.next()
    assert event.name == parley_realtime.RealtimeAPIEvents.WebSocketError
    payload = event.data["payload"]
    assert payload["reason"] == "ProviderUnavailable"
    assert (payload["close_code"], payload["retryable"]) == (1011, True)
    assert "out of order" in payload["message"]


@pytest.mark.parametrize("shape", ["ga", "beta"], indirect=True)
async def test_web_socket_media_events(call: Call, shape: str) -> None:
    """`WebSocketMediaStarted` when audio begins to play, `WebSocketMediaEnded` after a second of silence."""
    call.client.send_media_to(
        RecordingUnit(own_clock=True), {"tag": "caller", "custom_parameters": {"room": "7"}}
    )
    await call.line.audio(b"\1\2" * 4800, beta=shape == "beta")
    started, ended = await call.next(), await call.next()
    assert started.name == call.api.Events.WebSocketMediaStarted
    assert started.client is call.client
    assert started.data["tag"] == "caller"
    assert started.data["custom_parameters"] == {"room": "7"}
    assert started.data["encoding"]
    assert ended.name == call.api.Events.WebSocketMediaEnded
    assert ended.data["tag"] == "caller"
    assert ended.data["media_info"]["duration"] == 200
