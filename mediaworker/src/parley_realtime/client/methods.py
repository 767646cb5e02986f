"""The methods of both clients: they build a client event and hand it to `send_event`.

A mixin each, so that whatever can send an event (a client, or a stand-in for one in another process) has the
same methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.errors import InvalidEventError
from parley_realtime.payloads import beta_objects as beta
from parley_realtime.payloads import ga_client as ga

Fields = Mapping[str, Any]


class SendsEvents:
    """What the methods need: whoever mixes them in comes first in the order of classes and sends."""

    def send_event(self, event: Fields) -> None:
        """Send a whole client event, `type` included."""
        raise NotImplementedError


class GAMethods(SendsEvents):
    """Methods of the GA client: each takes the whole event of the provider's reference without its `type`.

    Each raises InvalidEventError when a field it needs is missing.
    """

    def session_update(
        self, parameters: ga.SessionUpdateFields | Fields, *, event_id: str | None = None
    ) -> None:
        """`{"session": {...}}`: a partial update; audio formats in it are replaced by the connector's."""
        self._send("session.update", parameters, event_id, "session")

    def response_create(
        self, parameters: ga.ResponseCreateFields | Fields | None = None, *, event_id: str | None = None
    ) -> None:
        """`{}` or `{"response": {...}}`."""
        self._send("response.create", parameters, event_id)

    def response_cancel(
        self, parameters: ga.ResponseCancelFields | Fields | None = None, *, event_id: str | None = None
    ) -> None:
        """`{}` or `{"response_id": ...}`."""
        self._send("response.cancel", parameters, event_id)

    def conversation_item_create(
        self, parameters: ga.ConversationItemCreateFields | Fields, *, event_id: str | None = None
    ) -> None:
        """`{"item": {...}, "previous_item_id"?: ...}`."""
        self._send("conversation.item.create", parameters, event_id, "item")

    def conversation_item_retrieve(
        self, parameters: ga.ItemIdFields | Fields, *, event_id: str | None = None
    ) -> None:
        """`{"item_id": ...}`."""
        self._send("conversation.item.retrieve", parameters, event_id, "item_id")

    def conversation_item_truncate(
        self, parameters: ga.ConversationItemTruncateFields | Fields, *, event_id: str | None = None
    ) -> None:
        """`{"item_id": ..., "content_index": 0, "audio_end_ms": ...}`."""
        fields = ("item_id", "content_index", "audio_end_ms")
        self._send("conversation.item.truncate", parameters, event_id, *fields)

    def conversation_item_delete(
        self, parameters: ga.ItemIdFields | Fields, *, event_id: str | None = None
    ) -> None:
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


class BetaMethods(SendsEvents):
    """Methods of the beta client: they take positional arguments and build the event."""

    def session_update(
        self, session: beta.SessionSettings | beta.TranscriptionSettings | Fields, event_id: str | None = None
    ) -> None:
        """A partial update; the audio formats in it are replaced by the connector's."""
        self._send("session.update", event_id, session=session)

    def response_create(
        self, response: beta.ResponseSettings | Fields | None = None, event_id: str | None = None
    ) -> None:
        """Make the model answer; `input_audio_format` is ignored."""
        self._send("response.create", event_id, **({} if response is None else {"response": response}))

    def response_cancel(self, event_id: str | None = None) -> None:
        """Cancel the response in progress."""
        self._send("response.cancel", event_id)

    def conversation_item_create(
        self, previous_item_id: str | None, item: beta.Item | Fields, event_id: str | None = None
    ) -> None:
        """Add an item behind `previous_item_id`: None is the end, `"root"` the beginning."""
        before = {} if previous_item_id is None else {"previous_item_id": previous_item_id}
        self._send("conversation.item.create", event_id, item=item, **before)

    def conversation_item_retrieve(self, item_id: str, event_id: str | None = None) -> None:
        """Ask for an item; the answer is `ConversationItemRetrieved`."""
        self._send("conversation.item.retrieve", event_id, item_id=item_id)

    def conversation_item_truncate(
        self, item_id: str, content_index: int, audio_end_ms: int, event_id: str | None = None
    ) -> None:
        """Cut the audio of an assistant's message at what was heard."""
        fields = {"item_id": item_id, "content_index": content_index, "audio_end_ms": audio_end_ms}
        self._send("conversation.item.truncate", event_id, **fields)

    def conversation_item_delete(self, item_id: str, event_id: str | None = None) -> None:
        """Remove an item."""
        self._send("conversation.item.delete", event_id, item_id=item_id)

    def _send(self, kind: str, event_id: str | None, **fields: Any) -> None:
        event = {"type": kind, **fields}
        if event_id is not None:
            event["event_id"] = event_id
        self.send_event(event)
