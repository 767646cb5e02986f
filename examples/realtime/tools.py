"""The model calls functions of this program, several at once if it likes, and speaks about what they gave.

python examples/realtime/tools.py speaks.wav hears.wav
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

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

DEADLINE = 5.0
GET_WEATHER: ga.Tool = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city, now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


async def get_weather(city: str) -> dict[str, Any]:
    """A program of yours would ask a service here."""
    await asyncio.sleep(0.05)
    return {"city": city, "temperature": 21, "sky": "sunny"}


FUNCTIONS = {"get_weather": get_weather}


async def result_of(call: ga.FunctionCall) -> str:
    """What the model is told: the result, or an error that it can speak about."""
    try:
        async with asyncio.timeout(DEADLINE):
            return json.dumps(await FUNCTIONS[call["name"]](**json.loads(call["arguments"])))
    except TimeoutError:
        return json.dumps({"error": "took too long"})
    except (KeyError, TypeError, ValueError) as exc:
        return json.dumps({"error": f"{type(exc).__name__}: check name and arguments"})


async def on_done(event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ResponseDone]]) -> None:
    """A response may hold words and calls, in any order: answer all calls, then ask for one response."""
    output = event.data["payload"]["response"]["output"]
    calls = [item for item in output if item["type"] == "function_call"]
    if not calls:
        return
    for call, result in zip(calls, await asyncio.gather(*map(result_of, calls)), strict=True):
        print(f"{call['name']}({call['arguments']}) -> {result}")
        event.client.conversation_item_create(
            {"item": {"type": "function_call_output", "call_id": call.get("call_id", ""), "output": result}}
        )
    event.client.response_create()


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(RealtimeAPIClientParameters(**provider()))
    client.send_media_to(telephone)
    answered: list[str] = []

    def said(event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ResponseOutputAudioTranscriptDone]]) -> None:
        answered.append(event.data["payload"]["transcript"])
        print("agent:", answered[-1])

    def silence(_: object) -> None:
        if answered and telephone.spoken.is_set():
            client.close()

    client.add_event_listener(RealtimeAPIEvents.ResponseDone, on_done)
    client.add_event_listener(RealtimeAPIEvents.ResponseOutputAudioTranscriptDone, said)
    client.add_event_listener(Events.WebSocketMediaEnded, silence)
    client.session_update({"session": {"tools": [GET_WEATHER], "tool_choice": "auto"}})
    talking = asyncio.create_task(telephone.talk(client))
    error = await client.wait_closed()
    await talking
    return error


if __name__ == "__main__":
    run(call)
