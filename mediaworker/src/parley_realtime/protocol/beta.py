"""The beta shape: flat session fields, `response.audio.*`, header `OpenAI-Beta: realtime=v1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.events import BETA_NAMES, BetaEvents, BetaRealtimeAPIEvents
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.shape import FLAT_FORMAT_FIELDS, ClientType, Event, object_field, without
from parley_realtime.recovery import RECOVERY_NAMES

_UPDATE_TYPES = ("session.update", "transcription_session.update")


class BetaShape:
    """See `Shape`."""

    label = "beta"
    default_model = "gpt-4o-realtime-preview-2024-10-01"
    names: Mapping[str, str] = BETA_NAMES
    unknown_name = BetaRealtimeAPIEvents.Unknown.value
    media_started_name = BetaEvents.WebSocketMediaStarted.value
    media_ended_name = BetaEvents.WebSocketMediaEnded.value
    clears_on_speech = True

    @property
    def event_names(self) -> frozenset[str]:
        return (
            frozenset(e.value for e in BetaRealtimeAPIEvents)
            | frozenset(e.value for e in BetaEvents)
            | RECOVERY_NAMES
        )

    def headers(self) -> dict[str, str]:
        return {"OpenAI-Beta": "realtime=v1"}

    def own_formats(
        self, event: Mapping[str, Any], kind: ClientType, inward: AudioFormat, outward: AudioFormat
    ) -> Event:
        kept = dict(event)
        if kind is ClientType.TRANSCRIPTION and event.get("type") == "session.update":
            event = kept = {**event, "type": "transcription_session.update"}
        if event.get("type") in _UPDATE_TYPES:
            session = without(object_field(event, "session") or {}, *FLAT_FORMAT_FIELDS)
            session["input_audio_format"] = inward.beta_name
            if event["type"] == "session.update":
                session["output_audio_format"] = outward.beta_name
            kept["session"] = session
        elif (
            event.get("type") == "response.create"
            and (response := object_field(event, "response")) is not None
        ):
            given = "output_audio_format" in response
            response = without(response, *FLAT_FORMAT_FIELDS)
            if given:
                response["output_audio_format"] = outward.beta_name
            kept["response"] = response
        return kept

    def formats_update(self, kind: ClientType, inward: AudioFormat, outward: AudioFormat) -> Event:
        update = "session.update" if kind is ClientType.REALTIME else "transcription_session.update"
        return self.own_formats({"type": update, "session": {}}, kind, inward, outward)


BETA = BetaShape()
