"""One connection's session: client events and finished work in, effects out; time (s) is an argument."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import checks
from .answers import Answers
from .checks import Json
from .effects import BrainFailure, Close, Effect, Reply, Transcribe
from .emitter import Emitter, NewId
from .errors import InvalidRequest, invalid_value
from .frames import client_event_id, parse
from .input_buffer import InputBuffer, Turn, TurnState, VadFactory
from .items import Conversation, Item, Part, parse_item
from .mcp import McpServer, list_tools
from .settings import Settings, Shape, TurnDetection, update
from .transcription import announce_transcript

MAX_APPEND_BYTES = 15 * 1024 * 1024
MAX_KEPT_AUDIO = 32 * 1024 * 1024
MIN_COMMIT_MS = 100


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
        self._answers = Answers(self.id, self._emitter, self.conversation, options.pace, self._answered)
        self._buffer = InputBuffer(self.settings.input_format, vad)
        self._expires = now + options.max_duration_s
        self._idle_at: float | None = None
        self._pending_turn: str | None = None
        self._turn_start = 0
        self._transcribing: dict[str, tuple[Item, bool]] = {}
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
            event = parse(message)
            event_id = client_event_id(event)
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
        self._answers.transcribed(item_id, now)
        return self._emitter.take()

    def replied(self, response_id: str, reply: Reply | BrainFailure | None, now: float) -> list[Effect]:
        """What the brain says; None or the reason where it failed."""
        self._answers.replied(response_id, reply, now)
        return self._emitter.take()

    def spoke(self, response_id: str, text: str, audio: bytes | None, now: float) -> list[Effect]:
        """Speech in the response's output format; None where synthesis failed."""
        self._answers.spoke(response_id, text, audio, now)
        return self._emitter.take()

    def next_deadline(self) -> float | None:
        """When `tick` is due next; None once the session is closed."""
        if self._closed:
            return None
        dues = (self._expires, self._idle_at, self._answers.next_deadline())
        return min(due for due in dues if due is not None)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        if self._closed:
            return []
        if now >= self._expires:
            self._closed = True
            minutes = round(self._options.max_duration_s / 60)
            self._emitter.ask(Close(1001, f"Your session hit the maximum duration of {minutes} minutes."))
            return self._emitter.take()
        self._answers.tick(now)
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
        self.settings = update(before, event.get("session"), voice_fixed=self._answers.voice_fixed)
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
            active = self._answers.active
            if active is not None and rules.interrupt_response:
                self._answers.finish(
                    active, "cancelled", {"type": "cancelled", "reason": "turn_detected"}, now
                )
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

    def _on_response_create(self, event: Json, now: float) -> None:
        body = event.get("response")
        self._create_response({} if body is None else checks.mapping(body, "response"), now)

    def _create_response(self, body: Mapping[str, Any], now: float) -> None:
        self._answers.create(self.settings, body, self._transcribing, now)
        self._idle_at = None

    def _on_response_cancel(self, event: Json, now: float) -> None:
        self._answers.cancel(event.get("response_id"), now)

    def _answered(self, heard_at: float) -> None:
        rules = self.settings.turn_detection
        if rules is not None and rules.idle_timeout_ms is not None:
            self._idle_at = heard_at + rules.idle_timeout_ms / 1000

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
