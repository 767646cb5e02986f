"""GA client events. `<Event>Fields` is what the client's method takes: the event without its `type`."""

from typing import Literal, NotRequired, TypedDict

from parley_realtime.payloads.ga_objects import Item, ResponseSettings, SessionSettings, TranscriptionSettings


class ClientEventFields(TypedDict, total=False):
    """`event_id`: at most 512 characters; an `error` about this event names it."""

    event_id: str


class SessionUpdateFields(ClientEventFields):
    """What `session_update` takes."""

    session: SessionSettings | TranscriptionSettings


class SessionUpdate(SessionUpdateFields):
    """`session.update`"""

    type: Literal["session.update"]


class InputAudioBufferAppend(ClientEventFields):
    """`input_audio_buffer.append`; the client makes it of what `push_media` gets."""

    type: Literal["input_audio_buffer.append"]
    audio: str


class InputAudioBufferCommit(ClientEventFields):
    """`input_audio_buffer.commit`"""

    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClear(ClientEventFields):
    """`input_audio_buffer.clear`"""

    type: Literal["input_audio_buffer.clear"]


class OutputAudioBufferClear(ClientEventFields):
    """`output_audio_buffer.clear`, on WebRTC and SIP only."""

    type: Literal["output_audio_buffer.clear"]


class ConversationItemCreateFields(ClientEventFields):
    """What `conversation_item_create` takes. `previous_item_id`: none is the end, `root` the beginning."""

    item: Item
    previous_item_id: NotRequired[str | None]


class ConversationItemCreate(ConversationItemCreateFields):
    """`conversation.item.create`"""

    type: Literal["conversation.item.create"]


class ItemIdFields(ClientEventFields):
    """What `conversation_item_retrieve` and `conversation_item_delete` take."""

    item_id: str


class ConversationItemRetrieve(ItemIdFields):
    """`conversation.item.retrieve`"""

    type: Literal["conversation.item.retrieve"]


class ConversationItemDelete(ItemIdFields):
    """`conversation.item.delete`"""

    type: Literal["conversation.item.delete"]


class ConversationItemTruncateFields(ItemIdFields):
    """What `conversation_item_truncate` takes."""

    content_index: int
    audio_end_ms: int


class ConversationItemTruncate(ConversationItemTruncateFields):
    """`conversation.item.truncate`"""

    type: Literal["conversation.item.truncate"]


class ResponseCreateFields(ClientEventFields, total=False):
    """What `response_create` takes."""

    response: ResponseSettings


class ResponseCreate(ResponseCreateFields):
    """`response.create`"""

    type: Literal["response.create"]


class ResponseCancelFields(ClientEventFields, total=False):
    """What `response_cancel` takes."""

    response_id: str


class ResponseCancel(ResponseCancelFields):
    """`response.cancel`"""

    type: Literal["response.cancel"]


ClientEvent = (
    SessionUpdate
    | InputAudioBufferAppend
    | InputAudioBufferCommit
    | InputAudioBufferClear
    | OutputAudioBufferClear
    | ConversationItemCreate
    | ConversationItemRetrieve
    | ConversationItemTruncate
    | ConversationItemDelete
    | ResponseCreate
    | ResponseCancel
)
"""Every client event of the GA shape, told apart by `type`."""
