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
