"""A spoken conversation by the OpenAI Agents SDK: RealtimeRunner and its session."""

from __future__ import annotations

from typing import Any

from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession
from peer_side import Ear, Mouth, background, hold, main, report


async def listen(session: RealtimeSession, ear: Ear) -> None:
    async for event in session:
        if event.type == "audio":
            ear.hear(event.audio.data)
        elif event.type == "audio_interrupted":
            ear.interrupted()
        elif event.type == "error":
            report("error", error=str(event.error))
        elif event.type == "history_updated":
            for item in event.history:
                if item.type == "message" and item.role == "user":
                    words = [getattr(part, "transcript", None) or "" for part in item.content]
                    report("history", item=item.item_id, words=" ".join(words).strip())


async def run(plan: dict[str, Any]) -> None:
    agent = RealtimeAgent(name="Reception", instructions="Ask for the caller's code.")
    settings: dict[str, Any] = {
        "model_name": "gpt-realtime",
        "voice": "alloy",
        "modalities": ["audio"],
        "input_audio_format": "pcm16",
        "output_audio_format": "pcm16",
        "input_audio_transcription": {"model": "whisper-1"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 700, "interrupt_response": True},
    }
    runner = RealtimeRunner(starting_agent=agent, config={"tracing_disabled": True})
    config: Any = {"url": plan["url"], "api_key": plan["key"], "initial_model_settings": settings}
    async with await runner.run(model_config=config) as session:
        ear = Ear()
        mouth = Mouth(session.send_audio)
        async with background(mouth.run(), listen(session, ear)):
            await hold(plan, mouth, ear)


if __name__ == "__main__":
    main(run)
