"""Every event of the protocol: server events with the fields each must have, and client events, per shape."""

from __future__ import annotations

from collections.abc import Mapping

from .emitter import BETA_NAMES
from .settings import Shape

_GA_SERVER = """
conversation.created | conversation
conversation.item.added | item
conversation.item.created | item
conversation.item.deleted | item_id
conversation.item.done | item
conversation.item.input_audio_transcription.completed | content_index item_id transcript usage
conversation.item.input_audio_transcription.delta | item_id
conversation.item.input_audio_transcription.failed | content_index error item_id
conversation.item.input_audio_transcription.segment | id content_index end item_id speaker start text
conversation.item.retrieved | item
conversation.item.truncated | audio_end_ms content_index item_id
error | error
input_audio_buffer.cleared |
input_audio_buffer.committed | item_id
input_audio_buffer.dtmf_event_received | event received_at
input_audio_buffer.speech_started | audio_start_ms item_id
input_audio_buffer.speech_stopped | audio_end_ms item_id
input_audio_buffer.timeout_triggered | audio_end_ms audio_start_ms item_id
mcp_list_tools.completed | item_id
mcp_list_tools.failed | item_id
mcp_list_tools.in_progress | item_id
output_audio_buffer.cleared | response_id
output_audio_buffer.started | response_id
output_audio_buffer.stopped | response_id
rate_limits.updated | rate_limits
response.content_part.added | content_index item_id output_index part response_id
response.content_part.done | content_index item_id output_index part response_id
response.created | response
response.done | response
response.function_call_arguments.delta | call_id delta item_id output_index response_id
response.function_call_arguments.done | arguments call_id item_id name output_index response_id
response.mcp_call.completed | item_id output_index
response.mcp_call.failed | item_id output_index
response.mcp_call.in_progress | item_id output_index
response.mcp_call_arguments.delta | delta item_id output_index response_id
response.mcp_call_arguments.done | arguments item_id output_index response_id
response.output_audio.delta | content_index delta item_id output_index response_id
response.output_audio.done | content_index item_id output_index response_id
response.output_audio_transcript.delta | content_index delta item_id output_index response_id
response.output_audio_transcript.done | content_index item_id output_index response_id transcript
response.output_item.added | item output_index response_id
response.output_item.done | item output_index response_id
response.output_text.delta | content_index delta item_id output_index response_id
response.output_text.done | content_index item_id output_index response_id text
session.created | session
session.updated | session
"""
_GA_ONLY = (
    "conversation.item.done",
    "conversation.item.input_audio_transcription.segment",
    "input_audio_buffer.dtmf_event_received",
    "input_audio_buffer.timeout_triggered",
)


def _read(table: str) -> dict[str, tuple[str, ...]]:
    rows = (line.partition("|") for line in table.strip().splitlines())
    return {kind.strip(): tuple(fields.split()) for kind, _, fields in rows}


def _beta(ga: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    kept = {BETA_NAMES.get(kind, kind): fields for kind, fields in ga.items() if kind not in _GA_ONLY}
    of_sessions = {
        "transcription_session.created": ("session",),
        "transcription_session.updated": ("session",),
    }
    kept = {kind: fields for kind, fields in kept.items() if "mcp_" not in kind}
    call_done = "response.function_call_arguments.done"
    kept[call_done] = tuple(field for field in kept[call_done] if field != "name")
    return kept | of_sessions


_GA = _read(_GA_SERVER)
SERVER_EVENTS: Mapping[Shape, Mapping[str, tuple[str, ...]]] = {Shape.GA: _GA, Shape.BETA: _beta(_GA)}
_CLIENT = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.truncate",
    "conversation.item.delete",
    "conversation.item.retrieve",
    "response.create",
    "response.cancel",
    "output_audio_buffer.clear",  # of WebRTC and SIP connections: refused on a WebSocket
)
CLIENT_EVENTS: Mapping[Shape, tuple[str, ...]] = {
    Shape.GA: (*_CLIENT, "session.close"),
    Shape.BETA: (*_CLIENT, "transcription_session.update"),
}
