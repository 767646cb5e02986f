"""Names of events and the records listeners and media units get. Pure: no clock, no I/O.

Member names and values are VoxEngine's. `GA_NAMES` and `BETA_NAMES` are the only maps from the type of a
server event to a name; a type that is in neither is dispatched as `Unknown`, and audio deltas are in neither
on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from typing import Any, Protocol


class RealtimeAPIEvents(StrEnum):
    """GA: 43 names, `OpenAI.RealtimeAPI.<Name>`."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:
        return f"OpenAI.RealtimeAPI.{name}"

    Unknown = auto()
    HTTPResponse = auto()
    Error = auto()
    SessionCreated = auto()
    SessionUpdated = auto()
    ConversationItemAdded = auto()
    ConversationItemDone = auto()
    ConversationItemRetrieved = auto()
    ConversationItemInputAudioTranscriptionCompleted = auto()
    ConversationItemInputAudioTranscriptionDelta = auto()
    ConversationItemInputAudioTranscriptionSegment = auto()
    ConversationItemInputAudioTranscriptionFailed = auto()
    ConversationItemTruncated = auto()
    ConversationItemDeleted = auto()
    InputAudioBufferCommitted = auto()
    InputAudioBufferCleared = auto()
    InputAudioBufferSpeechStarted = auto()
    InputAudioBufferSpeechStopped = auto()
    InputAudioBufferTimeoutTriggered = auto()
    ResponseCreated = auto()
    ResponseDone = auto()
    ResponseOutputItemAdded = auto()
    ResponseOutputItemDone = auto()
    ResponseContentPartAdded = auto()
    ResponseContentPartDone = auto()
    ResponseOutputTextDelta = auto()
    ResponseOutputTextDone = auto()
    ResponseOutputAudioTranscriptDelta = auto()
    ResponseOutputAudioTranscriptDone = auto()
    ResponseOutputAudioDone = auto()
    ResponseFunctionCallArgumentsDelta = auto()
    ResponseFunctionCallArgumentsDone = auto()
    ResponseMCPCallArgumentsDelta = auto()
    ResponseMCPCallArgumentsDone = auto()
    ResponseMCPCallInProgress = auto()
    ResponseMCPCallCompleted = auto()
    ResponseMCPCallFailed = auto()
    MCPListToolsInProgress = auto()
    MCPListToolsCompleted = auto()
    MCPListToolsFailed = auto()
    RateLimitsUpdated = auto()
    WebSocketError = auto()
    ConnectorInformation = auto()


class Events(StrEnum):
    """GA media events: `OpenAI.Events.<Name>`."""

    WebSocketMediaStarted = "OpenAI.Events.WebSocketMediaStarted"
    WebSocketMediaEnded = "OpenAI.Events.WebSocketMediaEnded"


class BetaRealtimeAPIEvents(StrEnum):
    """Beta: 30 names, `OpenAI.Beta.RealtimeAPI.<Name>`."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:
        return f"OpenAI.Beta.RealtimeAPI.{name}"

    Unknown = auto()
    Error = auto()
    SessionCreated = auto()
    SessionUpdated = auto()
    ConversationCreated = auto()
    ConversationItemCreated = auto()
    ConversationItemRetrieved = auto()
    ConversationItemInputAudioTranscriptionCompleted = auto()
    ConversationItemInputAudioTranscriptionDelta = auto()
    ConversationItemInputAudioTranscriptionFailed = auto()
    ConversationItemTruncated = auto()
    ConversationItemDeleted = auto()
    InputAudioBufferCommitted = auto()
    InputAudioBufferCleared = auto()
    InputAudioBufferSpeechStarted = auto()
    InputAudioBufferSpeechStopped = auto()
    ResponseCreated = auto()
    ResponseDone = auto()
    ResponseOutputItemAdded = auto()
    ResponseOutputItemDone = auto()
    ResponseContentPartAdded = auto()
    ResponseContentPartDone = auto()
    ResponseTextDelta = auto()
    ResponseTextDone = auto()
    ResponseAudioTranscriptDelta = auto()
    ResponseAudioTranscriptDone = auto()
    ResponseAudioDone = auto()
    ResponseFunctionCallArgumentsDelta = auto()
    ResponseFunctionCallArgumentsDone = auto()
    RateLimitsUpdated = auto()


class BetaEvents(StrEnum):
    """Beta media events: `OpenAI.Beta.Events.<Name>`."""

    WebSocketMediaStarted = "OpenAI.Beta.Events.WebSocketMediaStarted"
    WebSocketMediaEnded = "OpenAI.Beta.Events.WebSocketMediaEnded"


_SHARED_TYPES = (
    ("error", "Error"),
    ("session.created", "SessionCreated"),
    ("session.updated", "SessionUpdated"),
    ("conversation.item.retrieved", "ConversationItemRetrieved"),
    ("conversation.item.truncated", "ConversationItemTruncated"),
    ("conversation.item.deleted", "ConversationItemDeleted"),
    (
        "conversation.item.input_audio_transcription.completed",
        "ConversationItemInputAudioTranscriptionCompleted",
    ),
    ("conversation.item.input_audio_transcription.delta", "ConversationItemInputAudioTranscriptionDelta"),
    ("conversation.item.input_audio_transcription.failed", "ConversationItemInputAudioTranscriptionFailed"),
    ("input_audio_buffer.committed", "InputAudioBufferCommitted"),
    ("input_audio_buffer.cleared", "InputAudioBufferCleared"),
    ("input_audio_buffer.speech_started", "InputAudioBufferSpeechStarted"),
    ("input_audio_buffer.speech_stopped", "InputAudioBufferSpeechStopped"),
    ("response.created", "ResponseCreated"),
    ("response.done", "ResponseDone"),
    ("response.output_item.added", "ResponseOutputItemAdded"),
    ("response.output_item.done", "ResponseOutputItemDone"),
    ("response.content_part.added", "ResponseContentPartAdded"),
    ("response.content_part.done", "ResponseContentPartDone"),
    ("response.function_call_arguments.delta", "ResponseFunctionCallArgumentsDelta"),
    ("response.function_call_arguments.done", "ResponseFunctionCallArgumentsDone"),
    ("rate_limits.updated", "RateLimitsUpdated"),
)
_GA_TYPES = (
    ("conversation.item.added", "ConversationItemAdded"),
    ("conversation.item.done", "ConversationItemDone"),
    ("conversation.item.input_audio_transcription.segment", "ConversationItemInputAudioTranscriptionSegment"),
    ("input_audio_buffer.timeout_triggered", "InputAudioBufferTimeoutTriggered"),
    ("response.output_text.delta", "ResponseOutputTextDelta"),
    ("response.output_text.done", "ResponseOutputTextDone"),
    ("response.output_audio_transcript.delta", "ResponseOutputAudioTranscriptDelta"),
    ("response.output_audio_transcript.done", "ResponseOutputAudioTranscriptDone"),
    ("response.output_audio.done", "ResponseOutputAudioDone"),
    ("response.mcp_call_arguments.delta", "ResponseMCPCallArgumentsDelta"),
    ("response.mcp_call_arguments.done", "ResponseMCPCallArgumentsDone"),
    ("response.mcp_call.in_progress", "ResponseMCPCallInProgress"),
    ("response.mcp_call.completed", "ResponseMCPCallCompleted"),
    ("response.mcp_call.failed", "ResponseMCPCallFailed"),
    ("mcp_list_tools.in_progress", "MCPListToolsInProgress"),
    ("mcp_list_tools.completed", "MCPListToolsCompleted"),
    ("mcp_list_tools.failed", "MCPListToolsFailed"),
)
_BETA_TYPES = (
    ("conversation.created", "ConversationCreated"),
    ("conversation.item.created", "ConversationItemCreated"),
    ("response.text.delta", "ResponseTextDelta"),
    ("response.text.done", "ResponseTextDone"),
    ("response.audio_transcript.delta", "ResponseAudioTranscriptDelta"),
    ("response.audio_transcript.done", "ResponseAudioTranscriptDone"),
    ("response.audio.done", "ResponseAudioDone"),
)
GA_NAMES: Mapping[str, str] = {t: RealtimeAPIEvents[n].value for t, n in _SHARED_TYPES + _GA_TYPES}
BETA_NAMES: Mapping[str, str] = {t: BetaRealtimeAPIEvents[n].value for t, n in _SHARED_TYPES + _BETA_TYPES}

AUDIO_DELTA_TYPES = frozenset({"response.audio.delta", "response.output_audio.delta"})
AUDIO_DONE_TYPES = frozenset({"response.audio.done", "response.output_audio.done"})
SESSION_READY_TYPES = frozenset({"session.created", "transcription_session.created"})


class WebSocketCloseCode(IntEnum):
    """Close codes with a name; a provider's own (3000, 4000, ...) are passed through as numbers."""

    CLOSE_NORMAL = 1000
    CLOSE_GOING_AWAY = 1001
    CLOSE_PROTOCOL_ERROR = 1002
    CLOSE_UNSUPPORTED = 1003
    CLOSED_NO_STATUS = 1005
    CLOSE_ABNORMAL = 1006
    CLOSE_UNSUPPORTED_PAYLOAD = 1007
    CLOSE_POLICY_VIOLATION = 1008
    CLOSE_TOO_LARGE = 1009
    CLOSE_MANDATORY_EXTENSION = 1010
    CLOSE_SERVER_ERROR = 1011
    CLOSE_SERVICE_RESTART = 1012
    CLOSE_TRY_AGAIN_LATER = 1013
    CLOSE_BAD_GATEWAY = 1014
    CLOSE_TLS_FAIL = 1015


@dataclass(frozen=True, slots=True)
class WebSocketCloseEvent:
    """One opened socket has closed. `was_clean`: both sides said goodbye."""

    web_socket_id: str
    code: int
    reason: str
    was_clean: bool


@dataclass(frozen=True, slots=True)
class MediaChunk:
    """Audio in the unit's format. From a client: of one response; the ids of other sources are empty."""

    payload: bytes
    response_id: str
    item_id: str
    content_index: int


class MediaSource(Protocol):
    """What a media unit is told audio comes from: a client."""

    def id(self) -> str: ...


class MediaUnit(Protocol):
    """Where audio of a client can be sent. All calls are synchronous and must not block.

    A unit with the attribute `own_clock = True` gets each chunk the moment it arrives (faster than real
    time); every other unit gets 20 ms frames paced in real time. A unit with an attribute `media_format` (an
    `AudioFormat` or `SampleFormat`) gets that format, whatever the source has; other units get what
    `SendMediaParameters.encoding` asks for, or the source's own.
    """

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """Once, when the unit is attached, before its first chunk.

        `encoding`: the provider's name of a format (`pcm16`, `pcmu`, `pcma`), else VoxEngine's (`PCM8`, ...).
        """

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """Audio to play after what was sent before."""

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """No more audio of this content part comes; for a paced unit: its last frame was handed over."""

    def media_cleared(self, source: MediaSource) -> None:
        """Forget what was sent and not yet played."""
