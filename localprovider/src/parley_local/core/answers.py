"""The responses of a session, from the request to `response.done`. Times in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import checks
from .checks import Json
from .effects import Abandon, BrainFailure, BrainRequest, Reply, Think
from .emitter import Emitter
from .errors import InvalidRequest
from .history import history, input_tokens
from .items import MAX_ITEMS, Conversation, Item, parse_item
from .responses import Response, ResponseState, Writer, override
from .settings import Settings, Shape

MAX_PARALLEL_RESPONSES = 8
TOKEN_LIMIT = 40_000


class Answers:
    """Those that go on; at most one of them belongs to the conversation.

    What happens goes out by `emitter`. `completed` is told until when a whole answer is heard.
    """

    def __init__(
        self,
        session_id: str,
        emitter: Emitter,
        conversation: Conversation,
        pace: float,
        completed: Callable[[float], None],
    ) -> None:
        self._session_id = session_id
        self._emitter = emitter
        self._conversation = conversation
        self._completed = completed
        self._writer = Writer(emitter, pace)
        self._responses: dict[str, Response] = {}
        self._tokens_used = 0
        self.voice_fixed = False
        """Something was said: the session's voice can no longer change."""

    @property
    def active(self) -> Response | None:
        """The response that belongs to the conversation."""
        return next((response for response in self._responses.values() if response.bound), None)

    def transcribed(self, item_id: str, now: float) -> None:
        """The transcript of an item is there, or will never be."""
        for response in list(self._responses.values()):
            response.awaiting.discard(item_id)
            self._advance(response, now)

    def replied(self, response_id: str, reply: Reply | BrainFailure | None, now: float) -> None:
        """What the brain says; None or the reason where it failed."""
        response = self._responses.get(response_id)
        if response is None or response.state is not ResponseState.THINKING:
            return
        if reply is None or isinstance(reply, BrainFailure):
            self._fail(response, reply or BrainFailure("The brain gave no reply."), now)
        else:
            self._writer.begin(response, reply)
            self._write(response, now)

    def spoke(self, response_id: str, text: str, audio: bytes | None, now: float) -> None:
        """Speech in the response's output format; None where synthesis failed."""
        response = self._responses.get(response_id)
        if response is None or response.state is not ResponseState.SPEAKING:
            return
        if audio is None:
            self._fail(response, BrainFailure("Speech synthesis failed."), now)
        else:
            self.voice_fixed = True
            self._writer.load_speech(response, text, audio, now)
            self._write(response, now)

    def next_deadline(self) -> float | None:
        """When audio is due next."""
        streaming = (r for r in self._responses.values() if r.state is ResponseState.STREAMING)
        return min((response.next_chunk_at for response in streaming), default=None)

    def tick(self, now: float) -> None:
        """Send the audio that is due."""
        for response in list(self._responses.values()):
            if response.state is ResponseState.STREAMING:
                self._write(response, now)

    def create(
        self, settings: Settings, body: Mapping[str, Any], awaiting: Iterable[str], now: float
    ) -> None:
        """Begin a response; the brain has the word once the items `awaiting` have their transcripts."""
        if settings.transcription_only:
            raise InvalidRequest("invalid_value", "A transcription session gives no responses.", "type")
        settings = override(settings, body)
        target = body.get("conversation")
        bound = (
            checks.one_of(target or "auto", "response.conversation", ("auto", "none", self._conversation.id))
            != "none"
        )
        active = self.active
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
            self._conversation.id if bound else None,
            None if metadata is None else dict(checks.mapping(metadata, "response.metadata")),
        )
        if body.get("input") is not None:
            response.context = tuple(self._context(checks.sequence(body["input"], "response.input")))
        self._responses[response.id] = response
        self._emitter.emit("response.created", response=response.render("in_progress"))
        if self._emitter.shape is Shape.BETA:
            self._emit_rate_limits()
        response.awaiting = set(awaiting)
        self._advance(response, now)

    def cancel(self, wanted: object, now: float) -> None:
        """End the response with the id `wanted`, or the active one for None."""
        response = self.active if wanted is None else self._responses.get(str(wanted))
        if response is None:
            raise InvalidRequest(
                "response_cancel_not_active", "Cancellation failed: no active response found"
            )
        self.finish(response, "cancelled", {"type": "cancelled", "reason": "client_cancelled"}, now)

    def finish(self, response: Response, status: str, details: Json | None, now: float) -> None:
        """End a response whatever its state: the open item's `.done` events, then `response.done`."""
        if response.items and _is_open(response):
            self._writer.close_message(response, "incomplete", self._previous(response))
        if status != "completed":
            self._emitter.ask(Abandon(response.id))
        response.move(ResponseState.DONE)
        del self._responses[response.id]
        self._tokens_used += int(response.usage()["total_tokens"])
        self._emitter.emit("response.done", response=response.render(status, details))
        if self._emitter.shape is Shape.GA:
            self._emit_rate_limits()
        if status == "completed":
            self._completed(max(now, response.playback_ends_at))

    def _context(self, entries: list[Any]) -> list[Item]:
        """The items of an explicit `input`: inline ones and references."""
        items: list[Item] = []
        for index, entry in enumerate(entries):
            param = f"response.input[{index}]"
            body = checks.mapping(entry, param)
            if body.get("type") == "item_reference":
                items.append(
                    self._conversation.find(checks.required_string(body, "id", param), f"{param}.id")
                )
            else:
                items.append(parse_item(entry, self._emitter.new_id("item_"), param)[0])
        return items

    def _advance(self, response: Response, now: float) -> None:
        """Give the brain the word once every transcript it needs is there."""
        if response.state is not ResponseState.WAITING or response.awaiting:
            return
        response.move(ResponseState.THINKING)
        items = list(self._conversation) if response.context is None else list(response.context)
        response.input_tokens = input_tokens(response.settings.instructions, items)
        tools = response.settings.tools
        request = BrainRequest(
            response.settings.instructions,
            tuple(history(items)),
            tuple(str(tool.get("name", "")) for tool in tools),
            tuple(tool for tool in tools if tool["type"] == "function"),
            response.settings.tool_choice,
            self._session_id,
        )
        self._emitter.ask(Think(response.id, request))

    def _write(self, response: Response, now: float) -> None:
        """Write as much of the response as is due."""
        while True:
            if response.state is ResponseState.STREAMING and _is_open(response):
                if not self._writer.stream(response, now):
                    return
                if response.spent and (response.chunks or response.outputs):
                    self.finish(
                        response, "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, now
                    )
                    return
                self._writer.close_message(response, "completed", self._previous(response))
            if response.bound and response.outputs and len(self._conversation) >= MAX_ITEMS:
                self._fail(response, BrainFailure(f"The conversation holds {MAX_ITEMS} items."), now)
                return
            last_id = self._conversation.last_id
            self._writer.emit_directives(response, last_id)
            opened = self._writer.open_next(response, now, last_id if response.bound else None)
            if opened is None:
                self.finish(response, "completed", None, now)
                return
            if response.bound:
                self._conversation.insert(opened)
            if opened.kind != "message":
                continue
            if response.state is ResponseState.SPEAKING:
                return

    def _previous(self, response: Response) -> str | None:
        item = response.items[-1]
        return self._conversation.previous_id(item) if self._conversation.has(item.id) else None

    def _fail(self, response: Response, failure: BrainFailure, now: float) -> None:
        error = {"type": failure.kind, "code": failure.code, "message": failure.message}
        self.finish(response, "failed", {"type": "failed", "error": error}, now)

    def _emit_rate_limits(self) -> None:
        remaining = max(0, TOKEN_LIMIT - self._tokens_used)
        limits = [{"name": "tokens", "limit": TOKEN_LIMIT, "remaining": remaining, "reset_seconds": 60.0}]
        if self._emitter.shape is Shape.BETA:
            limits.insert(0, {"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60.0})
        self._emitter.emit("rate_limits.updated", rate_limits=limits)


def _is_open(response: Response) -> bool:
    return bool(response.items) and response.items[-1].status == "in_progress"
