"""One connection's session: client events and finished work in, effects out; time (s) is an argument."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import checks
from .checks import Json
from .effects import Abandon, BrainFailure, BrainRequest, Close, Effect, Reply, Think, Transcribe
from .emitter import Emitter, NewId
from .errors import InvalidRequest, invalid_value
from .history import history, input_tokens
from .input_buffer import InputBuffer, Turn, TurnState, VadFactory
from .items import MAX_ITEMS, Conversation, Item, Part, parse_item
from .mcp import McpServer, list_tools
from .responses import Response, ResponseState, Writer, override
from .settings import Settings, Shape, TurnDetection, update
from .transcription import announce_transcript

MAX_APPEND_BYTES = 15 * 1024 * 1024
MAX_KEPT_AUDIO = 32 * 1024 * 1024
MIN_COMMIT_MS = 100
MAX_PARALLEL_RESPONSES = 8
TOKEN_LIMIT = 40_000
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the server decides about a session. Times in seconds; `epoch` turns them into unix time."""

    shape: Shape
    model: str
    transcription_only: bool = False
    max_duration_s: float = 3600.0
    epoch: float = 0.0
    pace: float = 4.0
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)


class Session:
    """The protocol's state. Public methods take `now` and return the effects to carry out, in order."""

    def __init__(self, options: SessionOptions, vad: VadFactory, new_id: NewId, now: float) -> None:
        self._options = options
        beta = options.shape is Shape.BETA
        turns = None if options.transcription_only and beta else TurnDetection()
        self.settings = Settings(
            shape=options.shape,
            model=options.model,
            transcription_only=options.transcription_only,
            modalities=("text", "audio") if beta else ("audio",),
            turn_detection=turns,
        )
        self.id = new_id("sess_")
        self.conversation = Conversation(new_id("conv_"))
        self._emitter = Emitter(options.shape, new_id)
        self._writer = Writer(self._emitter, options.pace)
        self._buffer = InputBuffer(self.settings.input_format, vad)
        self._responses: dict[str, Response] = {}
        self._expires = now + options.max_duration_s
        self._idle_at: float | None = None
        self._pending_turn: str | None = None
        self._turn_start = 0
        self._transcribing: dict[str, tuple[Item, bool]] = {}
        self._voice_fixed = False
        self._tokens_used = 0
        self._closed = False
        self._handlers = self._routes()

    # ---- entry points

    def start(self, now: float) -> list[Effect]:
        """The greeting of a new connection."""
        prefix = "transcription_session" if self._beta_transcription else "session"
        self._emitter.emit(f"{prefix}.created", session=self._render())
        if self._options.shape is Shape.BETA and not self._options.transcription_only:
            body = {"id": self.conversation.id, "object": "realtime.conversation"}
            self._emitter.emit("conversation.created", conversation=body)
        return self._emitter.take()

    def receive(self, message: str | bytes, now: float) -> list[Effect]:
        """One WebSocket message from the client; whatever it holds, the session survives it."""
        if self._closed:
            return []
        event_id: str | None = None
        try:
            event = self._parse(message)
            event_id = self._client_event_id(event)
            self._dispatch(event, now)
        except InvalidRequest as refusal:
            self._emitter.fault(refusal.body(event_id))
        return self._emitter.take()

    def transcribed(self, item_id: str, text: str | None, now: float) -> list[Effect]:
        """The words of a committed item; None where recognition failed."""
        item, announce = self._transcribing.pop(item_id, (None, False))
        if item is None or self._closed:
            return []
        part = item.content[0]
        part.transcript = text or ""
        if announce and self.conversation.has(item_id):
            announce_transcript(self._emitter, item, text, self.settings.transcription)
        for response in list(self._responses.values()):
            response.awaiting.discard(item_id)
            self._advance(response, now)
        return self._emitter.take()

    def replied(self, response_id: str, reply: Reply | BrainFailure | None, now: float) -> list[Effect]:
        """What the brain says; None or the reason where it failed."""
        response = self._responses.get(response_id)
        if response is None or response.state is not ResponseState.THINKING:
            return []
        if reply is None or isinstance(reply, BrainFailure):
            self._fail(response, reply or BrainFailure("The brain gave no reply."), now)
        else:
            self._writer.begin(response, reply)
            self._write(response, now)
        return self._emitter.take()

    def spoke(self, response_id: str, text: str, audio: bytes | None, now: float) -> list[Effect]:
        """Speech in the response's output format; None where synthesis failed."""
        response = self._responses.get(response_id)
        if response is None or response.state is not ResponseState.SPEAKING:
            return []
        if audio is None:
            self._fail(response, BrainFailure("Speech synthesis failed."), now)
        else:
            self._voice_fixed = True
            self._writer.load_speech(response, text, audio, now)
            self._write(response, now)
        return self._emitter.take()

    def next_deadline(self) -> float | None:
        """When `tick` is due next; None once the session is closed."""
        if self._closed:
            return None
        due = [self._expires]
        if self._idle_at is not None:
            due.append(self._idle_at)
        streaming = (r for r in self._responses.values() if r.state is ResponseState.STREAMING)
        due += [response.next_chunk_at for response in streaming]
        return min(due)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        if self._closed:
            return []
        if now >= self._expires:
            self._closed = True
            minutes = round(self._options.max_duration_s / 60)
            self._emitter.ask(Close(1001, f"Your session hit the maximum duration of {minutes} minutes."))
            return self._emitter.take()
        for response in list(self._responses.values()):
            if response.state is ResponseState.STREAMING:
                self._write(response, now)
        if self._idle_at is not None and now >= self._idle_at:
            self._idle_timeout(now)
        return self._emitter.take()

    # ---- client events

    def _routes(self) -> dict[str, Callable[[Json, float], None]]:
        routes: dict[str, Callable[[Json, float], None]] = {
            "session.update": self._on_update,
            "session.close": self._on_close,
            "input_audio_buffer.append": self._on_append,
            "input_audio_buffer.commit": self._on_commit,
            "input_audio_buffer.clear": self._on_clear,
            "conversation.item.create": self._on_item_create,
            "conversation.item.truncate": self._on_truncate,
            "conversation.item.delete": self._on_delete,
            "conversation.item.retrieve": self._on_retrieve,
            "response.create": self._on_response_create,
            "response.cancel": self._on_response_cancel,
        }
        if self._options.shape is Shape.BETA:
            routes["transcription_session.update"] = self._on_update
            del routes["session.close"]
        return routes

    @property
    def _beta_transcription(self) -> bool:
        return self._options.shape is Shape.BETA and self._options.transcription_only

    def _parse(self, message: str | bytes) -> Json:
        if isinstance(message, bytes):
            raise InvalidRequest(
                "invalid_event", "Expected a text WebSocket message; binary frames are not supported."
            )
        try:
            event = json.loads(message, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("invalid_json", "The message is not valid JSON.") from error
        if _deep(event):
            raise InvalidRequest("invalid_json", f"The message is nested more than {MAX_DEPTH} levels deep.")
        if not isinstance(event, dict):
            raise InvalidRequest("invalid_json", "Expected a JSON object.")
        return event

    def _client_event_id(self, event: Json) -> str | None:
        value = event.get("event_id")
        return None if value is None else checks.string(value, "event_id", longest=512)

    def _dispatch(self, event: Json, now: float) -> None:
        kind = checks.required_string(event, "type")
        handler = self._handlers.get(kind)
        if handler is None:
            listed = ", ".join(f"'{name}'" for name in self._handlers)
            raise invalid_value("type", kind, f"Supported values are: {listed}.")
        handler(event, now)

    def _render(self) -> Json:
        expires = int(self._options.epoch + self._expires)
        return self.settings.render(self.id, expires)

    def _on_update(self, event: Json, now: float) -> None:
        before = self.settings
        self.settings = update(before, event.get("session"), voice_fixed=self._voice_fixed)
        self._buffer.set_format(self.settings.input_format)
        if self.settings.turn_detection is None:
            self._pending_turn, self._idle_at = None, None
        prefix = "transcription_session" if self._beta_transcription else "session"
        self._emitter.emit(f"{prefix}.updated", session=self._render())
        if self._options.shape is Shape.GA:
            list_tools(self._emitter, self.conversation, before, self.settings, self._options.mcp_servers)

    def _on_close(self, event: Json, now: float) -> None:
        self._closed = True
        self._emitter.ask(Close(1000, ""))

    def _on_append(self, event: Json, now: float) -> None:
        text = "" if event.get("audio") == "" else checks.required_string(event, "audio")
        audio = checks.base64_bytes(text, "audio")
        if len(audio) > MAX_APPEND_BYTES:
            raise invalid_value("audio", f"{len(audio)} bytes", f"Append at most {MAX_APPEND_BYTES} bytes.")
        if self._buffer.size + len(audio) > 2 * MAX_APPEND_BYTES:
            raise InvalidRequest(
                "input_audio_buffer_full",
                f"The buffer holds at most {2 * MAX_APPEND_BYTES} bytes of audio. Commit or clear it first.",
            )
        rules = self.settings.turn_detection
        for turn in self._buffer.append(audio, rules):
            self._on_turn(turn, now)

    def _on_turn(self, turn: Turn, now: float) -> None:
        rules = self.settings.turn_detection
        if rules is None:
            return
        if turn.state is TurnState.SPEAKING:
            self._idle_at = None
            self._pending_turn = self._emitter.new_id("item_")
            self._turn_start = turn.at_ms
            self._emitter.emit(
                "input_audio_buffer.speech_started", audio_start_ms=turn.at_ms, item_id=self._pending_turn
            )
            active = self._active()
            if active is not None and rules.interrupt_response:
                self._finish(active, "cancelled", {"type": "cancelled", "reason": "turn_detected"}, now)
            return
        item_id = self._pending_turn or self._emitter.new_id("item_")
        self._pending_turn = None
        self._emitter.emit("input_audio_buffer.speech_stopped", audio_end_ms=turn.at_ms, item_id=item_id)
        self._commit(item_id, self._buffer.take(self._turn_start, turn.at_ms))
        if rules.create_response and not self.settings.transcription_only:
            self._respond_or_refuse({}, now)

    def _respond_or_refuse(self, body: Json, now: float) -> None:
        try:
            self._create_response(body, now)
        except InvalidRequest as refusal:
            self._emitter.fault(refusal.body(None))

    def _on_commit(self, event: Json, now: float) -> None:
        length = self._buffer.duration_ms
        if length < MIN_COMMIT_MS:
            raise InvalidRequest(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least "
                f"{MIN_COMMIT_MS}ms of audio, but buffer only has {length:.2f}ms of audio.",
            )
        item_id, self._pending_turn = self._pending_turn or self._emitter.new_id("item_"), None
        audio = self._buffer.take()
        self._buffer.detector.reset()
        self._commit(item_id, audio)

    def _commit(self, item_id: str, audio: bytes) -> None:
        wire = self._buffer.wire
        part = Part("input_audio", audio=audio, duration_ms=wire.duration_ms(audio))
        item = Item(item_id, "message", role="user", content=[part])
        try:
            previous = self.conversation.insert(item)
        except InvalidRequest as refusal:
            self._emitter.fault(refusal.body(None))
            return
        self._forget_old_audio()
        self._emitter.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self._emitter.item_added(item, previous)
        self._emitter.item_done(item, previous)
        self._transcribe(item, announce=self.settings.transcription is not None)

    def _transcribe(self, item: Item, *, announce: bool) -> None:
        self._transcribing[item.id] = (item, announce)
        audio = b"".join(part.audio for part in item.content)
        self._emitter.ask(Transcribe(item.id, audio, self.settings.input_format))

    def _forget_old_audio(self) -> None:
        """Keep at most 32 MiB of the conversation's audio: the oldest goes first."""
        kept = 0
        for item in reversed(list(self.conversation)):
            for part in item.content:
                kept += len(part.audio)
                if kept > MAX_KEPT_AUDIO:
                    part.audio = b""

    def _on_clear(self, event: Json, now: float) -> None:
        self._buffer.clear()
        self._pending_turn = None
        self._emitter.emit("input_audio_buffer.cleared")

    def _on_item_create(self, event: Json, now: float) -> None:
        item, undecoded = parse_item(event.get("item"), self._emitter.new_id("item_"))
        for part, text in undecoded:
            part.audio = checks.base64_bytes(text, "item.content.audio")
            part.duration_ms = self.settings.input_format.duration_ms(part.audio)
        after = event.get("previous_item_id")
        after = None if after is None else checks.string(after, "previous_item_id")
        previous = self.conversation.insert(item, after)
        self._forget_old_audio()
        self._emitter.item_added(item, previous)
        self._emitter.item_done(item, previous)
        if any(part.transcript is None for part, _ in undecoded):
            self._transcribe(item, announce=False)

    def _on_truncate(self, event: Json, now: float) -> None:
        item = self.conversation.find(checks.required_string(event, "item_id"))
        index = checks.integer(event.get("content_index", 0), "content_index", 0)
        end = checks.integer(event.get("audio_end_ms"), "audio_end_ms", 0)
        if item.role != "assistant" or index >= len(item.content) or item.content[index].kind != "audio":
            raise invalid_value("item_id", item.id, "Only audio of an assistant message can be truncated.")
        part = item.content[index]
        if end > part.duration_ms:
            raise InvalidRequest(
                None, f"Audio content of {int(part.duration_ms)}ms is already shorter than {end}ms"
            )
        wire = self.settings.output_format
        part.audio = part.audio[: end * wire.bytes_per_ms]
        part.duration_ms = end
        part.transcript = ""
        self._emitter.emit(
            "conversation.item.truncated", item_id=item.id, content_index=index, audio_end_ms=end
        )

    def _on_delete(self, event: Json, now: float) -> None:
        item_id = checks.required_string(event, "item_id")
        self.conversation.remove(item_id)
        self._emitter.emit("conversation.item.deleted", item_id=item_id)

    def _on_retrieve(self, event: Json, now: float) -> None:
        item = self.conversation.find(checks.required_string(event, "item_id"))
        body = item.render(self._options.shape)
        for part, rendered in zip(item.content, body.get("content", []), strict=False):
            if part.kind in ("audio", "input_audio"):
                rendered["audio"] = base64.b64encode(part.audio).decode("ascii")
        self._emitter.emit("conversation.item.retrieved", item=body)

    # ---- responses

    def _active(self) -> Response | None:
        return next((response for response in self._responses.values() if response.bound), None)

    def _on_response_create(self, event: Json, now: float) -> None:
        body = event.get("response")
        self._create_response({} if body is None else checks.mapping(body, "response"), now)

    def _create_response(self, body: Mapping[str, Any], now: float) -> None:
        if self.settings.transcription_only:
            raise InvalidRequest("invalid_value", "A transcription session gives no responses.", "type")
        settings = override(self.settings, body)
        target = body.get("conversation")
        bound = (
            checks.one_of(target or "auto", "response.conversation", ("auto", "none", self.conversation.id))
            != "none"
        )
        active = self._active()
        if bound and active is not None:
            raise InvalidRequest(
                "conversation_already_has_active_response",
                f"Conversation already has an active response in progress: {active.id}. "
                "Wait until the response is finished before creating a new one.",
            )
        if len(self._responses) >= MAX_PARALLEL_RESPONSES:
            raise InvalidRequest("too_many_responses", f"At most {MAX_PARALLEL_RESPONSES} responses at once.")
        metadata = body.get("metadata")
        response = Response(
            self._emitter.new_id("resp_"),
            settings,
            self.conversation.id if bound else None,
            None if metadata is None else dict(checks.mapping(metadata, "response.metadata")),
        )
        if body.get("input") is not None:
            response.context = tuple(self._context(checks.sequence(body["input"], "response.input")))
        self._idle_at = None
        self._responses[response.id] = response
        self._emitter.emit("response.created", response=response.render("in_progress"))
        if self._options.shape is Shape.BETA:
            self._emit_rate_limits()
        response.awaiting = set(self._transcribing)
        self._advance(response, now)

    def _context(self, entries: list[Any]) -> list[Item]:
        """The items of an explicit `input`: inline ones and references."""
        items: list[Item] = []
        for index, entry in enumerate(entries):
            param = f"response.input[{index}]"
            body = checks.mapping(entry, param)
            if body.get("type") == "item_reference":
                items.append(self.conversation.find(checks.required_string(body, "id", param), f"{param}.id"))
            else:
                items.append(parse_item(entry, self._emitter.new_id("item_"), param)[0])
        return items

    def _advance(self, response: Response, now: float) -> None:
        """Give the brain the word once every transcript it needs is there."""
        if response.state is not ResponseState.WAITING or response.awaiting:
            return
        response.move(ResponseState.THINKING)
        items = list(self.conversation) if response.context is None else list(response.context)
        response.input_tokens = input_tokens(response.settings.instructions, items)
        tools = response.settings.tools
        request = BrainRequest(
            response.settings.instructions,
            tuple(history(items)),
            tuple(str(tool.get("name", "")) for tool in tools),
            tuple(tool for tool in tools if tool["type"] == "function"),
            response.settings.tool_choice,
            self.id,
        )
        self._emitter.ask(Think(response.id, request))

    def _write(self, response: Response, now: float) -> None:
        """Write as much of the response as is due."""
        while True:
            if response.state is ResponseState.STREAMING and _is_open(response):
                if not self._writer.stream(response, now):
                    return
                if response.spent and (response.chunks or response.outputs):
                    self._finish(
                        response, "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, now
                    )
                    return
                self._writer.close_message(response, "completed", self._previous(response))
            if response.bound and response.outputs and len(self.conversation) >= MAX_ITEMS:
                self._fail(response, BrainFailure(f"The conversation holds {MAX_ITEMS} items."), now)
                return
            last_id = self.conversation.last_id
            self._writer.emit_directives(response, last_id)
            opened = self._writer.open_next(response, now, last_id if response.bound else None)
            if opened is None:
                self._finish(response, "completed", None, now)
                return
            if response.bound:
                self.conversation.insert(opened)
            if opened.kind != "message":
                continue
            if response.state is ResponseState.SPEAKING:
                return

    def _previous(self, response: Response) -> str | None:
        item = response.items[-1]
        return self.conversation.previous_id(item) if self.conversation.has(item.id) else None

    def _fail(self, response: Response, failure: BrainFailure, now: float) -> None:
        error = {"type": failure.kind, "code": failure.code, "message": failure.message}
        self._finish(response, "failed", {"type": "failed", "error": error}, now)

    def _finish(self, response: Response, status: str, details: Json | None, now: float) -> None:
        """End a response whatever its state: the open item's `.done` events, then `response.done`."""
        if response.items and _is_open(response):
            self._writer.close_message(response, "incomplete", self._previous(response))
        if status != "completed":
            self._emitter.ask(Abandon(response.id))
        response.move(ResponseState.DONE)
        del self._responses[response.id]
        self._tokens_used += int(response.usage()["total_tokens"])
        self._emitter.emit("response.done", response=response.render(status, details))
        if self._options.shape is Shape.GA:
            self._emit_rate_limits()
        rules = self.settings.turn_detection
        if rules is not None and rules.idle_timeout_ms is not None and status == "completed":
            self._idle_at = max(now, response.playback_ends_at) + rules.idle_timeout_ms / 1000

    def _emit_rate_limits(self) -> None:
        remaining = max(0, TOKEN_LIMIT - self._tokens_used)
        limits = [{"name": "tokens", "limit": TOKEN_LIMIT, "remaining": remaining, "reset_seconds": 60.0}]
        if self._options.shape is Shape.BETA:
            limits.insert(0, {"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60.0})
        self._emitter.emit("rate_limits.updated", rate_limits=limits)

    def _on_response_cancel(self, event: Json, now: float) -> None:
        wanted = event.get("response_id")
        response = self._active() if wanted is None else self._responses.get(str(wanted))
        if response is None:
            raise InvalidRequest(
                "response_cancel_not_active", "Cancellation failed: no active response found"
            )
        self._finish(response, "cancelled", {"type": "cancelled", "reason": "client_cancelled"}, now)

    def _idle_timeout(self, now: float) -> None:
        self._idle_at = None
        item_id = self._emitter.new_id("item_")
        end = int(self._buffer.end_ms)
        start = int(end - self._buffer.duration_ms)
        self._emitter.emit(
            "input_audio_buffer.timeout_triggered", audio_start_ms=start, audio_end_ms=end, item_id=item_id
        )
        self._commit(item_id, self._buffer.take())
        self._respond_or_refuse({}, now)


def _is_open(response: Response) -> bool:
    return bool(response.items) and response.items[-1].status == "in_progress"


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _deep(value: object) -> bool:
    """True when lists and objects lie more than MAX_DEPTH levels inside each other."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inside: list[object] = []
        for holder in level:
            if isinstance(holder, dict):
                inside.extend(v for v in holder.values() if isinstance(v, dict | list))
            elif isinstance(holder, list):
                inside.extend(v for v in holder if isinstance(v, dict | list))
        if not inside:
            return False
        level = inside
    return True
