"""GA server events, each named as its event is; client events are in `ga_client`."""

from typing import Literal, NotRequired, TypedDict

from parley_realtime.payloads.common import (
    ConnectorInformation,
    ConversationCreated,
    ConversationItemDeleted,
    ConversationItemInputAudioTranscriptionCompleted,
    ConversationItemInputAudioTranscriptionDelta,
    ConversationItemInputAudioTranscriptionFailed,
    ConversationItemTruncated,
    Data,
    Error,
    HTTPResponse,
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
    WebSocketError,
)
from parley_realtime.payloads.ga_client import ClientEvent
from parley_realtime.payloads.ga_objects import (
    FunctionCall,
    Item,
    Response,
    Session,
    Tool,
    TranscriptionSession,
)

__all__ = [
    "ClientEvent",
    "ConnectorInformation",
    "ConversationCreated",
    "ConversationItemAdded",
    "ConversationItemCreated",
    "ConversationItemDeleted",
    "ConversationItemDone",
    "ConversationItemInputAudioTranscriptionCompleted",
    "ConversationItemInputAudioTranscriptionDelta",
    "ConversationItemInputAudioTranscriptionFailed",
    "ConversationItemInputAudioTranscriptionSegment",
    "ConversationItemRetrieved",
    "ConversationItemTruncated",
    "Data",
    "Error",
    "FunctionCall",
    "HTTPResponse",
    "InputAudioBufferCleared",
    "InputAudioBufferCommitted",
    "InputAudioBufferDTMFEventReceived",
    "InputAudioBufferSpeechStarted",
    "InputAudioBufferSpeechStopped",
    "InputAudioBufferTimeoutTriggered",
    "Item",
    "MCPListToolsCompleted",
    "MCPListToolsFailed",
    "MCPListToolsInProgress",
    "MediaEndedData",
    "MediaStartedData",
    "OutputAudioBufferCleared",
    "OutputAudioBufferStarted",
    "OutputAudioBufferStopped",
    "RateLimitsUpdated",
    "Response",
    "ResponseContentPartAdded",
    "ResponseContentPartDone",
    "ResponseCreated",
    "ResponseDone",
    "ResponseFunctionCallArgumentsDelta",
    "ResponseFunctionCallArgumentsDone",
    "ResponseMCPCallArgumentsDelta",
    "ResponseMCPCallArgumentsDone",
    "ResponseMCPCallCompleted",
    "ResponseMCPCallFailed",
    "ResponseMCPCallInProgress",
    "ResponseOutputAudioDelta",
    "ResponseOutputAudioDone",
    "ResponseOutputAudioTranscriptDelta",
    "ResponseOutputAudioTranscriptDone",
    "ResponseOutputItemAdded",
    "ResponseOutputItemDone",
    "ResponseOutputTextDelta",
    "ResponseOutputTextDone",
    "ServerEvent",
    "Session",
    "SessionCreated",
    "SessionUpdated",
    "Tool",
    "TranscriptionSession",
    "Unknown",
    "WebSocketError",
]


class MCPCallPlace(ServerEventFields):
    """Which MCP call of a response."""

    item_id: str
    output_index: int


class SessionCreated(ServerEventFields):
    """`session.created`"""

    type: Literal["session.created"]
    session: Session | TranscriptionSession


class SessionUpdated(ServerEventFields):
    """`session.updated`"""

    type: Literal["session.updated"]
    session: Session | TranscriptionSession


class ConversationItemAdded(ServerEventFields):
    """`conversation.item.added`"""

    type: Literal["conversation.item.added"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ConversationItemDone(ServerEventFields):
    """`conversation.item.done`"""

    type: Literal["conversation.item.done"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ConversationItemCreated(ServerEventFields):
    """`conversation.item.created`; of old; arrives as `Unknown`"""

    type: Literal["conversation.item.created"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ConversationItemRetrieved(ServerEventFields):
    """`conversation.item.retrieved`"""

    type: Literal["conversation.item.retrieved"]
    item: Item


class ConversationItemInputAudioTranscriptionSegment(ServerEventFields):
    """`conversation.item.input_audio_transcription.segment`; times in seconds"""

    type: Literal["conversation.item.input_audio_transcription.segment"]
    id: str
    item_id: str
    content_index: int
    text: str
    speaker: str
    start: float
    end: float


class InputAudioBufferTimeoutTriggered(ServerEventFields):
    """`input_audio_buffer.timeout_triggered`"""

    type: Literal["input_audio_buffer.timeout_triggered"]
    item_id: str
    audio_start_ms: int
    audio_end_ms: int


class InputAudioBufferDTMFEventReceived(TypedDict):
    """`input_audio_buffer.dtmf_event_received`; on SIP only; arrives as `Unknown`"""

    type: Literal["input_audio_buffer.dtmf_event_received"]
    event: str
    received_at: int


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


class ResponseOutputTextDelta(PartPlace):
    """`response.output_text.delta`"""

    type: Literal["response.output_text.delta"]
    delta: str


class ResponseOutputTextDone(PartPlace):
    """`response.output_text.done`"""

    type: Literal["response.output_text.done"]
    text: str


class ResponseOutputAudioTranscriptDelta(PartPlace):
    """`response.output_audio_transcript.delta`"""

    type: Literal["response.output_audio_transcript.delta"]
    delta: str


class ResponseOutputAudioTranscriptDone(PartPlace):
    """`response.output_audio_transcript.done`"""

    type: Literal["response.output_audio_transcript.done"]
    transcript: str


class ResponseOutputAudioDelta(PartPlace):
    """`response.output_audio.delta`; base64; goes to media units and never to listeners"""

    type: Literal["response.output_audio.delta"]
    delta: str


class ResponseOutputAudioDone(PartPlace):
    """`response.output_audio.done`"""

    type: Literal["response.output_audio.done"]


class ResponseFunctionCallArgumentsDone(ItemPlace):
    """`response.function_call_arguments.done`"""

    type: Literal["response.function_call_arguments.done"]
    call_id: str
    arguments: str
    name: str


class ResponseMCPCallArgumentsDelta(ItemPlace):
    """`response.mcp_call_arguments.delta`"""

    type: Literal["response.mcp_call_arguments.delta"]
    delta: str
    obfuscation: NotRequired[str | None]


class ResponseMCPCallArgumentsDone(ItemPlace):
    """`response.mcp_call_arguments.done`"""

    type: Literal["response.mcp_call_arguments.done"]
    arguments: str


class ResponseMCPCallInProgress(MCPCallPlace):
    """`response.mcp_call.in_progress`"""

    type: Literal["response.mcp_call.in_progress"]


class ResponseMCPCallCompleted(MCPCallPlace):
    """`response.mcp_call.completed`"""

    type: Literal["response.mcp_call.completed"]


class ResponseMCPCallFailed(MCPCallPlace):
    """`response.mcp_call.failed`"""

    type: Literal["response.mcp_call.failed"]


class MCPListToolsInProgress(ServerEventFields):
    """`mcp_list_tools.in_progress`"""

    type: Literal["mcp_list_tools.in_progress"]
    item_id: str


class MCPListToolsCompleted(ServerEventFields):
    """`mcp_list_tools.completed`"""

    type: Literal["mcp_list_tools.completed"]
    item_id: str


class MCPListToolsFailed(ServerEventFields):
    """`mcp_list_tools.failed`"""

    type: Literal["mcp_list_tools.failed"]
    item_id: str


ServerEvent = (
    ConversationCreated
    | ConversationItemAdded
    | ConversationItemCreated
    | ConversationItemDeleted
    | ConversationItemDone
    | ConversationItemInputAudioTranscriptionCompleted
    | ConversationItemInputAudioTranscriptionDelta
    | ConversationItemInputAudioTranscriptionFailed
    | ConversationItemInputAudioTranscriptionSegment
    | ConversationItemRetrieved
    | ConversationItemTruncated
    | Error
    | InputAudioBufferCleared
    | InputAudioBufferCommitted
    | InputAudioBufferDTMFEventReceived
    | InputAudioBufferSpeechStarted
    | InputAudioBufferSpeechStopped
    | InputAudioBufferTimeoutTriggered
    | MCPListToolsCompleted
    | MCPListToolsFailed
    | MCPListToolsInProgress
    | OutputAudioBufferCleared
    | OutputAudioBufferStarted
    | OutputAudioBufferStopped
    | RateLimitsUpdated
    | ResponseContentPartAdded
    | ResponseContentPartDone
    | ResponseCreated
    | ResponseDone
    | ResponseFunctionCallArgumentsDelta
    | ResponseFunctionCallArgumentsDone
    | ResponseMCPCallArgumentsDelta
    | ResponseMCPCallArgumentsDone
    | ResponseMCPCallCompleted
    | ResponseMCPCallFailed
    | ResponseMCPCallInProgress
    | ResponseOutputAudioDelta
    | ResponseOutputAudioDone
    | ResponseOutputAudioTranscriptDelta
    | ResponseOutputAudioTranscriptDone
    | ResponseOutputItemAdded
    | ResponseOutputItemDone
    | ResponseOutputTextDelta
    | ResponseOutputTextDone
    | SessionCreated
    | SessionUpdated
)
"""Every server event of the GA shape, told apart by `type`."""
