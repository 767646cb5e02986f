"""Beta client events; the beta client's methods build them from positional arguments."""

from typing import Literal, NotRequired

from parley_realtime.payloads.beta_objects import (
    Item,
    ResponseSettings,
    SessionSettings,
    TranscriptionSettings,
)
from parley_realtime.payloads.ga_client import (
    ClientEventFields,
    ConversationItemDelete,
    ConversationItemRetrieve,
    ConversationItemTruncate,
    InputAudioBufferAppend,
    InputAudioBufferClear,
    InputAudioBufferCommit,
    OutputAudioBufferClear,
    ResponseCancel,
)


class SessionUpdate(ClientEventFields):
    """`session.update`"""

    type: Literal["session.update"]
    session: SessionSettings


class TranscriptionSessionUpdate(ClientEventFields):
    """`transcription_session.update`; `session_update` sends it on a transcription's client."""

    type: Literal["transcription_session.update"]
    session: TranscriptionSettings


class ConversationItemCreate(ClientEventFields):
    """`conversation.item.create`"""

    type: Literal["conversation.item.create"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ResponseCreate(ClientEventFields):
    """`response.create`"""

    type: Literal["response.create"]
    response: NotRequired[ResponseSettings]


ClientEvent = (
    SessionUpdate
    | TranscriptionSessionUpdate
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
"""Every client event of the beta shape, told apart by `type`."""
