"""What the provider says, followed: turns, answers, tools, usage, interruption. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parley_worker.core.effects import (
    Clear,
    ClearMedia,
    ClearReason,
    CutMedia,
    Effect,
    Measure,
    Observe,
    SendLeg,
    SendProvider,
)
from parley_worker.core.events import Cleared
from parley_worker.core.model import Usage
from parley_worker.core.playout import Heard, PlayoutLedger
from parley_worker.core.recorder import Recorder, to_json, without_audio, without_tool_credentials
from parley_worker.core.tools import ToolLedger

Payload = Mapping[str, Any]
MAX_RESPONSES = 64
MAX_CODE_CHARACTERS = 100
MAX_INTEGER = 2**31 - 1
RESPONSE_SILENCE_SECONDS = 30.0
"""A response of which nothing comes for so long does not count as an answer being made."""
SPEECH_SECONDS = 300.0
"""A turn of the caller that is never said to be over counts for so long."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """A Clear that waits for the caller's word."""

    epoch: int
    reason: ClearReason
    at: float
    deadline: float


class Conversation:
    """One conversation at the provider. Methods return effects; every `now` is monotonic seconds."""

    def __init__(self, recorder: Recorder, ledger: PlayoutLedger, ga: bool, cleared_timeout: float) -> None:
        self._recorder = recorder
        self._ledger = ledger
        self._ga = ga
        self._cleared_timeout = cleared_timeout
        self._tools = ToolLedger()
        self._active: dict[str, None] = {}
        self._asked = False
        self._asked_at: float | None = None
        self._unheard_since: dict[str, float] = {}
        self._interrupts = True
        self._interruption: Interruption | None = None
        self._speaking_since: float | None = None
        self._response_at = 0.0
        self.usage = Usage()
        self.last_activity = 0.0

    # What the provider says

    def on_message(self, payload: Payload, now: float, attached: bool) -> list[Effect]:
        """Follow a server event."""
        kind = payload.get("type")
        if isinstance(kind, str) and kind.startswith("response."):
            self._response_at = now
        match kind:
            case "session.updated":
                return self._on_session(payload, now)
            case "input_audio_buffer.speech_started":
                return self._on_speech_started(payload, now, attached)
            case "input_audio_buffer.speech_stopped":
                return self._on_speech_stopped(payload, now)
            case "response.created":
                return self._on_response_created(payload, now)
            case "response.done":
                return self._on_response_done(payload, now)
            case "response.output_item.done":
                return self._on_output_item_done(payload, now)
            case "error":
                error = _object(payload, "error")
                self._asked = False
                if error.get("code") == "conversation_already_has_active_response":
                    self._tools.want_answer(now)
                return [
                    self._recorder.event(
                        "provider_error",
                        now,
                        type=_text(error, "type")[:MAX_CODE_CHARACTERS],
                        code=_text(error, "code")[:MAX_CODE_CHARACTERS],
                    ),
                    Observe(Measure.PROVIDER_ERROR, 1, "ErrorEvent"),
                ]
            case _:
                return self._journal(kind, payload, now)

    def _on_session(self, payload: Payload, now: float) -> list[Effect]:
        session = _object(payload, "session")
        audio = _object(session, "audio")
        turn = _object(_object(audio, "input"), "turn_detection") or _object(session, "turn_detection")
        self._interrupts = turn.get("interrupt_response") is not False
        return [
            *self._recorder.journal(
                "session_configured", now, session_json=to_json(without_tool_credentials(session))
            )
        ]

    def _on_speech_started(self, payload: Payload, now: float, attached: bool) -> list[Effect]:
        self._speaking_since = now
        self.last_activity = now
        effects: list[Effect] = [
            self._recorder.event(
                "speech_started",
                now,
                item_id=_text(payload, "item_id"),
                audio_start_ms=_int(payload, "audio_start_ms"),
            )
        ]
        if self._interrupts:
            effects += self.interrupt(ClearReason.BARGE_IN, now, attached)
        return effects

    def _on_speech_stopped(self, payload: Payload, now: float) -> list[Effect]:
        self._speaking_since = None
        self.last_activity = now
        self._asked_at = now
        return [
            self._recorder.event(
                "speech_stopped",
                now,
                item_id=_text(payload, "item_id"),
                audio_end_ms=_int(payload, "audio_end_ms"),
            )
        ]

    def _on_response_created(self, payload: Payload, now: float) -> list[Effect]:
        response_id = _text(_object(payload, "response"), "id")
        self._active[response_id] = None
        self._asked = False
        self._tools.answered()
        self.last_activity = now
        self._unheard_since[response_id] = now if self._asked_at is None else self._asked_at
        self._asked_at = None
        for known in (self._active, self._unheard_since):
            while len(known) > MAX_RESPONSES:
                known.pop(next(iter(known)))
        return [self._recorder.event("response_started", now, response_id=response_id)]

    def _on_response_done(self, payload: Payload, now: float) -> list[Effect]:
        response = _object(payload, "response")
        response_id = _text(response, "id")
        self._active.pop(response_id, None)
        self.last_activity = now
        usage = _object(response, "usage")
        tokens_in, tokens_out = _int(usage, "input_tokens"), _int(usage, "output_tokens")
        cached = _int(_object(usage, "input_token_details"), "cached_tokens")
        self.usage = Usage(
            self.usage.input_tokens + tokens_in,
            self.usage.output_tokens + tokens_out,
            self.usage.cached_tokens + cached,
        )
        done = self._recorder.event(
            "response_done",
            now,
            response_id=response_id,
            status=_text(response, "status"),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        )
        return [done, *self.ask_if_due(now)]

    def _on_output_item_done(self, payload: Payload, now: float) -> list[Effect]:
        item = _object(payload, "item")
        effects: list[Effect] = []
        call_id = _text(item, "call_id")
        if item.get("type") == "function_call" and self._tools.called(
            call_id, _text(payload, "response_id"), now
        ):
            name = _text(item, "name")
            effects.append(self._recorder.event("tool_called", now, call_id=call_id, tool=name))
            effects += self._recorder.journal(
                "tool_call", now, call_id=call_id, tool=name, arguments=_text(item, "arguments")
            )
        if not self._ga:
            effects += self._item_done(item, payload, now)
        return effects

    def _journal(self, kind: object, payload: Payload, now: float) -> list[Effect]:
        item_id = _text(payload, "item_id")
        match kind:
            case "conversation.item.done":
                return self._item_done(_object(payload, "item"), payload, now)
            case "conversation.item.created" if not self._ga:
                item = _object(payload, "item")
                if item.get("role") == "assistant" or item.get("type") == "function_call":
                    return []
                return self._item_done(item, payload, now)
            case "conversation.item.input_audio_transcription.completed":
                return self._transcript(payload, "user", now)
            case "response.output_audio_transcript.done" | "response.audio_transcript.done":
                return self._transcript(payload, "assistant", now)
            case "conversation.item.truncated":
                return [
                    *self._recorder.journal(
                        "item_truncated",
                        now,
                        item_id=item_id,
                        content_index=_int(payload, "content_index"),
                        audio_end_ms=_int(payload, "audio_end_ms"),
                    )
                ]
            case "conversation.item.deleted":
                return [*self._recorder.journal("item_deleted", now, item_id=item_id)]
            case _:
                return []

    def _item_done(self, item: Payload, payload: Payload, now: float) -> list[Effect]:
        previous = _text(payload, "previous_item_id")
        return [
            *self._recorder.journal(
                "item_done", now, item_json=to_json(without_audio(item)), previous_item_id=previous
            )
        ]

    def _transcript(self, payload: Payload, role: str, now: float) -> list[Effect]:
        return [
            *self._recorder.journal(
                "transcript",
                now,
                item_id=_text(payload, "item_id"),
                content_index=_int(payload, "content_index"),
                role=role,
                text=_text(payload, "transcript"),
            )
        ]

    # What is asked of the provider

    def ask(self, now: float) -> list[Effect]:
        """Ask for a response."""
        self._asked = True
        self._asked_at = now
        self._tools.answered()
        return [SendProvider({"type": "response.create"})]

    def ask_if_due(self, now: float) -> list[Effect]:
        """Ask for the response that uses tool results, once no other is in the way."""
        if self._active or self._asked or not self._tools.answer_due(now):
            return []
        return self.ask(now)

    def pass_on(self, event: Payload, now: float) -> list[Effect]:
        """A client event of the caller or the operator, checked for its type before."""
        item = _object(event, "item")
        effects: list[Effect] = []
        if event["type"] == "response.create":
            self._asked_at = now
        elif event["type"] == "conversation.item.create" and item.get("type") == "function_call_output":
            call_id = _text(item, "call_id")
            took = self._tools.returned(call_id, now)
            if not isinstance(took, str):
                effects += self._tool_returned(call_id, took, str(item.get("output", "")), now)
        self.last_activity = now
        return [*effects, SendProvider(event)]

    def tool_output(self, call_id: str, output: str, no_response: bool, now: float) -> list[Effect] | str:
        """Give a result to the model; a sentence when it cannot be taken."""
        took = self._tools.returned(call_id, now)
        if isinstance(took, str):
            return took
        self.last_activity = now
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        effects: list[Effect] = [SendProvider({"type": "conversation.item.create", "item": item})]
        effects += self._tool_returned(call_id, took, output, now)
        if not no_response:
            self._tools.want_answer(now)
        return effects + self.ask_if_due(now)

    def _tool_returned(self, call_id: str, took: float, output: str, now: float) -> list[Effect]:
        event = self._recorder.event("tool_returned", now, call_id=call_id, duration_ms=round(took * 1000))
        return [event, *self._recorder.journal("tool_result", now, call_id=call_id, output=output)]

    # Audio

    def first_frame(self, response_id: str, now: float) -> list[Effect]:
        """The first audio of an answer went to the caller."""
        self.last_activity = now
        asked_at = self._unheard_since.pop(response_id, None)
        latency = 0.0 if asked_at is None else max(0.0, now - asked_at)
        event = self._recorder.event(
            "first_audio", now, response_id=response_id, latency_ms=round(latency * 1000)
        )
        return [event] if asked_at is None else [event, Observe(Measure.FIRST_AUDIO, latency)]

    def interrupt(self, reason: ClearReason, now: float, attached: bool) -> list[Effect]:
        """Drop what was not heard; a requested silence cancels the answer too, speech does so by the
        provider."""
        effects = self.finish_interruption(None, now) if self._interruption else []
        unheard = self._ledger.unheard(now)
        if not unheard and not self._active:
            return effects
        effects.append(ClearMedia(tuple(self._active)))
        if reason is not ClearReason.BARGE_IN and self._active:
            effects.append(SendProvider({"type": "response.cancel"}))
        self._ledger.stop(now)
        if unheard:
            self._interruption = Interruption(self._ledger.epoch, reason, now, now + self._cleared_timeout)
            if attached:
                effects.append(SendLeg(Clear(self._ledger.epoch, reason)))
                if reason is ClearReason.BARGE_IN:
                    effects.append(Observe(Measure.BARGE_IN, now))
            else:
                effects += self.finish_interruption(None, now)
        return effects

    def cleared(self, word: Cleared, now: float) -> list[Effect]:
        """The caller's answer to a Clear; an answer to another epoch is too late and ignored."""
        if self._interruption is None or word.epoch != self._interruption.epoch:
            return []
        return self.finish_interruption(Heard(word.item_id, word.content_index, word.played_ms), now)

    def finish_interruption(self, heard: Heard | None, now: float) -> list[Effect]:
        """Truncate the history at what was heard; the playout clock counts up to the moment of the Clear."""
        interruption, self._interruption = self._interruption, None
        if interruption is None:
            return []
        effects: list[Effect] = []
        for i, cut in enumerate(self._ledger.cut(interruption.epoch, heard, interruption.at)):
            truncate = {
                "type": "conversation.item.truncate",
                "item_id": cut.item_id,
                "content_index": cut.content_index,
                "audio_end_ms": cut.audio_end_ms,
            }
            effects += [CutMedia(cut.item_id, cut.content_index, cut.audio_end_ms), SendProvider(truncate)]
            if i == 0 and interruption.reason is ClearReason.BARGE_IN:
                effects.append(
                    self._recorder.event(
                        "barge_in",
                        now,
                        item_id=cut.item_id,
                        played_ms=cut.audio_end_ms,
                        source=cut.source,
                        epoch=cut.epoch,
                    )
                )
        return effects

    def next_deadline(self) -> float | None:
        """When `on_deadline` has something to do."""
        dues = [self._tools.deadline() if not self._active and not self._asked else None]
        dues.append(self._interruption.deadline if self._interruption else None)
        return min((due for due in dues if due is not None), default=None)

    def on_deadline(self, now: float) -> list[Effect]:
        """The caller did not answer a Clear in time, or other tools take too long."""
        effects: list[Effect] = []
        if self._interruption and now >= self._interruption.deadline:
            effects += self.finish_interruption(None, now)
        return effects + self.ask_if_due(now)

    def clearing(self, epoch: int) -> bool:
        """True while the caller's word on a Clear of this epoch is awaited."""
        return self._interruption is not None and epoch <= self._interruption.epoch

    def quiet_since(self) -> float:
        """Since when nobody speaks and no answer is made; in the future while one of them goes on.

        A response that never ends and speech that never stops count for a bounded time.
        """
        since = max(self.last_activity, self._ledger.playing_until())
        if self._active:
            heard_of = max(self._response_at, self._ledger.received_at)
            since = max(since, heard_of + RESPONSE_SILENCE_SECONDS)
        if self._speaking_since is not None:
            since = max(since, self._speaking_since + SPEECH_SECONDS)
        return since


def _object(fields: Payload, name: str) -> Payload:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(fields: Payload, name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _int(fields: Payload, name: str) -> int:
    """0 to MAX_INTEGER: what a provider sends must fit the fields of our messages."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), MAX_INTEGER)
