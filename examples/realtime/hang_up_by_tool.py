"""The model ends the call itself, by a function; it says goodbye first, and that is heard to its end.

python examples/realtime/hang_up_by_tool.py speaks.wav hears.wav
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

HANG_UP: ga.Tool = {
    "type": "function",
    "name": "hang_up",
    "description": "Ends the call. Call it when the caller says goodbye or wants nothing more.",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
PATIENCE = 15.0


class HangUp:
    """Answers the function, lets the goodbye be said, then closes the client."""

    def __init__(self, client: RealtimeAPIClient) -> None:
        self._client = client
        self._asked = False
        client.add_event_listener(RealtimeAPIEvents.ResponseDone, self._done)

    def _done(self, event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ResponseDone]]) -> None:
        for item in event.data["payload"]["response"]["output"]:
            if item["type"] == "function_call" and item["name"] == "hang_up" and not self._asked:
                self._asked = True
                self._say_goodbye(item.get("call_id", ""))

    def _say_goodbye(self, call_id: str) -> None:
        output = {"type": "function_call_output", "call_id": call_id, "output": '{"ok": true}'}
        self._client.conversation_item_create({"item": output})
        self._client.response_create({"response": {"instructions": "Say goodbye in one short sentence."}})
        # A second of silence after the goodbye ends the call; so does a goodbye that never comes.
        self._client.add_event_listener(Events.WebSocketMediaEnded, lambda e: e.client.close())
        asyncio.get_running_loop().call_later(PATIENCE, self._client.close)


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(RealtimeAPIClientParameters(**provider()))
    client.send_media_to(telephone)
    HangUp(client)
    client.add_event_listener(
        RealtimeAPIEvents.ResponseOutputAudioTranscriptDone,
        lambda e: print("agent:", e.data["payload"]["transcript"]),
    )
    client.session_update({"session": {"tools": [HANG_UP]}})
    talking = asyncio.create_task(telephone.talk(client))
    error = await client.wait_closed()
    await talking
    print("(hung up)")
    return error


if __name__ == "__main__":
    run(call)
