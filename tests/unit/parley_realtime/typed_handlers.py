"""A scenario as users write it, for the type checker: it is read by mypy and never run.

What is wrong on purpose carries the error that mypy has to give; strict mode complains where it does not.
"""

from __future__ import annotations

from typing import Any, assert_type

from parley_realtime import Events, RealtimeAPIClient, RealtimeAPIEvents, RealtimeEvent, beta
from parley_realtime.payloads import beta as b
from parley_realtime.payloads import ga as p
from parley_realtime.recovery import RecoveryEvents

Done = RealtimeEvent[RealtimeAPIClient, p.Data[p.ResponseDone]]


def on_done(event: Done) -> None:
    response = event.data["payload"]["response"]
    assert_type(response["id"], str)
    for item in response["output"]:
        if item["type"] == "function_call":
            assert_type(item, p.FunctionCall)
            assert_type(item["arguments"], str)
        elif item["type"] == "message" and item["role"] == "assistant":
            item["content"][0]["transcript"]
            item["arguments"]  # type: ignore[typeddict-item]
    event.client.response_create({"response": {"instructions": "Say goodbye."}})
    event.data["payload"]["respons"]  # type: ignore[typeddict-item]


async def on_media_ended(event: RealtimeEvent[RealtimeAPIClient, p.MediaEndedData]) -> None:
    assert_type(event.data["media_info"]["duration"], int)


def on_anything(event: RealtimeEvent[Any, Any]) -> None:
    """Takes every event."""


def scenario(client: RealtimeAPIClient) -> None:
    client.add_event_listener(RealtimeAPIEvents.ResponseDone, on_done)
    client.add_event_listener(Events.WebSocketMediaEnded, on_media_ended)
    client.add_event_listener(
        RealtimeAPIEvents.ResponseDone, lambda e: print(e.data["payload"]["response"]["output"][0])
    )
    client.add_event_listener(RealtimeAPIEvents.Unknown, lambda e: print(e.data["payload"]["whatever"]))
    client.add_event_listener(RecoveryEvents.Reconnected, lambda e: print(e.data["payload"]["items"]))
    for name in RealtimeAPIEvents:
        client.add_event_listener(name, on_anything)

    client.add_event_listener(RealtimeAPIEvents.ResponseCreated, on_done)  # type: ignore[arg-type]
    client.add_event_listener(RealtimeAPIEvents.ResponseDone, "on_done")  # type: ignore[call-overload]
    client.add_event_listener("response.done", on_done)  # type: ignore[call-overload]
    client.add_event_listener(
        RealtimeAPIEvents.ResponseDone,
        lambda e: e.data["payload"]["transcript"],  # type: ignore[index]
    )


def anything(payload: p.ServerEvent) -> str:
    """The union of all events is told apart by type."""
    if payload["type"] == "conversation.item.input_audio_transcription.completed":
        return payload["transcript"]
    if payload["type"] == "rate_limits.updated":
        assert_type(payload["rate_limits"][0]["remaining"], int)
    return payload["type"]


def methods(client: RealtimeAPIClient, old: beta.RealtimeAPIClient) -> None:
    client.session_update({"session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}})
    fields: dict[str, Any] = {"session": {"type": "realtime"}}
    client.session_update(fields)
    old.session_update({"voice": "alloy", "turn_detection": {"type": "server_vad", "threshold": 0.5}})
    old.add_event_listener(
        beta.RealtimeAPIEvents.ResponseTextDone, lambda e: print(e.data["payload"]["text"])
    )


def of_old(event: RealtimeEvent[beta.RealtimeAPIClient, b.Data[b.ResponseDone]]) -> None:
    for item in event.data["payload"]["response"]["output"]:
        if item["type"] == "function_call":
            assert_type(item["name"], str)
    event.client.response_create({"modalities": ["text"]})
