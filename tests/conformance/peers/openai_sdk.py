"""A spoken conversation by the official `openai` package, in either shape.

The package leaves interruptions to its user, so this program does what the provider's guide asks of one: when
the caller speaks, playing stops and the item is truncated at what was played.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import Any

from openai import AsyncOpenAI
from peer_side import Ear, Mouth, background, hold, main, report

TURNS = {"type": "server_vad", "silence_duration_ms": 700}
HEARING = {"model": "whisper-1"}
SESSIONS: dict[str, Any] = {
    "ga": {"type": "realtime", "audio": {"input": {"transcription": HEARING, "turn_detection": TURNS}}},
    "beta": {"input_audio_transcription": HEARING, "turn_detection": TURNS},
}


async def listen(connection: Any, ear: Ear) -> None:
    item, played_before = "", 0.0
    async for event in connection:
        if event.type in ("response.output_audio.delta", "response.audio.delta"):
            if event.item_id != item:
                item, played_before = event.item_id, ear.playing_until
            ear.hear(base64.b64decode(event.delta))
        elif event.type == "input_audio_buffer.speech_started":
            now = asyncio.get_running_loop().time()
            if ear.playing_until > now:
                begun = max(ear.started_at or now, played_before)
                ear.interrupted()
                await connection.conversation.item.truncate(
                    item_id=item, content_index=0, audio_end_ms=int((now - begun) * 1000)
                )
        elif event.type == "conversation.item.input_audio_transcription.completed":
            report("history", item=event.item_id, words=event.transcript)
        elif event.type == "error":
            report("error", error=event.error.message)


async def run(plan: dict[str, Any]) -> None:
    shape = plan["shape"]
    trusted = ssl.create_default_context(cafile=plan["ca"])
    client = AsyncOpenAI(api_key=plan["key"], websocket_base_url=plan["url"].removesuffix("/realtime"))
    realtime = client.realtime if shape == "ga" else client.beta.realtime
    model = "gpt-realtime" if shape == "ga" else "gpt-4o-realtime-preview"
    async with (
        client,
        realtime.connect(model=model, websocket_connection_options={"ssl": trusted}) as connection,
    ):
        await connection.session.update(session=SESSIONS[shape])
        ear = Ear()

        async def send(pcm: bytes) -> None:
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())

        mouth = Mouth(send)
        async with background(mouth.run(), listen(connection, ear)):
            await connection.response.create()
            await hold(plan, mouth, ear)


if __name__ == "__main__":
    main(run)
