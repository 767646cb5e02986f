"""Two clients converse by themselves, each with an agent of the local provider."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_realtime import (
    PCM16,
    PCMU,
    AudioFormat,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    create_realtime_api_client,
    send_media_between,
    stop_media_between,
)
from parley_realtime.client.line_fill import FILL_SECONDS
from parley_realtime.units import Player
from scripted_provider import ScriptedProvider
from sound_files import sound_file

TURNS = 2


async def agent(url: str, audio: AudioFormat) -> tuple[RealtimeAPIClient, asyncio.Queue[str]]:
    """A client, and the words of its agent's answers."""
    client = await create_realtime_api_client(
        RealtimeAPIClientParameters(base_url=url, model="local", input_format=audio, output_format=audio)
    )
    said: asyncio.Queue[str] = asyncio.Queue()

    def note(event: Any) -> None:
        said.put_nowait(event.data["payload"]["transcript"])

    client.add_event_listener(RealtimeAPIEvents.ResponseOutputAudioTranscriptDone, note)
    client.session_update({"session": {"type": "realtime", "instructions": "converse"}})
    return client, said


async def test_two_agents_of_different_formats_take_turns() -> None:
    async with serve(LocalProviderConfig(port=0, brain="echo")) as local:
        url = local.url
        (one, first), (two, second) = [await agent(url, audio) for audio in (PCM16, PCMU)]
        async with one, two:
            send_media_between(one, two)
            content = [{"type": "input_text", "text": "hi"}]
            one.conversation_item_create({"item": {"type": "message", "role": "user", "content": content}})
            one.response_create()
            async with asyncio.timeout(40):
                for _ in range(TURNS):
                    assert await first.get()
                    assert await second.get()
            stop_media_between(one, two)
            assert one.statistics.media_units_failed == two.statistics.media_units_failed == 0


async def test_the_line_stays_open_when_the_other_side_is_silent(tmp_path: Any) -> None:
    """Sound, then silence in real time; none beside audio that is pushed; none when the unit is gone."""

    (tmp_path / "tone.wav").write_bytes(sound_file("wav", seconds=0.2))
    async with ScriptedProvider() as provider:
        client = await create_realtime_api_client(RealtimeAPIClientParameters(base_url=provider.base_url))
        async with client:
            line = await provider.accepted()
            player = Player(str(tmp_path / "tone.wav"))
            player.send_media_to(client)
            await player.run()
            heard = np.frombuffer(await line.heard(PCM16.frame_bytes * 25), "<i2")
            loud = np.flatnonzero(np.abs(heard.astype(int)) > 100)
            assert loud[-1] < 24_000 * 0.25
            assert not heard[loud[-1] + 3000 :].any()
            size = len(line.audio_in)
            for _ in range(10):
                client.push_media(b"\1\1" * 480)
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.02)
            pushed = np.frombuffer(line.audio_in[size:], "<i2")
            assert np.count_nonzero(pushed == 0) <= 480 * 4
            player.stop_media_to(client)
            await asyncio.sleep(0.05)
            size = len(line.audio_in)
            await asyncio.sleep(0.2)
            assert len(line.audio_in) == size
    assert FILL_SECONDS > 8
