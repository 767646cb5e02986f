"""An open connection: what ends it, what is bounded, what listeners see. Real sockets on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_realtime import (
    PCM16,
    PCMU,
    ClientStateError,
    ClientType,
    ConnectionState,
    InvalidEventError,
    OutgoingQueueFull,
    ProtocolError,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    RealtimeEvent,
    ScenarioError,
    SessionExpired,
    UnavailableError,
    WebSocketCloseEvent,
    beta,
    create_realtime_api_client,
)
from realtime_units import RecordingUnit
from scripted_provider import Line, ScriptedProvider

KEY = "sk-very-secret-key"
FRAME = PCM16.frame_bytes


def parameters(provider: ScriptedProvider, **more: Any) -> RealtimeAPIClientParameters:
    return RealtimeAPIClientParameters(**{"api_key": KEY, "base_url": provider.base_url, **more})


async def ended(client: RealtimeAPIClient | beta.RealtimeAPIClient) -> RealtimeError | None:
    return await asyncio.wait_for(client.wait_closed(), 15)


class TestEnd:
    @pytest.mark.parametrize(
        ("code", "reason", "kind", "retryable"),
        [
            (1000, "", UnavailableError, True),
            (1001, "Your session hit the maximum duration of 60 minutes.", SessionExpired, True),
            (1011, "internal error", UnavailableError, True),
            (1012, "restart", UnavailableError, True),
            (1008, "policy", ProtocolError, False),
            (4999, "odd", ProtocolError, False),
        ],
    )
    async def test_the_provider_closes(
        self, code: int, reason: str, kind: type[RealtimeError], retryable: bool
    ) -> None:
        closes: list[WebSocketCloseEvent] = []
        names: list[str] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, on_web_socket_close=closes.append))
            client.add_event_listener(
                RealtimeAPIEvents.WebSocketError, lambda e: names.append(e.data["payload"]["reason"])
            )
            await (await provider.accepted()).socket.close(code, reason)
            error = await ended(client)
        assert type(error) is kind
        assert (error.close_code, error.retryable) == (code, retryable)
        assert client.error is error
        assert [(c.code, c.reason, c.was_clean) for c in closes] == [(code, reason, True)]
        assert closes[0].web_socket_id == client.web_socket_id()
        assert names == [error.reason]

    async def test_the_connection_is_cut(self) -> None:
        closes: list[WebSocketCloseEvent] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, on_web_socket_close=closes.append))
            (await provider.accepted()).socket.transport.abort()
            error = await ended(client)
        assert type(error) is UnavailableError
        assert [(c.code, c.was_clean) for c in closes] == [(1006, False)]

    @pytest.mark.parametrize(
        "frame",
        [
            "{broken",
            b"\x00\xff",
            "[]",
            '{"type":"response.output_audio.delta","delta":"%%%","response_id":"r","item_id":"i"}',
        ],
    )
    async def test_what_cannot_be_understood_ends_it(self, frame: str | bytes) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            line = await provider.accepted()
            await line.send_raw(frame)
            error = await ended(client)
            await asyncio.wait_for(line.closed.wait(), 15)
            assert line.socket.close_code == 1002
        assert type(error) is ProtocolError
        assert error.reason == "ProviderProtocolError"

    async def test_broken_before_the_session(self) -> None:
        async def script(line: Line) -> None:
            await line.send_raw("{")
            await line.listen()

        async with ScriptedProvider(script) as provider:
            with pytest.raises(ProtocolError, match="not JSON"):
                await create_realtime_api_client(parameters(provider))

    async def test_a_frame_beyond_the_bound(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, max_frame_bytes=2000))
            await (await provider.accepted()).send({"type": "x", "filler": "x" * 3000})
            error = await ended(client)
        assert type(error) is ProtocolError
        assert "max_frame_bytes" in str(error)

    async def test_no_answer_to_pings(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(
                parameters(provider, ping_interval=0.1, ping_timeout=0.2)
            )
            line = await provider.accepted()
            line.socket.transport.pause_reading()
            error = await ended(client)
            line.socket.transport.abort()
        assert type(error) is UnavailableError
        assert "pings" in str(error)
        assert error.retryable

    async def test_a_provider_that_reads_nothing(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(
                parameters(provider, send_timeout=0.3, ping_interval=None, outgoing_events=4000)
            )
            line = await provider.accepted()
            line.socket.transport.pause_reading()
            for _ in range(160):
                client.send_event({"type": "conversation.item.create", "item": {"filler": "x" * 50_000}})
            error = await ended(client)
            line.socket.transport.abort()
        assert type(error) is UnavailableError
        assert error.code == "send_timeout"

    async def test_close_is_quiet_and_leaves_nothing(self) -> None:
        closes: list[WebSocketCloseEvent] = []
        names: list[str] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, on_web_socket_close=closes.append))
            client.add_event_listener(RealtimeAPIEvents.WebSocketError, lambda e: names.append(e.name))
            client.close()
            assert await ended(client) is None
            assert client.error is None
            client.response_create()
            client.push_media(b"\0" * FRAME)
            client.close()
        assert (names, [c.code for c in closes]) == ([], [1000])
        assert client.statistics.events_ignored_after_close == 1
        assert client.state is ConnectionState.CLOSED

    async def test_a_provider_that_does_not_say_goodbye(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, close_timeout=0.2))
            line = await provider.accepted()
            line.socket.transport.pause_reading()
            client.close()
            assert await ended(client) is None
            line.socket.transport.abort()

    async def test_an_async_on_web_socket_close_is_awaited_and_its_error_hurts_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[int] = []

        async def on_close(event: WebSocketCloseEvent) -> None:
            await asyncio.sleep(0)
            calls.append(event.code)
            raise RuntimeError("in on_close")

        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, on_web_socket_close=on_close))
            client.close()
            await ended(client)
        assert calls == [1000]
        assert "in on_close" in caplog.text


class TestScenario:
    async def run(self, callback: object, **more: Any) -> tuple[RealtimeAPIClient, list[ScenarioError]]:
        told: list[ScenarioError] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(
                parameters(provider, on_scenario_error=told.append, **more)
            )
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, callback)
            await (await provider.accepted()).send({"type": "session.updated", "session": {}})
            assert await ended(client) is client.scenario_error
        return client, told

    async def test_no_function(self) -> None:
        client, told = await self.run("not a function")
        assert told == [client.scenario_error]
        assert "is a str" in str(told[0])

    async def test_a_raise(self) -> None:
        def broken(_: Any) -> None:
            raise ValueError("mine")

        client, told = await self.run(broken)
        assert told == [client.scenario_error]
        assert "raised ValueError: mine" in str(told[0])
        assert told[0].reason == "ScenarioFailed"

    async def test_an_endless_listener(self) -> None:
        client, _ = await self.run(lambda _: asyncio.Event().wait(), handler_timeout=0.1)
        assert "did not end" in str(client.scenario_error)

    async def test_no_function_without_an_event_does_no_harm(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            client.add_event_listener(RealtimeAPIEvents.ResponseDone, 5)
            got = asyncio.Event()
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, lambda _: got.set())
            await (await provider.accepted()).send({"type": "session.updated"})
            await asyncio.wait_for(got.wait(), 15)
            client.close()
            assert await ended(client) is None

    async def test_listeners_slower_than_a_flood(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(
                parameters(provider, pending_events=10, handler_timeout=0.5)
            )
            client.add_event_listener(RealtimeAPIEvents.RateLimitsUpdated, lambda _: asyncio.Event().wait())
            line = await provider.accepted()
            for _ in range(20):
                await line.send({"type": "rate_limits.updated", "rate_limits": []})
            error = await ended(client)
        assert isinstance(error, ScenarioError)
        assert "slower than the provider" in str(error)

    async def test_close_inside_a_listener(self) -> None:
        """What waits for its turn is forgotten; the listener that closes runs to its end."""
        order: list[str] = []
        waiting = asyncio.Event()

        def observer(event: dict[str, Any]) -> None:
            if event["type"] == "session.updated":
                asyncio.get_running_loop().call_soon(waiting.set)

        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, observer=observer))

            async def hang_up(event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
                await asyncio.wait_for(waiting.wait(), 15)
                event.client.close()
                with pytest.raises(ClientStateError, match="wait for itself"):
                    await event.client.wait_closed()
                await asyncio.sleep(0.05)
                order.append("listener ended")

            client.add_event_listener(RealtimeAPIEvents.SessionCreated, hang_up)
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, lambda _: order.append("never"))
            await (await provider.accepted()).send({"type": "session.updated"})
            assert await ended(client) is None
            order.append("closed")
        assert order == ["listener ended", "closed"]

    async def test_an_observer_that_raises_ends_the_client(self, caplog: pytest.LogCaptureFixture) -> None:
        def observer(_: Any) -> None:
            raise LookupError("inside")

        async with ScriptedProvider() as provider:
            client = RealtimeAPIClient(parameters(provider, observer=observer))
            await client.connect()
            error = await ended(client)
        assert isinstance(error, RealtimeError)
        assert error.reason == "Internal"
        assert "observer raised LookupError" in str(error)


class TestEvents:
    async def test_who_comes_from_a_factory_misses_nothing(self) -> None:
        names: list[str] = []
        done = asyncio.Event()
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            await asyncio.sleep(0.05)
            for event in RealtimeAPIEvents:
                client.add_event_listener(event, lambda e: names.append(e.name))
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, lambda _: done.set())
            await (await provider.accepted()).send({"type": "session.updated"})
            await asyncio.wait_for(done.wait(), 15)
            client.close()
            await ended(client)
        assert names == [
            RealtimeAPIEvents.HTTPResponse,
            RealtimeAPIEvents.ConnectorInformation,
            RealtimeAPIEvents.SessionCreated,
            RealtimeAPIEvents.SessionUpdated,
        ]

    async def test_the_observer_sees_everything_but_audio_and_before_listeners(self) -> None:
        order: list[tuple[str, str]] = []
        done = asyncio.Event()
        async with ScriptedProvider() as provider:
            client = RealtimeAPIClient(
                parameters(provider, observer=lambda event: order.append(("observer", event["type"])))
            )
            client.add_event_listener(
                RealtimeAPIEvents.Unknown, lambda e: order.append(("unknown", e.data["payload"]["type"]))
            )
            client.add_event_listener(RealtimeAPIEvents.ResponseDone, lambda _: done.set())
            await client.connect()
            line = await provider.accepted()
            await line.audio(b"\1\2" * 100)
            await line.send({"type": "brand.new", "x": 1})
            await line.send({"type": "response.done", "response": {"id": "resp_1"}})
            await asyncio.wait_for(done.wait(), 15)
            client.close()
            await ended(client)
        assert [kind for who, kind in order if who == "observer"] == [
            "session.created",
            "brand.new",
            "response.done",
        ]
        assert order.index(("observer", "brand.new")) < order.index(("unknown", "brand.new"))
        assert client.statistics.audio_bytes_received == 200

    async def test_error_without_close_is_not_fatal(self) -> None:
        errors: list[Any] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            client.add_event_listener(
                RealtimeAPIEvents.Error, lambda e: errors.append(e.data["payload"]["error"]["code"])
            )
            line = await provider.accepted()
            await line.send(
                {"type": "error", "error": {"code": "response_cancel_not_active", "message": "none"}}
            )
            client.response_create({})
            await line.expect("response.create")
            client.close()
            await ended(client)
        assert errors == ["response_cancel_not_active"]

    async def test_a_flood_of_audio_is_bounded_and_the_socket_is_read(self) -> None:
        unit, done = RecordingUnit(), asyncio.Event()
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, playout_buffer_ms=1000))
            client.send_media_to(unit)
            client.add_event_listener(RealtimeAPIEvents.ResponseDone, lambda _: done.set())
            line = await provider.accepted()
            for _ in range(200):
                await line.audio(b"\1\2" * 24_000)
            await line.send({"type": "response.done", "response": {"id": "resp_1"}})
            await asyncio.wait_for(done.wait(), 20)
            statistics = client.statistics
            assert statistics.audio_bytes_received == 200 * 48_000
            assert statistics.playout_bytes_dropped >= 190 * 48_000 - len(unit.audio)
            client.close()
            await ended(client)

    async def test_transcription(self) -> None:
        async def script(line: Line) -> None:
            await line.send({"type": "transcription_session.created", "session": {}})
            await line.listen()

        async with ScriptedProvider(script) as provider:
            client = await create_realtime_api_client(parameters(provider, type=ClientType.TRANSCRIPTION))
            line = await provider.accepted()
            assert line.path == "/v1/realtime?intent=transcription"
            client.session_update(
                {"session": {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}}
            )
            sent = await line.expect("session.update")
            assert sent["session"]["type"] == "transcription"
            client.close()
            await ended(client)


class TestSending:
    async def test_before_connect(self) -> None:
        async with ScriptedProvider() as provider:
            client = RealtimeAPIClient(parameters(provider))
            with pytest.raises(ClientStateError, match=r"response\.create needs a connection"):
                client.response_create()
            client.push_media(b"\1\2" * (FRAME // 2))
            await client.connect()
            assert await (await provider.accepted()).heard(FRAME) == b"\1\2" * (FRAME // 2)
            with pytest.raises(ClientStateError, match="works once"):
                await client.connect()
            client.close()
            await ended(client)

    async def test_other_formats_go_ahead_of_the_first_audio(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(
                parameters(provider, input_format=PCMU, output_format=PCMU)
            )
            client.push_media(b"\x7f" * 160)
            client.response_create()
            line = await provider.accepted()
            await line.heard(160)
            await line.expect("response.create")
            client.close()
            await ended(client)
        assert [e["type"] for e in line.received] == [
            "session.update",
            "input_audio_buffer.append",
            "response.create",
        ]
        assert line.received[0]["session"]["audio"] == {
            "input": {"format": {"type": "audio/pcmu"}},
            "output": {"format": {"type": "audio/pcmu"}},
        }

    async def test_nothing_goes_before_the_session(self) -> None:
        async with ScriptedProvider(Line.listen) as provider:
            client = RealtimeAPIClient(parameters(provider, input_format=PCMU))
            connecting = asyncio.create_task(client.connect())
            line = await provider.accepted()
            client.push_media(b"\1" * 160)
            client.input_audio_buffer_commit()
            await asyncio.sleep(0.1)
            assert line.received == []
            await line.greet()
            await connecting
            await line.expect("input_audio_buffer.commit")
            assert [e["type"] for e in line.received] == [
                "session.update",
                "input_audio_buffer.append",
                "input_audio_buffer.commit",
            ]
            client.close()
            await ended(client)

    async def test_audio_is_bounded_while_the_provider_does_not_read(self) -> None:
        async with ScriptedProvider(Line.listen) as provider:
            client = RealtimeAPIClient(parameters(provider, media_buffer_ms=200))
            connecting = asyncio.create_task(client.connect())
            line = await provider.accepted()
            for n in range(100):
                client.push_media(bytes([n]) * FRAME)
            await line.greet()
            await connecting
            assert await line.heard(FRAME * 10) == b"".join(bytes([n]) * FRAME for n in range(90, 100))
            assert client.statistics.input_bytes_dropped == FRAME * 90
            client.close()
            await ended(client)

    async def test_events_are_bounded(self) -> None:
        async with ScriptedProvider(Line.listen) as provider:
            client = RealtimeAPIClient(parameters(provider, outgoing_events=3))
            connecting = asyncio.create_task(client.connect())
            await provider.accepted()
            for _ in range(3):
                client.response_cancel()
            with pytest.raises(OutgoingQueueFull):
                client.response_cancel()
            client.close()
            with pytest.raises(RealtimeError):
                await connecting

    async def test_what_the_user_gets_wrong(self) -> None:
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            with pytest.raises(InvalidEventError, match="push_media"):
                client.send_event({"type": "input_audio_buffer.append", "audio": ""})
            with pytest.raises(InvalidEventError, match="'session' is missing"):
                client.session_update({"instructions": "hi"})
            with pytest.raises(InvalidEventError, match="leave 'type' out"):
                client.session_update({"type": "realtime", "session": {}})
            with pytest.raises(InvalidEventError, match="'audio_end_ms' is missing"):
                client.conversation_item_truncate({"item_id": "i", "content_index": 0})
            with pytest.raises(InvalidEventError, match="as an object"):
                client.response_create("now")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="whole number of pcm16"):
                client.push_media(b"\1")
            with pytest.raises(ValueError, match="its own media unit"):
                client.send_media_to(client)
            client.close()
            assert await ended(client) is None
