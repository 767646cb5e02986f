"""Objects and server events that are the same in both shapes."""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

P = TypeVar("P")


class Data(TypedDict, Generic[P]):
    """`event.data` of a `RealtimeAPIEvents` event."""

    payload: P


class MediaInfo(TypedDict):
    """`duration`: milliseconds of audio that were played."""

    duration: int


class MediaStartedData(TypedDict):
    """`event.data` of `WebSocketMediaStarted`."""

    tag: str | None
    encoding: str
    custom_parameters: dict[str, str]


class MediaEndedData(TypedDict):
    """`event.data` of `WebSocketMediaEnded`."""

    tag: str | None
    media_info: MediaInfo


Unknown = dict[str, Any]


class HTTPResponse(TypedDict):
    """The answer to the handshake of a WebSocket that is open."""

    status: int


class WebSocketError(TypedDict):
    """What ended the connection: `reason` is an endReason word, `close_code` the WebSocket's."""

    reason: str
    message: str
    code: str | None
    close_code: int | None
    retryable: bool


class ConnectorInformation(TypedDict):
    """Of an open connection. `api_version`: `ga` or `beta`."""

    web_socket_id: str
    client_id: str
    api_version: str


class ServerEventFields(TypedDict):
    """What every server event has."""

    event_id: str


class ErrorDetails(TypedDict):
    """`event_id`: that of the client event at fault, when it had one."""

    type: str
    message: str
    code: NotRequired[str | None]
    param: NotRequired[str | None]
    event_id: NotRequired[str | None]


class Error(ServerEventFields):
    """`error`"""

    type: Literal["error"]
    error: ErrorDetails


class Conversation(TypedDict):
    """The conversation of a session."""

    id: str
    object: Literal["realtime.conversation"]


class ConversationCreated(ServerEventFields):
    """`conversation.created`"""

    type: Literal["conversation.created"]
    conversation: Conversation


class LogProb(TypedDict):
    """How likely a token of a transcript was."""

    token: str
    bytes: list[int]
    logprob: float


class TranscriptionTokenDetails(TypedDict):
    """Tokens by kind."""

    text_tokens: NotRequired[int]
    audio_tokens: NotRequired[int]


class TranscriptionTokens(TypedDict):
    """Usage of a transcription that is billed by token."""

    type: Literal["tokens"]
    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_token_details: NotRequired[TranscriptionTokenDetails]


class TranscriptionDuration(TypedDict):
    """Usage of a transcription that is billed by time."""

    type: Literal["duration"]
    seconds: float


class SpokenLanguage(TypedDict):
    """A language that was heard."""

    code: str


class ConversationItemInputAudioTranscriptionCompleted(ServerEventFields):
    """`conversation.item.input_audio_transcription.completed`; `languages` in GA only."""

    type: Literal["conversation.item.input_audio_transcription.completed"]
    item_id: str
    content_index: int
    transcript: str
    usage: TranscriptionTokens | TranscriptionDuration
    languages: NotRequired[list[SpokenLanguage]]
    logprobs: NotRequired[list[LogProb] | None]


class ConversationItemInputAudioTranscriptionDelta(ServerEventFields):
    """`conversation.item.input_audio_transcription.delta`"""

    type: Literal["conversation.item.input_audio_transcription.delta"]
    item_id: str
    content_index: NotRequired[int]
    delta: NotRequired[str]
    logprobs: NotRequired[list[LogProb] | None]


class TranscriptionFailure(TypedDict):
    """Why the caller's words could not be written down."""

    type: NotRequired[str]
    code: NotRequired[str | None]
    message: NotRequired[str]
    param: NotRequired[str | None]


class ConversationItemInputAudioTranscriptionFailed(ServerEventFields):
    """`conversation.item.input_audio_transcription.failed`"""

    type: Literal["conversation.item.input_audio_transcription.failed"]
    item_id: str
    content_index: int
    error: TranscriptionFailure


class ConversationItemTruncated(ServerEventFields):
    """`conversation.item.truncated`"""

    type: Literal["conversation.item.truncated"]
    item_id: str
    content_index: int
    audio_end_ms: int


class ConversationItemDeleted(ServerEventFields):
    """`conversation.item.deleted`"""

    type: Literal["conversation.item.deleted"]
    item_id: str


class InputAudioBufferCommitted(ServerEventFields):
    """`input_audio_buffer.committed`; `item_id` is that of the item to come."""

    type: Literal["input_audio_buffer.committed"]
    item_id: str
    previous_item_id: NotRequired[str | None]


class InputAudioBufferCleared(ServerEventFields):
    """`input_audio_buffer.cleared`"""

    type: Literal["input_audio_buffer.cleared"]


class InputAudioBufferSpeechStarted(ServerEventFields):
    """`input_audio_buffer.speech_started`; milliseconds since the first audio ever sent, padding included."""

    type: Literal["input_audio_buffer.speech_started"]
    item_id: str
    audio_start_ms: int


class InputAudioBufferSpeechStopped(ServerEventFields):
    """`input_audio_buffer.speech_stopped`; milliseconds since the first audio ever sent."""

    type: Literal["input_audio_buffer.speech_stopped"]
    item_id: str
    audio_end_ms: int


class OutputAudioBufferStarted(ServerEventFields):
    """`output_audio_buffer.started`, on WebRTC and SIP only; arrives as `Unknown`."""

    type: Literal["output_audio_buffer.started"]
    response_id: str


class OutputAudioBufferStopped(ServerEventFields):
    """`output_audio_buffer.stopped`, on WebRTC and SIP only; arrives as `Unknown`."""

    type: Literal["output_audio_buffer.stopped"]
    response_id: str


class OutputAudioBufferCleared(ServerEventFields):
    """`output_audio_buffer.cleared`, on WebRTC and SIP only; arrives as `Unknown`."""

    type: Literal["output_audio_buffer.cleared"]
    response_id: str


class ItemPlace(ServerEventFields):
    """Where in a response something is."""

    response_id: str
    item_id: str
    output_index: int


class PartPlace(ItemPlace):
    """Which part of an item something belongs to."""

    content_index: int


class Part(TypedDict):
    """A part of a message while a response makes it."""

    type: Literal["text", "audio"]
    text: NotRequired[str]
    audio: NotRequired[str]
    transcript: NotRequired[str]


class ResponseContentPartAdded(PartPlace):
    """`response.content_part.added`"""

    type: Literal["response.content_part.added"]
    part: Part


class ResponseContentPartDone(PartPlace):
    """`response.content_part.done`"""

    type: Literal["response.content_part.done"]
    part: Part


class ResponseFunctionCallArgumentsDelta(ItemPlace):
    """`response.function_call_arguments.delta`"""

    type: Literal["response.function_call_arguments.delta"]
    call_id: str
    delta: str


class RateLimit(TypedDict):
    """What is left of one limit."""

    name: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_seconds: float


class RateLimitsUpdated(ServerEventFields):
    """`rate_limits.updated`"""

    type: Literal["rate_limits.updated"]
    rate_limits: list[RateLimit]


class ResponseFailure(TypedDict):
    """Why a response failed."""

    type: NotRequired[str]
    code: NotRequired[str | None]
    message: NotRequired[str]


class StatusDetails(TypedDict):
    """Why a response ended before its end."""

    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: NotRequired[Literal["turn_detected", "client_cancelled", "max_output_tokens", "content_filter"]]
    error: NotRequired[ResponseFailure | None]


class CachedTokenDetails(TypedDict):
    """Cached tokens by kind."""

    text_tokens: NotRequired[int]
    audio_tokens: NotRequired[int]
    image_tokens: NotRequired[int]


class OutputTokenDetails(TypedDict):
    """Tokens by kind."""

    text_tokens: NotRequired[int]
    audio_tokens: NotRequired[int]


ResponseStatus = Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
ItemStatus = Literal["completed", "incomplete", "in_progress"]
