"""The GA shape: nested audio objects, `response.output_audio.*`, no OpenAI-Beta header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.events import GA_NAMES, Events, RealtimeAPIEvents
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.shape import FLAT_FORMAT_FIELDS, ClientType, Event, object_field, without
from parley_realtime.recovery import RECOVERY_NAMES


class GAShape:
    """See `Shape`."""

    label = "ga"
    default_model = "gpt-realtime"
    names: Mapping[str, str] = GA_NAMES
    unknown_name = RealtimeAPIEvents.Unknown.value
    media_started_name = Events.WebSocketMediaStarted.value
    media_ended_name = Events.WebSocketMediaEnded.value
    clears_on_speech = False

    @property
    def event_names(self) -> frozenset[str]:
        return (
            frozenset(e.value for e in RealtimeAPIEvents)
            | frozenset(e.value for e in Events)
            | RECOVERY_NAMES
        )

    def headers(self) -> dict[str, str]:
        return {}

    def own_formats(
        self, event: Mapping[str, Any], kind: ClientType, inward: AudioFormat, outward: AudioFormat
    ) -> Event:
        kept = dict(event)
        if event.get("type") == "session.update":
            session = without(object_field(event, "session") or {}, *FLAT_FORMAT_FIELDS)
            session.setdefault("type", kind.value)
            audio = object_field(session, "audio") or {}
            audio["input"] = {**(object_field(audio, "input") or {}), "format": inward.ga()}
            if session["type"] == ClientType.REALTIME.value:
                audio["output"] = {**(object_field(audio, "output") or {}), "format": outward.ga()}
            session["audio"] = audio
            kept["session"] = session
        elif (
            event.get("type") == "response.create"
            and (response := object_field(event, "response")) is not None
        ):
            response = without(response, *FLAT_FORMAT_FIELDS)
            if (audio_given := object_field(response, "audio")) is not None:
                response["audio"] = self._response_audio(audio_given, outward)
            kept["response"] = response
        return kept

    def _response_audio(self, audio: dict[str, Any], outward: AudioFormat) -> dict[str, Any]:
        if (inner := object_field(audio, "input")) is not None:
            audio["input"] = without(inner, "format")
        if (inner := object_field(audio, "output")) is not None:
            audio["output"] = {**inner, "format": outward.ga()} if "format" in inner else inner
        return audio

    def formats_update(self, kind: ClientType, inward: AudioFormat, outward: AudioFormat) -> Event:
        return self.own_formats({"type": "session.update", "session": {}}, kind, inward, outward)


GA = GAShape()
