"""The GA client: methods take the whole event of the provider's reference without its `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from parley_realtime.client.base import BaseRealtimeAPIClient
from parley_realtime.client.parameters import RealtimeAPIClientParameters
from parley_realtime.errors import InvalidEventError, RealtimeError
from parley_realtime.events import RealtimeAPIEvents
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import Shape

Fields = Mapping[str, Any]


class RealtimeAPIClient(BaseRealtimeAPIClient):
    """See BaseRealtimeAPIClient. Each method raises InvalidEventError when a field it needs is missing.

    On barge-in the audio buffer is not cleared by itself: call `clear_media_buffer()` on
    `RealtimeAPIEvents.InputAudioBufferSpeechStarted`.
    """

    shape: ClassVar[Shape] = GA

    def session_update(self, parameters: Fields, *, event_id: str | None = None) -> None:
        """`{"session": {...}}`: a partial update; audio formats in it are replaced by the connector's."""
        self._send("session.update", parameters, event_id, "session")

    def response_create(self, parameters: Fields | None = None, *, event_id: str | None = None) -> None:
        """`{}` or `{"response": {...}}`."""
        self._send("response.create", parameters, event_id)

    def response_cancel(self, parameters: Fields | None = None, *, event_id: str | None = None) -> None:
        """`{}` or `{"response_id": ...}`."""
        self._send("response.cancel", parameters, event_id)

    def conversation_item_create(self, parameters: Fields, *, event_id: str | None = None) -> None:
        """`{"item": {...}, "previous_item_id"?: ...}`."""
        self._send("conversation.item.create", parameters, event_id, "item")

    def conversation_item_retrieve(self, parameters: Fields, *, event_id: str | None = None) -> None:
        """`{"item_id": ...}`."""
        self._send("conversation.item.retrieve", parameters, event_id, "item_id")

    def conversation_item_truncate(self, parameters: Fields, *, event_id: str | None = None) -> None:
        """`{"item_id": ..., "content_index": 0, "audio_end_ms": ...}`."""
        fields = ("item_id", "content_index", "audio_end_ms")
        self._send("conversation.item.truncate", parameters, event_id, *fields)

    def conversation_item_delete(self, parameters: Fields, *, event_id: str | None = None) -> None:
        """`{"item_id": ...}`."""
        self._send("conversation.item.delete", parameters, event_id, "item_id")

    def input_audio_buffer_clear(
        self, parameters: Fields | None = None, *, event_id: str | None = None
    ) -> None:
        """`{}`."""
        self._send("input_audio_buffer.clear", parameters, event_id)

    def input_audio_buffer_commit(
        self, parameters: Fields | None = None, *, event_id: str | None = None
    ) -> None:
        """`{}`: sent after all audio that was pushed before."""
        self._send("input_audio_buffer.commit", parameters, event_id)

    def _send(self, kind: str, parameters: Fields | None, event_id: str | None, *needed: str) -> None:
        fields = {} if parameters is None else parameters
        if not isinstance(fields, Mapping):
            raise InvalidEventError(f"{kind} takes the event as an object, got {type(fields).__name__}")
        missing = [name for name in needed if name not in fields]
        if missing:
            raise InvalidEventError(
                f"{kind}: {missing[0]!r} is missing: give the whole event without its type, such as "
                f"{{{', '.join(f'{name!r}: ...' for name in needed)}}}"
            )
        if fields.get("type", kind) != kind:
            raise InvalidEventError(f"{kind}: leave 'type' out of the event, got {fields['type']!r}")
        event = {**fields, "type": kind}
        if event_id is not None:
            event["event_id"] = event_id
        self.send_event(event)

    def opened(self, socket_id: str) -> None:
        """See Sink."""
        super().opened(socket_id)
        self._emit(RealtimeAPIEvents.HTTPResponse, {"payload": {"status": 101}})
        information = {"web_socket_id": socket_id, "client_id": self.id(), "api_version": self.shape.label}
        self._emit(RealtimeAPIEvents.ConnectorInformation, {"payload": information})

    def _report(self, outcome: RealtimeError) -> None:
        payload = {
            "reason": outcome.reason,
            "message": outcome.message,
            "code": outcome.code,
            "close_code": outcome.close_code,
            "retryable": outcome.retryable,
        }
        self._emit(RealtimeAPIEvents.WebSocketError, {"payload": payload})


async def create_realtime_api_client(parameters: RealtimeAPIClientParameters) -> RealtimeAPIClient:
    """A connected GA client; raises the RealtimeError that prevented it."""
    return await RealtimeAPIClient(parameters).connect()
