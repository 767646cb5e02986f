"""The beta client: methods take positional arguments and build the event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from parley_realtime.client.base import BaseRealtimeAPIClient
from parley_realtime.client.parameters import RealtimeAPIClientParameters
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.shape import Shape


class RealtimeAPIClient(BaseRealtimeAPIClient):
    """See BaseRealtimeAPIClient. On barge-in the audio buffer is cleared by itself."""

    shape: ClassVar[Shape] = BETA

    def session_update(self, session: Mapping[str, Any], event_id: str | None = None) -> None:
        """A partial update; the audio formats in it are replaced by the connector's."""
        self._send("session.update", event_id, session=session)

    def response_create(self, response: Mapping[str, Any] | None = None, event_id: str | None = None) -> None:
        """Make the model answer; `input_audio_format` is ignored."""
        self._send("response.create", event_id, **({} if response is None else {"response": response}))

    def response_cancel(self, event_id: str | None = None) -> None:
        """Cancel the response in progress."""
        self._send("response.cancel", event_id)

    def conversation_item_create(
        self, previous_item_id: str | None, item: Mapping[str, Any], event_id: str | None = None
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


async def create_realtime_api_client(parameters: RealtimeAPIClientParameters) -> RealtimeAPIClient:
    """A connected beta client; raises the RealtimeError that prevented it."""
    return await RealtimeAPIClient(parameters).connect()
