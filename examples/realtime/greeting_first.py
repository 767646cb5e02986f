"""The agent speaks first; the caller is heard when the greeting has ended.

python examples/realtime/greeting_first.py speaks.wav hears.wav
"""

from __future__ import annotations

import asyncio

from parley_realtime import (
    Events,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    create_realtime_api_client,
)
from telephone import Telephone, provider, run

INSTRUCTIONS = "You are the receptionist of a small hotel. Answer in one sentence."
GREETING = "Greet the caller and ask how you can help."


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(RealtimeAPIClientParameters(**provider()))
    client.send_media_to(telephone)
    talking: list[asyncio.Task[None]] = []

    client.add_event_listener(
        RealtimeAPIEvents.ResponseOutputAudioTranscriptDone,
        lambda e: print("agent:", e.data["payload"]["transcript"]),
    )
    client.add_event_listener(
        RealtimeAPIEvents.ConversationItemInputAudioTranscriptionCompleted,
        lambda e: print("caller:", e.data["payload"]["transcript"]),
    )

    def silence(_: object) -> None:
        """The agent fell silent: after the greeting the caller's turn comes, after the answer we hang up."""
        if not talking:
            talking.append(asyncio.create_task(telephone.talk(client)))
        elif telephone.spoken.is_set():
            client.close()

    client.add_event_listener(Events.WebSocketMediaEnded, silence)

    # The session first: what is said after it is said by its rules.
    transcription = {"model": "gpt-4o-transcribe"}
    client.session_update(
        {"session": {"instructions": INSTRUCTIONS, "audio": {"input": {"transcription": transcription}}}}
    )
    client.response_create({"response": {"instructions": GREETING}})

    error = await client.wait_closed()
    await asyncio.gather(*talking)
    return error


if __name__ == "__main__":
    run(call)
