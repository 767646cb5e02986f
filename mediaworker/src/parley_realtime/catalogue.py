"""The one table of what VoxEngine's RealtimeAPIClient offers, and what each part is called here. Pure data.

From it follow the enums of `names`, the typed `add_event_listener` of both clients, the maps from the
provider's types to names in `events`, and `docs/voxengine.md`: `make docs` writes what is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class In(Enum):
    """Which of the two protocol shapes has something."""

    BOTH = "both"
    GA = "ga"
    BETA = "beta"

    def has(self, shape: str) -> bool:
        """`shape`: `ga` or `beta`."""
        return self is In.BOTH or self.value == shape


@dataclass(frozen=True, slots=True)
class EventRow:
    """One member of `RealtimeAPIEvents`.

    `wire`: the provider's type that is dispatched under this name; empty for what the client itself tells.
    `beta_wire`: a second such type, in the beta shape only.
    """

    name: str
    shapes: In
    wire: str
    meaning: str
    beta_wire: str = ""

    def types(self, shape: str) -> tuple[str, ...]:
        """The provider's types of a shape that are dispatched under this name."""
        found = (self.wire, self.beta_wire if shape == "beta" else "")
        return tuple(wire for wire in found if wire)


@dataclass(frozen=True, slots=True)
class MediaEventRow:
    """One member of `Events`; `data` names its TypedDict in `payloads`."""

    name: str
    data: str
    meaning: str


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method or function: its name in VoxEngine and here, per shape how it is called, and what it sends.

    `wire`: the client event, or None for what sends nothing. An empty `ga` or `beta`: VoxEngine has it not.
    """

    voxengine: str
    ours: str
    wire: str | None
    ga: str
    beta: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One parameter of the factories, of `sendMediaTo` or of `clearMediaBuffer`."""

    voxengine: str
    ours: str
    shapes: In
    meaning: str


@dataclass(frozen=True, slots=True)
class EnumRow:
    """An enum that is not one of events, with its members and their values."""

    voxengine: str
    ours: str
    members: tuple[tuple[str, str | int], ...]
    meaning: str


def _both(name: str, wire: str, meaning: str) -> EventRow:
    return EventRow(name, In.BOTH, wire, meaning)


def _ga(name: str, wire: str, meaning: str) -> EventRow:
    return EventRow(name, In.GA, wire, meaning)


def _beta(name: str, wire: str, meaning: str) -> EventRow:
    return EventRow(name, In.BETA, wire, meaning)


_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_MCP = "response.mcp_call"

EVENTS: tuple[EventRow, ...] = (
    EventRow("Unknown", In.BOTH, "", "A server event that has no name of its own, as it came."),
    EventRow("HTTPResponse", In.GA, "", "The answer to the handshake; `status` is 101 once it is open."),
    _both("Error", "error", "The provider refuses a client event or reports a fault; the session goes on."),
    EventRow(
        "SessionCreated",
        In.BOTH,
        "session.created",
        "The session exists, with the provider's defaults.",
        "transcription_session.created",
    ),
    EventRow(
        "SessionUpdated",
        In.BOTH,
        "session.updated",
        "The session is as asked for; the payload holds all of it.",
        "transcription_session.updated",
    ),
    _beta("ConversationCreated", "conversation.created", "The conversation exists."),
    _beta("ConversationItemCreated", "conversation.item.created", "An item is in the conversation."),
    _ga("ConversationItemAdded", "conversation.item.added", "An item is in the conversation."),
    _ga("ConversationItemDone", "conversation.item.done", "An item is complete."),
    _both("ConversationItemRetrieved", "conversation.item.retrieved", "The item that was asked for."),
    _both(
        "ConversationItemInputAudioTranscriptionCompleted",
        f"{_TRANSCRIPTION}.completed",
        "What the caller said.",
    ),
    _both(
        "ConversationItemInputAudioTranscriptionDelta",
        f"{_TRANSCRIPTION}.delta",
        "A piece of what the caller said.",
    ),
    _ga(
        "ConversationItemInputAudioTranscriptionSegment",
        f"{_TRANSCRIPTION}.segment",
        "A stretch of one speaker, with its times in seconds.",
    ),
    _both(
        "ConversationItemInputAudioTranscriptionFailed",
        f"{_TRANSCRIPTION}.failed",
        "The caller's words could not be written down.",
    ),
    _both("ConversationItemTruncated", "conversation.item.truncated", "An item ends at what was heard."),
    _both("ConversationItemDeleted", "conversation.item.deleted", "An item is gone."),
    _both("InputAudioBufferCommitted", "input_audio_buffer.committed", "The caller's audio is an item now."),
    _both("InputAudioBufferCleared", "input_audio_buffer.cleared", "The caller's audio is forgotten."),
    _both("InputAudioBufferSpeechStarted", "input_audio_buffer.speech_started", "The caller speaks."),
    _both("InputAudioBufferSpeechStopped", "input_audio_buffer.speech_stopped", "The caller fell silent."),
    _ga(
        "InputAudioBufferTimeoutTriggered",
        "input_audio_buffer.timeout_triggered",
        "The caller said nothing for `idle_timeout_ms`.",
    ),
    _both("ResponseCreated", "response.created", "A response begins."),
    _both("ResponseDone", "response.done", "A response ended, however: see its `status`."),
    _both("ResponseOutputItemAdded", "response.output_item.added", "A response begins an item."),
    _both("ResponseOutputItemDone", "response.output_item.done", "An item of a response is complete."),
    _both("ResponseContentPartAdded", "response.content_part.added", "A part of a message begins."),
    _both("ResponseContentPartDone", "response.content_part.done", "A part of a message is complete."),
    _beta("ResponseTextDelta", "response.text.delta", "A piece of written answer."),
    _beta("ResponseTextDone", "response.text.done", "The whole written answer."),
    _ga("ResponseOutputTextDelta", "response.output_text.delta", "A piece of written answer."),
    _ga("ResponseOutputTextDone", "response.output_text.done", "The whole written answer."),
    _beta("ResponseAudioTranscriptDelta", "response.audio_transcript.delta", "A piece of what is said."),
    _beta("ResponseAudioTranscriptDone", "response.audio_transcript.done", "All that is said."),
    _ga(
        "ResponseOutputAudioTranscriptDelta",
        "response.output_audio_transcript.delta",
        "A piece of what is said.",
    ),
    _ga("ResponseOutputAudioTranscriptDone", "response.output_audio_transcript.done", "All that is said."),
    _beta("ResponseAudioDone", "response.audio.done", "All audio of a part has come."),
    _ga("ResponseOutputAudioDone", "response.output_audio.done", "All audio of a part has come."),
    _both(
        "ResponseFunctionCallArgumentsDelta",
        "response.function_call_arguments.delta",
        "A piece of the arguments of a function call.",
    ),
    _both(
        "ResponseFunctionCallArgumentsDone",
        "response.function_call_arguments.done",
        "The arguments of a function call, as JSON text.",
    ),
    _ga("ResponseMCPCallArgumentsDelta", f"{_MCP}_arguments.delta", "Arguments of an MCP call, a piece."),
    _ga("ResponseMCPCallArgumentsDone", f"{_MCP}_arguments.done", "The arguments of an MCP call."),
    _ga("ResponseMCPCallInProgress", f"{_MCP}.in_progress", "The provider calls an MCP server."),
    _ga("ResponseMCPCallCompleted", f"{_MCP}.completed", "The MCP server answered."),
    _ga("ResponseMCPCallFailed", f"{_MCP}.failed", "The MCP call failed."),
    _ga("MCPListToolsInProgress", "mcp_list_tools.in_progress", "The provider asks an MCP server for tools."),
    _ga("MCPListToolsCompleted", "mcp_list_tools.completed", "The tools of an MCP server are known."),
    _ga("MCPListToolsFailed", "mcp_list_tools.failed", "The tools of an MCP server are not to be had."),
    _both("RateLimitsUpdated", "rate_limits.updated", "What is left of the provider's limits."),
    EventRow("WebSocketError", In.GA, "", "What ended the connection, when it was not `close()`."),
    EventRow("ConnectorInformation", In.GA, "", "Ids of client and socket and the protocol."),
)

MEDIA_EVENTS: tuple[MediaEventRow, ...] = (
    MediaEventRow("WebSocketMediaStarted", "MediaStartedData", "Audio of the provider begins to play."),
    MediaEventRow("WebSocketMediaEnded", "MediaEndedData", "One second of silence has passed."),
)

NAMELESS: tuple[tuple[str, In], ...] = (
    ("conversation.created", In.GA),
    ("conversation.item.created", In.GA),
    ("input_audio_buffer.dtmf_event_received", In.GA),
    ("output_audio_buffer.started", In.BOTH),
    ("output_audio_buffer.stopped", In.BOTH),
    ("output_audio_buffer.cleared", In.BOTH),
)
"""Types that providers document and VoxEngine has no name for: they arrive as `Unknown`."""

AUDIO_DELTAS: tuple[tuple[str, In], ...] = (
    ("response.audio.delta", In.BETA),
    ("response.output_audio.delta", In.GA),
)
"""Types that carry audio: they go to media units and never to listeners."""

_ITEM = "conversation.item"

METHODS: tuple[MethodRow, ...] = (
    MethodRow(
        "createRealtimeAPIClient",
        "create_realtime_api_client",
        None,
        "(parameters)",
        "(parameters)",
        "A connected client, or the error that prevented it.",
    ),
    MethodRow("id", "id", None, "()", "()", "The client's own id."),
    MethodRow("webSocketId", "web_socket_id", None, "()", "()", "The id of the WebSocket."),
    MethodRow("close", "close", None, "()", "()", "Close the connection or the attempt."),
    MethodRow(
        "addEventListener",
        "add_event_listener",
        None,
        "(event, callback)",
        "(event, callback)",
        "Call a function for each such event.",
    ),
    MethodRow(
        "removeEventListener",
        "remove_event_listener",
        None,
        "(event, callback=None)",
        "(event, callback=None)",
        "Remove one listener, or all of the event.",
    ),
    MethodRow(
        "sendMediaTo",
        "send_media_to",
        None,
        "(media_unit, parameters=None)",
        "(media_unit, parameters=None)",
        "Send the provider's audio to a unit.",
    ),
    MethodRow(
        "stopMediaTo", "stop_media_to", None, "(media_unit)", "(media_unit)", "Send a unit no more audio."
    ),
    MethodRow(
        "clearMediaBuffer",
        "clear_media_buffer",
        None,
        "(parameters=None)",
        "(parameters=None)",
        "Forget audio that was not played yet.",
    ),
    MethodRow(
        "VoxEngine.sendMediaBetween",
        "send_media_between",
        None,
        "(one, other)",
        "(one, other)",
        "Bind two units both ways.",
    ),
    MethodRow(
        "VoxEngine.stopMediaBetween",
        "stop_media_between",
        None,
        "(one, other)",
        "(one, other)",
        "Undo `send_media_between`.",
    ),
    MethodRow(
        "sessionUpdate",
        "session_update",
        "session.update",
        '({"session": ...})',
        "(session, event_id=None)",
        "Change the session; what is left out stays.",
    ),
    MethodRow(
        "responseCreate",
        "response_create",
        "response.create",
        '({"response"?: ...})',
        "(response, event_id=None)",
        "Make the model answer.",
    ),
    MethodRow(
        "responseCancel",
        "response_cancel",
        "response.cancel",
        '({"response_id"?: ...})',
        "(event_id=None)",
        "End the answer in progress.",
    ),
    MethodRow(
        "conversationItemCreate",
        "conversation_item_create",
        f"{_ITEM}.create",
        '({"item": ..., "previous_item_id"?: ...})',
        "(previous_item_id, item, event_id=None)",
        "Add an item.",
    ),
    MethodRow(
        "conversationItemRetrieve",
        "conversation_item_retrieve",
        f"{_ITEM}.retrieve",
        '({"item_id": ...})',
        "(item_id, event_id=None)",
        "Ask for an item.",
    ),
    MethodRow(
        "conversationItemTruncate",
        "conversation_item_truncate",
        f"{_ITEM}.truncate",
        '({"item_id": ..., "content_index": 0, "audio_end_ms": ...})',
        "(item_id, content_index, audio_end_ms, event_id=None)",
        "End an item at what was heard.",
    ),
    MethodRow(
        "conversationItemDelete",
        "conversation_item_delete",
        f"{_ITEM}.delete",
        '({"item_id": ...})',
        "(item_id, event_id=None)",
        "Remove an item.",
    ),
    MethodRow(
        "inputAudioBufferClear",
        "input_audio_buffer_clear",
        "input_audio_buffer.clear",
        "({})",
        "",
        "Forget audio that is not committed.",
    ),
    MethodRow(
        "inputAudioBufferCommit",
        "input_audio_buffer_commit",
        "input_audio_buffer.commit",
        "({})",
        "",
        "Make an item of the audio sent so far.",
    ),
)

PARAMETERS: tuple[ParameterRow, ...] = (
    ParameterRow("apiKey", "api_key", In.BOTH, "The provider's key; in the handshake and nowhere else."),
    ParameterRow(
        "model",
        "model",
        In.BOTH,
        "`gpt-realtime`, in beta `gpt-4o-realtime-preview-2024-10-01`, unless given.",
    ),
    ParameterRow("type", "type", In.GA, "A conversation or a transcription; ours has it in beta too."),
    ParameterRow("baseUrl", "base_url", In.GA, "Host root, `https://api.openai.com/`; ours: beta too."),
    ParameterRow("onWebSocketClose", "on_web_socket_close", In.BOTH, "Called when an open socket closed."),
    ParameterRow("statistics", "statistics", In.BOTH, "Log counters and latencies at the end."),
    ParameterRow(
        "trace", "trace", In.BOTH, "A file or a function that gets every frame, without secrets and audio."
    ),
    ParameterRow("privacy", "privacy", In.BOTH, "Nothing of the conversation in logs and error texts."),
)

MEDIA_PARAMETERS: tuple[ParameterRow, ...] = (
    ParameterRow("SendMediaParameters.tag", "SendMediaParameters.tag", In.BOTH, "A name for this stream."),
    ParameterRow(
        "SendMediaParameters.customParameters",
        "SendMediaParameters.custom_parameters",
        In.BOTH,
        "Told to the unit and to `WebSocketMediaStarted`.",
    ),
    ParameterRow(
        "SendMediaParameters.encoding",
        "SendMediaParameters.encoding",
        In.BOTH,
        "What the unit gets; left out, what it says it takes, or the provider's. `OPUS` is refused.",
    ),
    ParameterRow(
        "ClearMediaBufferParameters.tag",
        "ClearMediaBufferParameters.tag",
        In.BOTH,
        "Clear the units of this name only.",
    ),
)

ENUMS: tuple[EnumRow, ...] = (
    EnumRow(
        "WebSocketCloseCode",
        "WebSocketCloseCode",
        (
            ("CLOSE_NORMAL", 1000),
            ("CLOSE_GOING_AWAY", 1001),
            ("CLOSE_PROTOCOL_ERROR", 1002),
            ("CLOSE_UNSUPPORTED", 1003),
            ("CLOSED_NO_STATUS", 1005),
            ("CLOSE_ABNORMAL", 1006),
            ("CLOSE_UNSUPPORTED_PAYLOAD", 1007),
            ("CLOSE_POLICY_VIOLATION", 1008),
            ("CLOSE_TOO_LARGE", 1009),
            ("CLOSE_MANDATORY_EXTENSION", 1010),
            ("CLOSE_SERVER_ERROR", 1011),
            ("CLOSE_SERVICE_RESTART", 1012),
            ("CLOSE_TRY_AGAIN_LATER", 1013),
            ("CLOSE_BAD_GATEWAY", 1014),
            ("CLOSE_TLS_FAIL", 1015),
        ),
        "Close codes with a name; others (3000, 4000, ...) are passed through as numbers.",
    ),
    EnumRow(
        "WebSocketAudioEncoding",
        "WebSocketAudioEncoding",
        (
            ("PCM16_8KHZ", "PCM8"),
            ("PCM16_16KHZ", "PCM16"),
            ("ALAW", "ALAW"),
            ("ULAW", "ULAW"),
            ("OPUS", "OPUS"),
        ),
        "Encodings of media that units may ask for.",
    ),
    EnumRow(
        "OpenAI.RealtimeAPIClientType",
        "RealtimeAPIClientType",
        (("REALTIME", "realtime"), ("TRANSCRIPTION", "transcription")),
        "What the connection is for.",
    ),
)


def rows(shape: str) -> Iterator[EventRow]:
    """The rows of one shape (`ga` or `beta`), in VoxEngine's order."""
    return (row for row in EVENTS if row.shapes.has(shape))


def name_prefix(shape: str) -> str:
    """What the names of a shape's events begin with."""
    return "OpenAI.RealtimeAPI." if shape == "ga" else "OpenAI.Beta.RealtimeAPI."


def names_by_type(shape: str) -> dict[str, str]:
    """From the provider's type to the name it is dispatched under."""
    return {wire: name_prefix(shape) + row.name for row in rows(shape) for wire in row.types(shape)}
