"""Beta server events, each named as its event is; client events are in `beta_client`."""

from typing import Literal, NotRequired

from parley_realtime.payloads.beta_client import ClientEvent
from parley_realtime.payloads.beta_objects import (
    Item,
    Response,
    Session,
    TranscriptionSession,
)
from parley_realtime.payloads.common import (
    ConversationCreated,
    ConversationItemDeleted,
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    ConversationItemInputAudioTranscriptionFailed,
    ConversationItemTruncated,
    Data,
    Error,
    InputAudioBufferCleared,
    InputAudioBufferCommitted,
    InputAudioBufferSpeechStarted,
    InputAudioBufferSpeechStopped,
    ItemPlace,
    MediaEndedData,
    MediaStartedData,
    OutputAudioBufferCleared,
    OutputAudioBufferStarted,
    OutputAudioBufferStopped,
    PartPlace,
    RateLimitsUpdated,
    ResponseContentPartAdded,
    ResponseContentPartDone,
    ResponseFunctionCallArgumentsDelta,
    ServerEventFields,
    Unknown,
)

__all__ = [
    "ClientEvent",
    "ConversationCreated",
    "ConversationItemCreated",
    "ConversationItemDeleted",
    "ConversationItemInputAudioTranscriptionCompleted",
    "ConversationItemInputAudioTranscriptionDelta",
    "ConversationItemInputAudioTranscriptionFailed",
    "ConversationItemRetrieved",
    "ConversationItemTruncated",
    "Data",
    "Error",
    "InputAudioBufferCleared",
    "InputAudioBufferCommitted",
    "InputAudioBufferSpeechStarted",
    "InputAudioBufferSpeechStopped",
    "Item",
    "MediaEndedData",
    "MediaStartedData",
    "OutputAudioBufferCleared",
    "OutputAudioBufferStarted",
    "OutputAudioBufferStopped",
    "RateLimitsUpdated",
    "Response",
    "ResponseAudioDelta",
    "ResponseAudioDone",
    "ResponseAudioTranscriptDelta",
    "ResponseAudioTranscriptDone",
    "ResponseContentPartAdded",
    "ResponseContentPartDone",
    "ResponseCreated",
    "ResponseDone",
    "ResponseFunctionCallArgumentsDelta",
    "ResponseFunctionCallArgumentsDone",
    "ResponseOutputItemAdded",
    "ResponseOutputItemDone",
    "ResponseTextDelta",
    "ResponseTextDone",
    "ServerEvent",
    "Session",
    "SessionCreated",
    "SessionUpdated",
    "TranscriptionSession",
    "TranscriptionSessionCreated",
    "TranscriptionSessionUpdated",
    "Unknown",
]


class SessionCreated(ServerEventFields):
    """`session.created`"""

    type: Literal["session.created"]
    session: Session


class SessionUpdated(ServerEventFields):
    """`session.updated`"""

    type: Literal["session.updated"]
    session: Session


class TranscriptionSessionCreated(ServerEventFields):
    """`transcription_session.created`; dispatched as `SessionCreated`"""

    type: Literal["transcription_session.created"]
    session: TranscriptionSession


class TranscriptionSessionUpdated(ServerEventFields):
    """`transcription_session.updated`; dispatched as `SessionUpdated`"""

    type: Literal["transcription_session.updated"]
    session: TranscriptionSession


class ConversationItemCreated(ServerEventFields):
    """`conversation.item.created`"""

    type: Literal["conversation.item.created"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ConversationItemRetrieved(ServerEventFields):
    """`conversation.item.retrieved`"""

    type: Literal["conversation.item.retrieved"]
    item: Item


class ResponseCreated(ServerEventFields):
    """`response.created`"""

    type: Literal["response.created"]
    response: Response


class ResponseDone(ServerEventFields):
    """`response.done`"""

    type: Literal["response.done"]
    response: Response


class ResponseOutputItemAdded(ServerEventFields):
    """`response.output_item.added`"""

    type: Literal["response.output_item.added"]
    response_id: str
    output_index: int
    item: Item


class ResponseOutputItemDone(ServerEventFields):
    """`response.output_item.done`"""

    type: Literal["response.output_item.done"]
    response_id: str
    output_index: int
    item: Item


class ResponseTextDelta(PartPlace):
    """`response.text.delta`"""

    type: Literal["response.text.delta"]
    delta: str


class ResponseTextDone(PartPlace):
    """`response.text.done`"""

    type: Literal["response.text.done"]
    text: str


class ResponseAudioTranscriptDelta(PartPlace):
    """`response.audio_transcript.delta`"""

    type: Literal["response.audio_transcript.delta"]
    delta: str


class ResponseAudioTranscriptDone(PartPlace):
    """`response.audio_transcript.done`"""

    type: Literal["response.audio_transcript.done"]
    transcript: str


class ResponseAudioDelta(PartPlace):
    """`response.audio.delta`; base64; goes to media units and never to listeners"""

    type: Literal["response.audio.delta"]
    delta: str


class ResponseAudioDone(PartPlace):
    """`response.audio.done`"""

    type: Literal["response.audio.done"]


class ResponseFunctionCallArgumentsDone(ItemPlace):
    """`response.function_call_arguments.done`"""

    type: Literal["response.function_call_arguments.done"]
    call_id: str
    arguments: str
    name: NotRequired[str]


ServerEvent = (
    ConversationCreated
    | ConversationItemCreated
    | ConversationItemDeleted
    | ConversationItemInputAudioTranscriptionCompleted
    | ConversationItemInputAudioTranscriptionDelta
    | ConversationItemInputAudioTranscriptionFailed
    | ConversationItemRetrieved
    | ConversationItemTruncated
    | Error
    | InputAudioBufferCleared
    | InputAudioBufferCommitted
    | InputAudioBufferSpeechStarted
    | InputAudioBufferSpeechStopped
    | OutputAudioBufferCleared
    | OutputAudioBufferStarted
    | OutputAudioBufferStopped
    | RateLimitsUpdated
    | ResponseAudioDelta
    | ResponseAudioDone
    | ResponseAudioTranscriptDelta
    | ResponseAudioTranscriptDone
    | ResponseContentPartAdded
    | ResponseContentPartDone
    | ResponseCreated
    | ResponseDone
    | ResponseFunctionCallArgumentsDelta
    | ResponseFunctionCallArgumentsDone
    | ResponseOutputItemAdded
    | ResponseOutputItemDone
    | ResponseTextDelta
    | ResponseTextDone
    | SessionCreated
    | SessionUpdated
    | TranscriptionSessionCreated
    | TranscriptionSessionUpdated
)
"""Every server event of the beta shape, told apart by `type`."""
