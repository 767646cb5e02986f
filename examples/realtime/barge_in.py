"""The caller interrupts: the agent falls silent at once, and remembers only what was heard.

python examples/realtime/barge_in.py speaks.wav hears.wav
"""

from __future__ import annotations

import asyncio

from parley_realtime import (
    Events,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    RealtimeEvent,
    create_realtime_api_client,
)
from parley_realtime.payloads import ga
from telephone import Telephone, provider, run


class BargeIn:
    """Knows which item of the agent is being heard, and ends it when the caller begins to speak."""

    def __init__(self, client: RealtimeAPIClient, telephone: Telephone) -> None:
        self._client, self._telephone = client, telephone
        self._item = ""
        self._owes_answer = False
        client.add_event_listener(RealtimeAPIEvents.ResponseOutputItemAdded, self._speaks)
        client.add_event_listener(RealtimeAPIEvents.InputAudioBufferSpeechStarted, self._interrupted)
        client.add_event_listener(Events.WebSocketMediaEnded, self._said)

    def _speaks(self, event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ResponseOutputItemAdded]]) -> None:
        self._owes_answer = False
        item = event.data["payload"]["item"]
        if item["type"] == "message":
            self._item = item.get("id", "")

    def _interrupted(self, _: object) -> None:
        # The provider ends the response by itself (`interrupt_response`); here the rest of it is forgotten.
        self._owes_answer = True
        self._client.clear_media_buffer()
        heard = self._telephone.heard_ms(self._item)
        if self._item and heard:
            print(f"(interrupted after {heard} ms)")
            self._client.conversation_item_truncate(
                {"item_id": self._item, "content_index": 0, "audio_end_ms": heard}
            )
        self._item = ""

    def _said(self, _: object) -> None:
        self._item = ""
        if self._telephone.spoken.is_set() and not self._owes_answer:
            self._client.close()


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(RealtimeAPIClientParameters(**provider()))
    BargeIn(client, telephone)
    client.send_media_to(telephone)
    client.add_event_listener(
        RealtimeAPIEvents.ResponseDone,
        lambda e: print("response:", e.data["payload"]["response"]["status"]),
    )
    client.add_event_listener(
        RealtimeAPIEvents.ConversationItemTruncated,
        lambda e: print("the history ends at", e.data["payload"]["audio_end_ms"], "ms"),
    )
    client.session_update({"session": {"instructions": "Answer at length."}})
    talking = asyncio.create_task(telephone.talk(client))
    error = await client.wait_closed()
    await talking
    return error


if __name__ == "__main__":
    run(call)
