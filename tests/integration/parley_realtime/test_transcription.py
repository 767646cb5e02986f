"""A transcription in both shapes, against a live local provider."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import parley_realtime
import pytest
from parley_local import LocalProviderConfig, serve
from parley_realtime import PCM16, ClientType, RealtimeAPIClientParameters, RealtimeEvent, beta

APIS: dict[str, Any] = {"ga": parley_realtime, "beta": beta}
TURNS = {"type": "server_vad", "silence_duration_ms": 300}
UPDATES: dict[str, dict[str, Any]] = {
    "ga": {"session": {"audio": {"input": {"transcription": {"model": "any"}, "turn_detection": TURNS}}}},
    "beta": {"input_audio_transcription": {"model": "any"}, "turn_detection": TURNS},
}


@pytest.mark.parametrize("shape", APIS)
async def test_words_come_and_no_answer(shape: str) -> None:
    """The session's events have one name in both shapes, whatever the provider calls them."""
    heard: list[RealtimeEvent[Any, Any]] = []
    written = asyncio.Event()
    tone = (np.sin(np.arange(PCM16.rate) * 0.1) * 12_000).astype("<i2").tobytes()
    async with serve(LocalProviderConfig(port=0)) as provider:
        client = APIS[shape].RealtimeAPIClient(
            RealtimeAPIClientParameters(base_url=provider.url, type=ClientType.TRANSCRIPTION)
        )
        events = APIS[shape].RealtimeAPIEvents
        for name in events:
            client.add_event_listener(name, heard.append)
        client.add_event_listener(
            events.ConversationItemInputAudioTranscriptionCompleted, lambda _: written.set()
        )
        await client.connect()
        client.session_update(UPDATES[shape])
        client.push_media(tone + bytes(PCM16.bytes_per_second))
        await asyncio.wait_for(written.wait(), 15)
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)
    by_name = {event.name: event.data["payload"] for event in heard}
    wire = "transcription_session" if shape == "beta" else "session"
    assert by_name[events.SessionCreated]["type"] == f"{wire}.created"
    assert by_name[events.SessionUpdated]["type"] == f"{wire}.updated"
    completed = by_name[events.ConversationItemInputAudioTranscriptionCompleted]
    assert completed["transcript"].endswith("seconds of sound")
    assert events.ResponseCreated not in by_name
    assert events.Error not in by_name, by_name.get(events.Error)
