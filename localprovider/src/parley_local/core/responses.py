"""Responses: from `response.created` to `response.done`, one at a time per conversation."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from . import checks
from .checks import Json
from .effects import Call, Emit, McpCall, Reply, Speak
from .effects import Part as Output
from .emitter import Emitter
from .items import Item, Part
from .settings import (
    Settings,
    Shape,
    parse_beta_format,
    parse_max_tokens,
    parse_modalities,
    parse_output,
    parse_tool_choice,
    parse_tools,
    parse_voice,
)

CHUNK_MS = 150
TOKEN_MS_IN = 100
TOKEN_MS_OUT = 50


class ResponseState(Enum):
    """Where a response is; `EDGES` lists every legal move."""

    WAITING = "waiting"  # for transcripts of what the caller said
    THINKING = "thinking"  # the brain has the word
    SPEAKING = "speaking"  # speech is being made
    STREAMING = "streaming"  # deltas are going out
    DONE = "done"


EDGES = {
    ResponseState.WAITING: {ResponseState.THINKING, ResponseState.DONE},
    ResponseState.THINKING: {ResponseState.SPEAKING, ResponseState.STREAMING, ResponseState.DONE},
    ResponseState.SPEAKING: {ResponseState.STREAMING, ResponseState.DONE},
    ResponseState.STREAMING: {ResponseState.SPEAKING, ResponseState.STREAMING, ResponseState.DONE},
    ResponseState.DONE: set(),
}


def count_text_tokens(text: str) -> int:
    """About four characters a token."""
    return -(-len(text) // 4)


@dataclass(frozen=True, slots=True)
class Chunk:
    words: str
    audio: bytes = b""


@dataclass(slots=True)
class Response:
    """One response under way. `settings` are the session's with the request's overrides."""

    id: str
    settings: Settings
    conversation_id: str | None
    metadata: Json | None
    input_tokens: tuple[int, int] = (0, 0)  # text, audio
    state: ResponseState = ResponseState.WAITING
    awaiting: set[str] = field(default_factory=set)
    context: tuple[Item, ...] | None = None
    outputs: deque[Output] = field(default_factory=deque)
    items: list[Item] = field(default_factory=list)
    chunks: deque[Chunk] = field(default_factory=deque)
    next_chunk_at: float = 0.0
    playback_ends_at: float = 0.0
    text_tokens: int = 0
    audio_tokens: int = 0

    def move(self, state: ResponseState) -> None:
        if state not in EDGES[self.state]:
            raise AssertionError(f"no edge from {self.state} to {state}")
        self.state = state

    @property
    def bound(self) -> bool:
        """Whether it belongs to the default conversation."""
        return self.conversation_id is not None

    @property
    def spent(self) -> bool:
        limit = self.settings.max_output_tokens
        return isinstance(limit, int) and self.text_tokens + self.audio_tokens >= limit

    def usage(self) -> Json:
        text, audio = self.input_tokens
        spoken = self.text_tokens + self.audio_tokens
        details: Json = {"text_tokens": text, "audio_tokens": audio, "cached_tokens": 0}
        if self.settings.shape is Shape.GA:
            cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
            details |= {"image_tokens": 0, "cached_tokens_details": cached}
        return {
            "total_tokens": text + audio + spoken,
            "input_tokens": text + audio,
            "output_tokens": spoken,
            "input_token_details": details,
            "output_token_details": {"text_tokens": self.text_tokens, "audio_tokens": self.audio_tokens},
        }

    def render(self, status: str, details: Json | None = None) -> Json:
        settings = self.settings
        body: Json = {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [item.render(settings.shape) for item in self.items],
            "conversation_id": self.conversation_id,
            "metadata": self.metadata,
            "usage": None if status == "in_progress" else self.usage(),
            "max_output_tokens": settings.max_output_tokens,
        }
        if settings.shape is Shape.BETA:
            return body | {
                "modalities": list(settings.modalities),
                "voice": settings.voice,
                "output_audio_format": settings.output_format.beta_name,
                "temperature": settings.temperature,
            }
        wire = settings.output_format
        rate = {"rate": wire.rate} if wire.ga_name == "audio/pcm" else {}
        output = {"format": {"type": wire.ga_name, **rate}, "voice": settings.voice}
        return body | {"output_modalities": list(settings.modalities), "audio": {"output": output}}


COMMON_KEYS = (
    "instructions",
    "tools",
    "tool_choice",
    "conversation",
    "metadata",
    "input",
    "prompt",
    "max_output_tokens",
)
GA_KEYS = (*COMMON_KEYS, "output_modalities", "audio", "parallel_tool_calls", "reasoning")
BETA_KEYS = (
    *COMMON_KEYS,
    "modalities",
    "voice",
    "output_audio_format",
    "temperature",
    "max_response_output_tokens",
)


def override(settings: Settings, body: Mapping[str, Any]) -> Settings:
    """The session's settings with those of one `response.create`. Raises InvalidRequest."""
    ga = settings.shape is Shape.GA
    checks.known(body, "response", GA_KEYS if ga else BETA_KEYS)
    changes: Json = {}
    if body.get("instructions") is not None:
        changes["instructions"] = checks.string(body["instructions"], "response.instructions")
    if body.get("tools") is not None:
        changes["tools"] = parse_tools(body["tools"], "response.tools")
    if body.get("tool_choice") is not None:
        changes["tool_choice"] = parse_tool_choice(body["tool_choice"], "response.tool_choice")
    for key in ("max_output_tokens", "max_response_output_tokens"):
        if body.get(key) is not None:
            changes["max_output_tokens"] = parse_max_tokens(body[key], f"response.{key}")
    modalities = "output_modalities" if ga else "modalities"
    if body.get(modalities) is not None:
        changes["modalities"] = parse_modalities(body[modalities], f"response.{modalities}", settings.shape)
    if body.get("voice") is not None:
        changes["voice"] = parse_voice(body["voice"], "response.voice")
    if body.get("output_audio_format") is not None:
        changes["output_format"] = parse_beta_format(
            body["output_audio_format"], "response.output_audio_format"
        )
    if body.get("temperature") is not None:
        changes["temperature"] = checks.number(body["temperature"], "response.temperature", 0.6, 1.2)
    if body.get("audio") is not None:
        audio = checks.mapping(body["audio"], "response.audio")
        checks.known(audio, "response.audio", ("output",))
        changes |= parse_output(audio.get("output"), "response.audio.output")
    return replace(settings, **changes)


class Writer:
    """Writes one response's output items, event by event, in the captured order."""

    def __init__(self, emitter: Emitter, pace: float) -> None:
        self._emitter = emitter
        self._pace = pace

    def begin(self, response: Response, reply: Reply) -> None:
        """Take the brain's reply; calls are dropped where the request forbids tools."""
        silent = response.settings.tool_choice == "none"
        response.outputs.extend(part for part in reply if not (silent and isinstance(part, Call | McpCall)))
        if self._emitter.shape is Shape.BETA:
            kept = [part for part in response.outputs if not isinstance(part, McpCall)]
            response.outputs = deque(kept)

    def emit_directives(self, response: Response, last_id: str | None) -> None:
        """Send the server events that come next in the reply, their placeholders filled."""
        slots = {"$response_id": response.id, "$item_id": last_id}
        while response.outputs and isinstance(directive := response.outputs[0], Emit):
            response.outputs.popleft()
            event = {key: _fill(value, slots) for key, value in directive.event.items()}
            self._emitter.emit(event.pop("type"), **event)

    def open_next(self, response: Response, now: float, previous_id: str | None) -> Item | None:
        """Open the next output item and return it, or None when there is none left.

        A message is left open, its words or speech to be streamed; a call is written whole.
        """
        if not response.outputs:
            return None
        output = response.outputs.popleft()
        if isinstance(output, Emit):
            raise AssertionError("directives are sent before an item is opened")
        item_id = self._emitter.new_id("item_")
        if isinstance(output, Call):
            fields = {"name": output.name, "call_id": self._emitter.new_id("call_"), "arguments": ""}
            item = Item(item_id, "function_call", status="in_progress", fields=fields)
            self._open(response, item, previous_id)
            self._write_call(response, item, _json_text(output.arguments), previous_id)
            return item
        if isinstance(output, McpCall):
            fields = {"server_label": output.server_label, "name": output.name, "arguments": ""}
            item = Item(item_id, "mcp_call", status="in_progress", fields=fields)
            self._open(response, item, previous_id)
            self._write_mcp_call(response, item, output, previous_id)
            return item
        item = Item(item_id, "message", status="in_progress", role="assistant")
        self._open(response, item, previous_id)
        part = Part("audio", transcript="") if response.settings.speaks else Part("text", text="")
        item.content.append(part)
        self._part("response.content_part.added", response, item)
        if response.settings.speaks:
            response.move(ResponseState.SPEAKING)
            settings = response.settings
            self._emitter.ask(
                Speak(response.id, output.text, settings.voice, settings.speed, settings.output_format)
            )
        else:
            response.chunks.extend(Chunk(words) for words in _split_words(output.text, 4))
            response.next_chunk_at = now
            response.move(ResponseState.STREAMING)
        return item

    def _open(self, response: Response, item: Item, previous_id: str | None) -> None:
        response.items.append(item)
        self._emitter.emit(
            "response.output_item.added",
            response_id=response.id,
            output_index=len(response.items) - 1,
            item=item.render(self._emitter.shape),
        )
        if response.bound:
            self._emitter.item_added(item, previous_id)

    def _where(self, response: Response, item: Item) -> Json:
        return {"response_id": response.id, "item_id": item.id, "output_index": response.items.index(item)}

    def _part(self, kind: str, response: Response, item: Item) -> None:
        part = item.content[0]
        body: Json = {"type": part.kind}
        if part.kind == "text":
            body["text"] = part.text or ""
        else:
            body["transcript"] = part.transcript or ""
        self._emitter.emit(kind, **self._where(response, item), content_index=0, part=body)

    def _write_call(self, response: Response, item: Item, arguments: str, previous_id: str | None) -> None:
        where = {**self._where(response, item), "call_id": item.fields["call_id"]}
        for piece in _pieces(arguments, 24):
            self._emitter.emit("response.function_call_arguments.delta", **where, delta=piece)
        item.fields["arguments"] = arguments
        response.text_tokens += count_text_tokens(arguments)
        name = {"name": item.fields["name"]} if self._emitter.shape is Shape.GA else {}
        self._emitter.emit("response.function_call_arguments.done", **where, **name, arguments=arguments)
        self._finish_item(response, item, "completed", previous_id)

    def _write_mcp_call(self, response: Response, item: Item, call: McpCall, previous_id: str | None) -> None:
        where = {"item_id": item.id, "output_index": response.items.index(item)}
        ids = {**where, "response_id": response.id}
        arguments = _json_text(call.arguments)
        for piece in _pieces(arguments, 24):
            self._emitter.emit("response.mcp_call_arguments.delta", **ids, delta=piece)
        self._emitter.emit("response.mcp_call_arguments.done", **ids, arguments=arguments)
        self._emitter.emit("response.mcp_call.in_progress", **where)
        item.fields["arguments"] = arguments
        response.text_tokens += count_text_tokens(arguments)
        if call.error is None:
            item.fields["output"] = call.output
            self._emitter.emit("response.mcp_call.completed", **where)
        else:
            item.fields["error"] = {"type": "tool_execution_error", "message": call.error}
            self._emitter.emit("response.mcp_call.failed", **where)
        self._finish_item(response, item, "completed" if call.error is None else "incomplete", previous_id)

    def load_speech(self, response: Response, text: str, audio: bytes, now: float) -> None:
        """Cut speech into chunks with their share of the words."""
        step = CHUNK_MS * response.settings.output_format.bytes_per_ms
        slices = [audio[at : at + step] for at in range(0, len(audio), step)] or [b""]
        words = _split_words(text, 1)
        for index, piece in enumerate(slices):
            share = words[len(words) * index // len(slices) : len(words) * (index + 1) // len(slices)]
            response.chunks.append(Chunk("".join(share), piece))
        response.next_chunk_at = now
        response.playback_ends_at = max(now, response.playback_ends_at)
        response.move(ResponseState.STREAMING)

    def stream(self, response: Response, now: float) -> bool:
        """Send the chunks that are due; True when the open item has no more (or its budget is spent)."""
        item = response.items[-1]
        part = item.content[0]
        where = {**self._where(response, item), "content_index": 0}
        wire = response.settings.output_format
        while response.chunks and response.next_chunk_at <= now and not response.spent:
            chunk = response.chunks.popleft()
            response.text_tokens += count_text_tokens(chunk.words)
            if part.kind == "text":
                part.text = (part.text or "") + chunk.words
                self._emitter.emit("response.output_text.delta", **where, delta=chunk.words)
                continue
            if chunk.words:
                part.transcript = (part.transcript or "") + chunk.words
                self._emitter.emit("response.output_audio_transcript.delta", **where, delta=chunk.words)
            if not chunk.audio:
                continue
            milliseconds = wire.duration_ms(chunk.audio)
            part.audio += chunk.audio
            part.duration_ms += milliseconds
            response.audio_tokens += -(-int(milliseconds) // TOKEN_MS_OUT)
            response.playback_ends_at += milliseconds / 1000
            response.next_chunk_at += milliseconds / 1000 / self._pace if self._pace else 0.0
            delta = base64.b64encode(chunk.audio).decode("ascii")
            self._emitter.emit("response.output_audio.delta", **where, delta=delta)
        return not response.chunks or response.spent

    def close_message(self, response: Response, status: str, previous_id: str | None) -> None:
        """Write the `.done` events of the open message."""
        item = response.items[-1]
        part = item.content[0]
        where = {**self._where(response, item), "content_index": 0}
        response.chunks.clear()
        if part.kind == "text":
            self._emitter.emit("response.output_text.done", **where, text=part.text or "")
        else:
            self._emitter.emit("response.output_audio.done", **where)
            self._emitter.emit(
                "response.output_audio_transcript.done", **where, transcript=part.transcript or ""
            )
        self._part("response.content_part.done", response, item)
        self._finish_item(response, item, status, previous_id)

    def _finish_item(self, response: Response, item: Item, status: str, previous_id: str | None) -> None:
        item.status = status
        if response.bound:
            self._emitter.item_done(item, previous_id)
        self._emitter.emit(
            "response.output_item.done",
            response_id=response.id,
            output_index=response.items.index(item),
            item=item.render(self._emitter.shape),
        )


def _split_words(text: str, most: int) -> list[str]:
    """`text` in pieces of at most `most` words, whose concatenation is `text` with single spaces."""
    words = text.split()
    groups = [" ".join(words[at : at + most]) for at in range(0, len(words), most)]
    return [group if index == 0 else " " + group for index, group in enumerate(groups)]


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _json_text(arguments: Json | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _fill(value: Any, slots: Mapping[str, str | None]) -> Any:
    """`value` with every text that is a placeholder replaced."""
    if isinstance(value, str):
        return slots.get(value, value)
    if isinstance(value, dict):
        return {key: _fill(member, slots) for key, member in value.items()}
    return [_fill(member, slots) for member in value] if isinstance(value, list) else value
