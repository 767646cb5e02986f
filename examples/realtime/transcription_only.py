"""Writes down what is said, and answers nothing.

python examples/realtime/transcription_only.py speaks.wav hears.wav
"""

from __future__ import annotations

import asyncio

from parley_realtime import (
    ClientType,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    RealtimeEvent,
    create_realtime_api_client,
)
from parley_realtime.payloads import ga
from telephone import Telephone, provider, run

MODEL = "gpt-4o-transcribe"
LAST_WORDS = 2.0


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(
        RealtimeAPIClientParameters(**provider(), type=ClientType.TRANSCRIPTION)
    )
    open_turns: set[str] = set()
    all_written = asyncio.Event()

    def committed(event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.InputAudioBufferCommitted]]) -> None:
        open_turns.add(event.data["payload"]["item_id"])
        all_written.clear()

    def completed(
        event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ConversationItemInputAudioTranscriptionCompleted]],
    ) -> None:
        print(event.data["payload"]["transcript"])
        open_turns.discard(event.data["payload"]["item_id"])
        if not open_turns:
            all_written.set()

    client.add_event_listener(RealtimeAPIEvents.InputAudioBufferCommitted, committed)
    client.add_event_listener(RealtimeAPIEvents.ConversationItemInputAudioTranscriptionCompleted, completed)
    client.add_event_listener(
        RealtimeAPIEvents.ConversationItemInputAudioTranscriptionFailed,
        lambda e: print("(not understood)", e.data["payload"]["error"].get("message", "")),
    )
    client.session_update(
        {
            "session": {
                "type": "transcription",
                "audio": {
                    "input": {
                        "transcription": {"model": MODEL, "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
                    }
                },
            }
        }
    )
    talking = asyncio.create_task(telephone.talk(client))
    await telephone.spoken.wait()
    await asyncio.sleep(LAST_WORDS)  # the provider hears the end of the last turn by the silence after it
    async with asyncio.timeout(30):
        await all_written.wait()
    client.close()
    error = await client.wait_closed()
    await talking
    return error


if __name__ == "__main__":
    run(call)
