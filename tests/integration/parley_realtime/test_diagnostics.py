"""Clients as media units of each other, silence on the wire, statistics and traces, on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parley_realtime import (
    PCM16,
    PCMU,
    Events,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    RealtimeEvent,
    ScenarioError,
    TraceEntry,
    beta,
    create_realtime_api_client,
)
from parley_realtime.audio import Encoding, encode
from realtime_units import RecordingUnit
from scripted_provider import ScriptedProvider

KEY = "sk-very-secret-key"
FRAME = PCM16.frame_bytes


def parameters(provider: ScriptedProvider, **more: Any) -> RealtimeAPIClientParameters:
    return RealtimeAPIClientParameters(**{"api_key": KEY, "base_url": provider.base_url, **more})


async def ended(client: RealtimeAPIClient | beta.RealtimeAPIClient) -> RealtimeError | None:
    return await asyncio.wait_for(client.wait_closed(), 15)


class TestClientToClient:
    async def test_one_client_speaks_into_another(self) -> None:
        async with ScriptedProvider() as left, ScriptedProvider() as right:
            speaker = await create_realtime_api_client(parameters(left))
            hearer = await beta.create_realtime_api_client(parameters(right))
            speaker.send_media_to(hearer)
            await (await left.accepted()).audio(b"\1\2" * FRAME)
            heard = await (await right.accepted()).heard(FRAME * 2)
            assert heard[: FRAME * 2] == b"\1\2" * FRAME
            for client in (speaker, hearer):
                client.close()
                await ended(client)

    async def test_one_that_hears_another_format_is_given_that(self) -> None:
        async with ScriptedProvider() as left, ScriptedProvider() as right:
            speaker = await create_realtime_api_client(parameters(left))
            hearer = await create_realtime_api_client(parameters(right, input_format=PCMU))
            speaker.send_media_to(hearer)
            line = await left.accepted()
            await line.audio(b"\0\x20" * 24000)
            await line.send({"type": "response.output_audio.done", "response_id": "resp_1"})
            heard = await (await right.accepted()).heard(8000)
            assert set(heard[100:7900]) == {encode(np.array([0x2000], np.int16), Encoding.G711_ULAW)[0]}
            for client in (speaker, hearer):
                client.close()
                await ended(client)


class TestSilence:
    async def test_media_started_and_ended(self) -> None:
        ended_event = asyncio.Event()
        events: list[tuple[str, Any]] = []

        def note(event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
            events.append((event.name, event.data))
            if event.name == Events.WebSocketMediaEnded:
                ended_event.set()

        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            client.add_event_listener(Events.WebSocketMediaStarted, note)
            client.add_event_listener(Events.WebSocketMediaEnded, note)
            client.send_media_to(RecordingUnit(), {"tag": "caller", "custom_parameters": {"a": "1"}})
            line = await provider.accepted()
            for _ in range(5):
                await line.audio(b"\1\2" * (FRAME // 2))
            await asyncio.wait_for(ended_event.wait(), 15)
            client.close()
            await ended(client)
        assert events == [
            (
                Events.WebSocketMediaStarted,
                {"tag": "caller", "encoding": "pcm16", "custom_parameters": {"a": "1"}},
            ),
            (Events.WebSocketMediaEnded, {"tag": "caller", "media_info": {"duration": 100}}),
        ]


class TestStatistics:
    async def test_latencies_and_counts_of_a_conversation(self) -> None:
        """Beside what was sent and received: how long the answer took, and who interrupted whom."""
        done = asyncio.Event()
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, ping_interval=0.05))
            client.add_event_listener(RealtimeAPIEvents.RateLimitsUpdated, lambda _: done.set())
            line = await provider.accepted()
            client.response_create()
            await line.expect("response.create")
            await line.send({"type": "response.created", "response": {"id": "resp_1"}})
            await line.audio(b"\1\2" * PCM16.rate)
            usage = {"input_tokens": 12, "output_tokens": 34}
            response = {"id": "resp_1", "status": "completed", "usage": usage}
            await line.send({"type": "response.done", "response": response})
            await line.send(
                {"type": "input_audio_buffer.speech_started", "item_id": "i", "audio_start_ms": 0}
            )
            await line.send({"type": "input_audio_buffer.speech_stopped", "item_id": "i", "audio_end_ms": 9})
            await line.audio(b"\1\2" * FRAME, "resp_2")
            await line.send({"type": "error", "error": {"message": "x"}})
            while not client.statistics.ping:
                await asyncio.sleep(0.02)
                await line.send({"type": "rate_limits.updated", "rate_limits": []})
            await asyncio.wait_for(done.wait(), 15)
            client.close()
            await ended(client)
        statistics = client.statistics
        assert statistics.connect.count == 1
        assert statistics.first_audio_after_create.count == 1
        assert statistics.first_audio_after_speech.count == 1
        assert 0 < statistics.ping.least <= statistics.ping.most < 5000
        assert (statistics.responses_created, statistics.responses_completed) == (1, 1)
        assert statistics.interruptions == 1, "a second of audio had come and not been played"
        assert (statistics.input_tokens, statistics.output_tokens) == (12, 34)
        assert statistics.errors_received == 1
        assert statistics.audio_bytes_received == (PCM16.rate + FRAME) * 2


class TestRateLimits:
    async def test_the_last_word_on_each_limit_can_be_read(self) -> None:
        """Limits that make no sense are passed over, and their number is bounded."""
        requests = {"name": "requests", "limit": 100, "remaining": 7, "reset_seconds": 1.5}
        tokens = {"name": "tokens", "limit": 4000, "remaining": 3000, "reset_seconds": 0.1}
        told = asyncio.Queue[Any]()
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            client.add_event_listener(RealtimeAPIEvents.RateLimitsUpdated, told.put_nowait)
            line = await provider.accepted()
            assert client.rate_limits == {}
            rows = [requests, {**tokens, "remaining": 1}]
            odd: list[Any] = [7, None, {}, {"name": 5}, *({"name": str(n)} for n in range(100))]
            for limits in (rows, [tokens], None, "x", odd):
                await line.send({"type": "rate_limits.updated", "rate_limits": limits})
                await asyncio.wait_for(told.get(), 15)
            seen = client.rate_limits
            client.close()
            await ended(client)
        assert (seen["requests"], seen["tokens"]) == (requests, tokens)
        assert len(seen) == 16


class TestTraceSink:
    async def test_a_function_gets_every_frame(self) -> None:
        entries: list[TraceEntry] = []
        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, trace=entries.append))
            line = await provider.accepted()
            client.push_media(b"\1\2" * FRAME)
            await line.heard(FRAME * 2)
            await line.audio(b"\3\4" * FRAME)
            await line.send_raw("{broken")
            await ended(client)
        seen = [(entry.direction, entry.frame["type"]) for entry in entries]
        assert ("sent", "input_audio_buffer.append") in seen
        assert [kind for direction, kind in seen if direction == "received"] == [
            "session.created",
            "audio delta",
            "malformed",
        ]
        assert entries[-1].frame["bytes"] == len("{broken")
        assert sorted(entry.at for entry in entries) == [entry.at for entry in entries]


class TestReentrancy:
    async def test_a_listener_may_call_everything(self) -> None:
        """Methods, listeners of its own event and of others, media: and nothing waits for itself."""
        order: list[str] = []
        unit = RecordingUnit(own_clock=True)
        done = asyncio.Event()

        async def first(event: RealtimeEvent[RealtimeAPIClient, Any]) -> None:
            client = event.client
            order.append("first")
            client.remove_event_listener(RealtimeAPIEvents.SessionUpdated, first)
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, lambda _: order.append("added"))
            client.add_event_listener(RealtimeAPIEvents.ResponseDone, lambda _: done.set())
            client.session_update({"session": {"instructions": "x"}})
            await asyncio.sleep(0)
            client.response_create()
            client.send_media_to(unit)
            client.clear_media_buffer()
            client.push_media(b"\1\2" * FRAME)

        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider))
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, first)
            line = await provider.accepted()
            await line.send({"type": "session.updated", "session": {}})
            await line.expect("session.update")
            await line.expect("response.create")
            await line.heard(FRAME * 2)
            await line.send({"type": "session.updated", "session": {}})
            await line.send({"type": "response.done", "response": {"id": "r"}})
            await asyncio.wait_for(done.wait(), 15)
            client.close()
            await ended(client)
        assert order == ["first", "added"]
        assert unit.names() == ["started", "cleared"]

    async def test_a_listener_that_waits_for_another_event_waits_in_vain(self) -> None:
        other = asyncio.Event()

        async def waits(_: object) -> None:
            await other.wait()

        async with ScriptedProvider() as provider:
            client = await create_realtime_api_client(parameters(provider, handler_timeout=0.2))
            client.add_event_listener(RealtimeAPIEvents.SessionUpdated, waits)
            client.add_event_listener(RealtimeAPIEvents.ResponseDone, lambda _: other.set())
            line = await provider.accepted()
            await line.send({"type": "session.updated", "session": {}})
            await line.send({"type": "response.done", "response": {"id": "r"}})
            error = await ended(client)
        assert isinstance(error, ScenarioError)
        assert "waits of OpenAI.RealtimeAPI.SessionUpdated did not end within 0.2 s" in str(error)
        assert not other.is_set()


class TestDiagnostics:
    async def converse(self, provider: ScriptedProvider, **more: Any) -> None:
        client = await create_realtime_api_client(
            parameters(provider, headers={"api-key": "azure-secret-key"}, **more)
        )
        line = await provider.accepted()
        client.push_media(b"\1\2" * 480)
        client.session_update({"session": {"tools": [{"type": "mcp", "authorization": "mcp-token"}]}})
        await line.expect("session.update")
        await line.audio(b"\3\4" * 480)
        await line.send(
            {"type": "error", "error": {"code": "x", "message": f"about {KEY} and azure-secret-key"}}
        )
        await line.send({"type": "conversation.item.retrieved", "item": {"content": [{"audio": "QUJD"}]}})
        client.response_create()
        await line.expect("response.create")
        await line.socket.close()
        await ended(client)

    async def test_trace_holds_everything_but_secrets_and_audio(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.jsonl"
        async with ScriptedProvider() as provider:
            await self.converse(provider, trace=path)
        assert path.stat().st_mode & 0o777 == 0o600
        text = path.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        kinds = [
            (next(k for k in line if k != "t"), (line.get("sent") or line.get("received"))["type"])
            for line in lines
        ]
        assert ("received", "session.created") in kinds
        assert ("sent", "input_audio_buffer.append") in kinds
        assert ("received", "audio delta") in kinds
        assert ("sent", "session.update") in kinds
        for secret in ("secret", "mcp-token", "QUJD", "AQIB"):
            assert secret not in text

    async def test_logs_hold_no_secret_and_statistics_once(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        logging.getLogger("parley_realtime.socket").setLevel(logging.INFO)
        async with ScriptedProvider() as provider:
            await self.converse(provider, statistics=True)
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("parley_realtime")]
        assert sum("events_sent=" in line for line in ours) == 1
        assert not any("secret" in line for line in ours)

    async def test_privacy_keeps_the_text_of_errors_out_of_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: Any) -> None:
            raise ValueError("what the caller said")

        async with ScriptedProvider() as provider:
            client = RealtimeAPIClient(
                parameters(provider, privacy=True, on_scenario_error=broken, on_web_socket_close=broken)
            )
            client.add_event_listener(RealtimeAPIEvents.SessionCreated, broken)
            await client.connect()
            await ended(client)
        assert "on_scenario_error raised ValueError" in caplog.text
        assert "what the caller said" not in caplog.text

    async def test_privacy_logs_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with ScriptedProvider() as provider:
            await self.converse(provider, statistics=True, privacy=True)
        assert [r for r in caplog.records if r.name.startswith("parley_realtime")] == []
