"""The ten methods of VoxEngine's RealtimeAPIClient, on both protocol shapes, against a real WebSocket server.

A test is named after its method. `Side` hides how the shapes spell the same thing: what is asserted is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import parley_realtime
import pytest
from parley_realtime import (
    PCM16,
    BaseRealtimeAPIClient,
    ConnectAborted,
    ConnectionState,
    RealtimeAPIClientParameters,
    RealtimeEvent,
    ScenarioError,
    WebSocketCloseEvent,
    beta,
)
from realtime_units import RecordingUnit
from scripted_provider import Event, Line, ScriptedProvider

FRAME = PCM16.frame_bytes
GA_PCM = {"type": "audio/pcm", "rate": 24000}


@dataclass(frozen=True)
class Side:
    """One protocol shape."""

    name: str
    api: Any  # the module with create_realtime_api_client, RealtimeAPIClient, RealtimeAPIEvents and Events

    @property
    def events(self) -> Any:
        return self.api.RealtimeAPIEvents

    def parameters(self, provider: ScriptedProvider, **more: Any) -> RealtimeAPIClientParameters:
        return RealtimeAPIClientParameters(api_key="sk-test", base_url=provider.base_url, **more)

    def session_update(self, client: Any, session: Mapping[str, Any], event_id: str | None = None) -> None:
        if self.name == "beta":
            client.session_update(session, event_id)
        else:
            client.session_update({"session": session}, event_id=event_id)

    def response_create(self, client: Any, response: Mapping[str, Any], event_id: str | None = None) -> None:
        if self.name == "beta":
            client.response_create(response, event_id)
        else:
            client.response_create({"response": response}, event_id=event_id)


@dataclass
class Call:
    """A connected client and the provider's end of its line."""

    side: Side
    client: BaseRealtimeAPIClient
    line: Line
    provider: ScriptedProvider
    closes: list[WebSocketCloseEvent]

    async def end(self) -> object:
        return await asyncio.wait_for(self.client.wait_closed(), 15)

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send a server event, and wait until listeners have had it."""
        await self.line.send({"type": kind, **fields})

    async def speak(self, payload: bytes, response_id: str = "resp_1") -> None:
        await self.line.audio(payload, response_id, beta=self.side.name == "beta")


@pytest.fixture(params=["ga", "beta"])
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param, beta if request.param == "beta" else parley_realtime)


@pytest.fixture
async def call(side: Side) -> AsyncIterator[Call]:
    closes: list[WebSocketCloseEvent] = []
    async with ScriptedProvider() as provider:
        client = await side.api.create_realtime_api_client(
            side.parameters(provider, on_web_socket_close=closes.append)
        )
        call = Call(side, client, await provider.accepted(), provider, closes)
        yield call
        client.close()
        await call.end()


class Notes:
    """A listener that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[RealtimeEvent[Any, Any]] = []
        self._news = asyncio.Event()

    def __call__(self, event: RealtimeEvent[Any, Any]) -> None:
        self.events.append(event)
        self._news.set()

    async def count(self, number: int) -> None:
        async with asyncio.timeout(15):
            while len(self.events) < number:
                self._news.clear()
                await self._news.wait()


def sent(line: Line) -> list[str]:
    return [event["type"] for event in line.received]


async def test_create_realtime_api_client(call: Call) -> None:
    """The factory gives a client that takes calls at once, with the headers of its shape."""
    call.client.send_event({"type": "response.create"})
    await call.line.expect("response.create")
    headers = call.line.headers
    assert headers["authorization"] == "Bearer sk-test"
    assert headers.get("openai-beta") == ("realtime=v1" if call.side.name == "beta" else None)
    model = "gpt-4o-realtime-preview-2024-10-01" if call.side.name == "beta" else "gpt-realtime"
    assert call.line.path == f"/v1/realtime?model={model}"
    assert "sec-websocket-extensions" not in headers


async def test_add_event_listener(call: Call) -> None:
    created, done, unknown = Notes(), Notes(), Notes()
    call.client.add_event_listener(call.side.events.SessionCreated, created)
    call.client.add_event_listener(call.side.events.ResponseDone, done)
    call.client.add_event_listener(call.side.events.Unknown, unknown)
    await call.tell("response.done", response={"id": "resp_1", "output": []})
    await call.tell("session.frobnicated", detail=1)
    await done.count(1)
    await unknown.count(1)
    await created.count(1)
    event = done.events[0]
    assert event.name == call.side.events.ResponseDone
    assert event.client is call.client
    assert event.data["payload"] == {
        "event_id": "event_2",
        "type": "response.done",
        "response": {"id": "resp_1", "output": []},
    }
    assert unknown.events[0].data["payload"]["detail"] == 1
    assert created.events[0].data["payload"]["session"]["id"] == "sess_1"


async def test_add_event_listener_no_function(call: Call) -> None:
    """Accepted at registration; the scenario ends when an event reaches it."""
    call.client.add_event_listener(call.side.events.ResponseDone, "no function")
    marker = Notes()
    call.client.add_event_listener(call.side.events.SessionUpdated, marker)
    await call.tell("session.updated", session={})
    await marker.count(1)
    assert call.client.state is ConnectionState.OPEN
    await call.tell("response.done", response={"id": "resp_1"})
    error = await call.end()
    assert isinstance(error, ScenarioError)
    assert call.client.scenario_error is error
    assert len(call.closes) == 1


async def test_add_event_listener_never_gets_audio(call: Call) -> None:
    seen, done = Notes(), Notes()
    for event in call.side.events:
        call.client.add_event_listener(event, seen)
    call.client.add_event_listener(call.side.events.ResponseDone, done)
    await call.speak(b"\1\2" * 480)
    await call.tell("response.done", response={"id": "resp_1"})
    await done.count(1)
    assert call.client.statistics.audio_chunks_received == 1
    assert not [e for e in seen.events if "delta" in e.data["payload"]]


async def test_remove_event_listener(call: Call) -> None:
    events = call.side.events
    first, second, last = Notes(), Notes(), Notes()
    call.client.add_event_listener(events.RateLimitsUpdated, first)
    call.client.add_event_listener(events.RateLimitsUpdated, second)
    call.client.add_event_listener(events.ResponseDone, last)
    await call.tell("rate_limits.updated", rate_limits=[])
    await second.count(1)
    call.client.remove_event_listener(events.RateLimitsUpdated, first)
    await call.tell("rate_limits.updated", rate_limits=[])
    await second.count(2)
    call.client.remove_event_listener(events.RateLimitsUpdated)
    await call.tell("rate_limits.updated", rate_limits=[])
    await call.tell("response.done", response={"id": "resp_1"})
    await last.count(1)
    assert (len(first.events), len(second.events)) == (1, 2)


async def test_close(call: Call) -> None:
    """An open connection."""
    call.client.close()
    assert await call.end() is None
    await asyncio.wait_for(call.line.closed.wait(), 15)
    assert call.line.socket.close_code == 1000
    assert [(c.code, c.was_clean, c.web_socket_id) for c in call.closes] == [
        (1000, True, call.client.web_socket_id())
    ]


async def test_close_attempt(side: Side) -> None:
    """A connection attempt: the pending connect ends with a clear error."""
    async with ScriptedProvider(Line.listen) as provider:
        client = side.api.RealtimeAPIClient(side.parameters(provider))
        connecting = asyncio.create_task(client.connect())
        line = await provider.accepted()
        client.close()
        with pytest.raises(ConnectAborted, match=r"close\(\) was called before"):
            await asyncio.wait_for(connecting, 15)
        await asyncio.wait_for(line.closed.wait(), 15)


async def test_id(side: Side) -> None:
    async with ScriptedProvider() as provider:
        one, other = (side.api.RealtimeAPIClient(side.parameters(provider)) for _ in range(2))
        assert isinstance(one.id(), str)
        assert one.id() != other.id()
        before = one.id()
        await one.connect()
        assert one.id() == before
        one.close()
        await one.wait_closed()
        assert one.id() == before


async def test_web_socket_id(side: Side) -> None:
    async with ScriptedProvider() as provider:
        client = side.api.RealtimeAPIClient(side.parameters(provider))
        assert client.web_socket_id() == ""
        await client.connect()
        open_id = client.web_socket_id()
        assert open_id
        assert open_id != client.id()
        client.close()
        await client.wait_closed()
        assert client.web_socket_id() == open_id


async def test_response_cancel(call: Call) -> None:
    client: Any = call.client
    client.response_cancel()
    assert await call.line.expect("response.cancel") == {"type": "response.cancel"}
    client.response_cancel(event_id="cancel_1")
    assert await call.line.expect("response.cancel") == {"type": "response.cancel", "event_id": "cancel_1"}
    if call.side.name == "ga":
        client.response_cancel({"response_id": "resp_1"})
        assert (await call.line.expect("response.cancel"))["response_id"] == "resp_1"


async def test_response_create(call: Call) -> None:
    response = {"instructions": "say hello", "input_audio_format": "g711_alaw"}
    call.side.response_create(call.client, response, "create_1")
    assert await call.line.expect("response.create") == {
        "type": "response.create",
        "event_id": "create_1",
        "response": {"instructions": "say hello"},
    }
    client: Any = call.client
    client.response_create()
    assert await call.line.expect("response.create") == {"type": "response.create"}


async def test_session_update(call: Call) -> None:
    """Whatever the user says about audio formats, the provider is told the connector's own."""
    session = {
        "instructions": "be brief",
        "input_audio_format": "g711_alaw",
        "output_audio_format": "g711_alaw",
    }
    call.side.session_update(call.client, session, "update_1")
    update = await call.line.expect("session.update")
    assert update["event_id"] == "update_1"
    formats: Event = (
        {"input_audio_format": "pcm16", "output_audio_format": "pcm16"}
        if call.side.name == "beta"
        else {"type": "realtime", "audio": {"input": {"format": GA_PCM}, "output": {"format": GA_PCM}}}
    )
    assert update["session"] == {"instructions": "be brief", **formats}


async def test_session_update_nested_formats() -> None:
    """GA: the nested formats are the connector's too; what else is in there is the user's."""
    side = Side("ga", parley_realtime)
    async with ScriptedProvider() as provider:
        client = await side.api.create_realtime_api_client(side.parameters(provider))
        audio = {
            "input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "server_vad"}},
            "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar"},
        }
        side.session_update(client, {"type": "realtime", "audio": audio})
        update = await (await provider.accepted()).expect("session.update")
        assert update["session"]["audio"] == {
            "input": {"format": GA_PCM, "turn_detection": {"type": "server_vad"}},
            "output": {"format": GA_PCM, "voice": "cedar"},
        }
        client.close()
        await client.wait_closed()


async def test_send_media_to(call: Call) -> None:
    """Audio that comes at once is given in frames of 20 ms, in order, whole, and not faster than it plays."""
    unit, audio = RecordingUnit(), bytes(range(256)) * (FRAME * 10 // 256) + b"\0" * (FRAME * 10 % 256)
    loop = asyncio.get_running_loop()
    call.client.send_media_to(unit, {"tag": "caller", "custom_parameters": {"room": "7"}})
    began = loop.time()
    await call.speak(audio[: FRAME * 3])
    await call.speak(audio[FRAME * 3 :])
    await call.tell(
        "response.audio.done" if call.side.name == "beta" else "response.output_audio.done",
        response_id="resp_1",
        item_id="item_1",
        content_index=0,
    )
    await unit.wait_for("done")
    assert loop.time() - began >= 0.199, "ten frames play for 200 ms"
    assert unit.audio == audio
    assert {len(chunk.payload) for chunk in unit.chunks} == {FRAME}
    assert unit.calls[0] == ("started", (call.client.id(), "caller", "pcm16", {"room": "7"}))
    assert unit.calls[-1] == ("done", ("resp_1", "item_1", 0))


async def test_send_media_to_several_units(call: Call) -> None:
    paced, direct = RecordingUnit(), RecordingUnit(own_clock=True)
    call.client.send_media_to(paced)
    call.client.send_media_to(direct)
    await call.speak(b"\1\2" * (FRAME * 2))
    await direct.wait_for("media")
    assert len(direct.chunks) == 1
    await paced.wait_for_audio(FRAME * 4)
    assert paced.audio == direct.audio


async def test_stop_media_to(call: Call) -> None:
    stopped, other = RecordingUnit(), RecordingUnit(own_clock=True)
    call.client.send_media_to(stopped)
    call.client.send_media_to(other)
    await call.speak(b"\1\2" * FRAME * 20)
    await stopped.wait_for("media")
    call.client.stop_media_to(stopped)
    heard = len(stopped.chunks)
    await call.speak(b"\3\4" * FRAME)
    await other.wait_for_audio(FRAME * 42)
    await asyncio.sleep(0.1)
    assert len(stopped.chunks) == heard
    call.client.stop_media_to(stopped)


async def test_clear_media_buffer(call: Call) -> None:
    unit = RecordingUnit()
    call.client.send_media_to(unit)
    await call.tell("response.created", response={"id": "resp_1"})
    await call.speak(b"\1\2" * FRAME * 50)
    await unit.wait_for("media")
    call.client.clear_media_buffer()
    heard = len(unit.chunks)
    await call.speak(b"\1\2" * FRAME)
    await call.tell("response.done", response={"id": "resp_1"})
    await call.tell("response.created", response={"id": "resp_2"})
    await call.speak(b"\5\6" * FRAME, "resp_2")
    await unit.wait_for_audio(heard * FRAME + FRAME * 2)
    assert unit.names().count("cleared") == 1
    assert {chunk.response_id for chunk in unit.chunks[heard:]} == {"resp_2"}


async def test_barge_in(call: Call) -> None:
    """Beta clears the media buffer by itself when the caller speaks, GA leaves it to the scenario."""
    unit, started = RecordingUnit(), Notes()
    call.client.add_event_listener(call.side.events.InputAudioBufferSpeechStarted, started)
    call.client.send_media_to(unit)
    await call.speak(b"\1\2" * FRAME * 50)
    await unit.wait_for("media")
    await call.tell("input_audio_buffer.speech_started", audio_start_ms=1, item_id="item_2")
    await started.count(1)
    assert unit.names().count("cleared") == (1 if call.side.name == "beta" else 0)


async def test_push_media(call: Call) -> None:
    """Caller audio reaches the provider whole and in order, in appends of 20 to 40 ms."""
    audio = b"".join(bytes([n]) * (FRAME // 2) for n in range(40))
    for start in range(0, len(audio), FRAME // 2):
        call.client.push_media(audio[start : start + FRAME // 2])
    assert await call.line.heard(len(audio)) == audio
    sizes = [len(e["audio"]) * 3 // 4 for e in call.line.received]
    assert all(FRAME <= size <= FRAME * 2 for size in sizes)


async def test_conversation_items(call: Call) -> None:
    client: Any = call.client
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    if call.side.name == "beta":
        client.conversation_item_create(None, item, "e1")
        client.conversation_item_create("root", item)
        client.conversation_item_retrieve("item_1", "e2")
        client.conversation_item_truncate("item_1", 0, 1500, "e3")
        client.conversation_item_delete("item_1", "e4")
    else:
        client.conversation_item_create({"item": item}, event_id="e1")
        client.conversation_item_create({"item": item, "previous_item_id": "root"})
        client.conversation_item_retrieve({"item_id": "item_1"}, event_id="e2")
        client.conversation_item_truncate(
            {"item_id": "item_1", "content_index": 0, "audio_end_ms": 1500}, event_id="e3"
        )
        client.conversation_item_delete({"item_id": "item_1", "event_id": "e4"})
    await call.line.expect("conversation.item.delete")
    assert call.line.received == [
        {"type": "conversation.item.create", "item": item, "event_id": "e1"},
        {"type": "conversation.item.create", "item": item, "previous_item_id": "root"},
        {"type": "conversation.item.retrieve", "item_id": "item_1", "event_id": "e2"},
        {
            "type": "conversation.item.truncate",
            "item_id": "item_1",
            "content_index": 0,
            "audio_end_ms": 1500,
            "event_id": "e3",
        },
        {"type": "conversation.item.delete", "item_id": "item_1", "event_id": "e4"},
    ]


async def test_input_audio_buffer() -> None:
    """GA only: commit goes after all audio that was pushed before it."""
    side = Side("ga", parley_realtime)
    async with ScriptedProvider() as provider:
        client = await side.api.create_realtime_api_client(side.parameters(provider))
        client.push_media(b"\1\2" * 100)
        client.input_audio_buffer_commit({})
        client.input_audio_buffer_clear(event_id="e1")
        line = await provider.accepted()
        await line.expect("input_audio_buffer.clear")
        assert sent(line) == [
            "input_audio_buffer.append",
            "input_audio_buffer.commit",
            "input_audio_buffer.clear",
        ]
        client.close()
        await client.wait_closed()
    assert not hasattr(beta.RealtimeAPIClient, "input_audio_buffer_commit")
