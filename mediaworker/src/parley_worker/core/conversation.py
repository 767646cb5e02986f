"""What the provider says, followed: turns, answers, tools, usage, interruption. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.protocol.history import WORDS_DELTA

from parley_worker.core.changes import Changes, changed
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
from parley_worker.core.fields import int_of as _int
from parley_worker.core.fields import object_of as _object
from parley_worker.core.fields import text_of as _text
from parley_worker.core.fields import without_tool_credentials
from parley_worker.core.interruption import Interruption, Interruptions
from parley_worker.core.lines import BUSY_CODE, EVENT_ID_PREFIX, METADATA_KEY
from parley_worker.core.model import Usage
from parley_worker.core.playout import Heard, PlayoutLedger
from parley_worker.core.reconfigure import EVENT_ID_PREFIX as RECONFIGURE
from parley_worker.core.recorder import Recorder, to_json, without_audio
from parley_worker.core.response_watch import NOT_ACTIVE_CODE, ResponseWatch
from parley_worker.core.spoken import Said, SpokenWords
from parley_worker.core.tool_desk import ToolDesk
from parley_worker.core.tool_routing import ToolProblem

Payload = Mapping[str, Any]
MAX_RESPONSES = 64
MAX_UPDATES = 64
"""Changes of the session that the provider has not confirmed."""
MAX_CODE_CHARACTERS = 100
RESPONSE_SILENCE_SECONDS = 30.0
"""A response of which nothing comes for so long does not count as an answer being made."""
SPEECH_SECONDS = 300.0
"""A turn of the caller that is never said to be over counts for so long."""
ASKED_SECONDS = 45.0
"""A request for a response that the provider never takes up is forgotten after so long."""
GAP_SECONDS = 120.0
"""A gap between two WebSockets of the provider counts for so long."""
FIRST_UPDATE_ID = "parley_session_update"
REPLY_SECONDS = 2.0
"""How long a provider that answers by itself may take to begin, after the caller's speech."""


class Conversation:
    """One conversation at the provider. Methods return effects; every `now` is monotonic seconds."""

    def __init__(
        self,
        recorder: Recorder,
        ledger: PlayoutLedger,
        desk: ToolDesk,
        ga: bool,
        cleared_timeout: float,
        spec: Payload,
    ) -> None:
        self._recorder = recorder
        self._ledger = ledger
        self._ga = ga
        self._cleared_timeout = cleared_timeout
        self._desk = desk
        self._tools = desk.ledger
        self._active: dict[str, None] = {}
        self._asked = False
        self._asked_since = 0.0
        self._asked_at: float | None = None
        self._unheard_since: dict[str, float] = {}
        self._interrupts = True
        self._replies = False
        self._reply_until = 0.0
        self._waiting = Interruptions()
        self._words = SpokenWords()
        self._speaking_since: float | None = None
        self._watch = ResponseWatch()
        self._lost_since: float | None = None
        self.spec = spec
        """The session as it is asked for."""
        self._updates: list[tuple[str, Changes]] = []
        self._update_names = 0
        self.updates = Changes()
        """What the session was asked to be changed to and was changed to, in one, without credentials."""
        self.usage = Usage()
        self.last_activity = 0.0
        self.caller_answers_clear = True

    # The provider's WebSocket is replaced

    def provider_lost(self, now: float) -> None:
        """Nobody can be heard until there is a new one: that is no idleness, and no request is late."""
        if self._lost_since is None:
            self._lost_since = now

    def provider_replaced(self, now: float) -> None:
        """After a gap the new provider hears again what was being said, and tells of it anew."""
        if self._lost_since is None:
            return
        self._lost_since = None
        self.last_activity = self._asked_since = now
        if self._speaking_since is not None:
            self._speaking_since = None
            self._reply_until = now + REPLY_SECONDS

    # What the provider says

    def on_message(self, payload: Payload, now: float, attached: bool) -> list[Effect]:
        """Follow a server event."""
        kind = payload.get("type")
        if isinstance(kind, str) and kind in WORDS_DELTA:
            self._watch.came(now)
            key = (_text(payload, "item_id"), _int(payload, "content_index"))
            self._words.words(key, _text(payload, "delta"), self._ledger.received_ms(key))
            return []
        self._desk.follow(payload, now)
        if isinstance(kind, str) and kind.startswith("response."):
            self._watch.came(now)
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
                refused = _text(error, "event_id")
                if refused and self._updates:
                    self._updates = [update for update in self._updates if update[0] != refused]
                ours = _text(error, "event_id").startswith(EVENT_ID_PREFIX)
                if error.get("code") == BUSY_CODE and not ours:
                    self._tools.want_answer()
                if error.get("code") == NOT_ACTIVE_CODE and self._watch.cancelling:
                    self._active.clear()
                    self._watch.came(now)
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
        self._replies = bool(turn) and turn.get("create_response") is not False
        effects: list[Effect] = [
            *self._recorder.journal(
                "session_configured", now, session_json=to_json(without_tool_credentials(session))
            )
        ]
        update = self._updates.pop(0)[1] if self._updates else Changes()
        if update.session:
            self.updates = self.updates.then(update)
            written, under = to_json(update.session), to_json(update.under)
            effects += self._recorder.journal("session_updated", now, session_json=written, under_json=under)
        return effects

    def update_sent(self, event: Payload) -> None:
        """A change of the session is on its way to the provider; one without an event_id cannot be
        followed."""
        event_id = _text(event, "event_id")
        asked = _object(event, "session") if event_id != FIRST_UPDATE_ID else {}
        session = without_tool_credentials(asked)
        spec = session if event_id.startswith(RECONFIGURE) else self.spec
        self._updates.append((event_id, changed(session, spec)))
        del self._updates[:-MAX_UPDATES]

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
            effects += self._desk.barge_in(now)
        return effects

    def _on_speech_stopped(self, payload: Payload, now: float) -> list[Effect]:
        self._speaking_since = None
        self.last_activity = now
        self._asked_at = now
        self._reply_until = now + REPLY_SECONDS if self._replies else now
        return [
            self._recorder.event(
                "speech_stopped",
                now,
                item_id=_text(payload, "item_id"),
                audio_end_ms=_int(payload, "audio_end_ms"),
            )
        ]

    def _on_response_created(self, payload: Payload, now: float) -> list[Effect]:
        response = _object(payload, "response")
        response_id = _text(response, "id")
        self._active[response_id] = None
        self._asked = False
        in_conversation = response.get("conversation_id", "") is not None
        if in_conversation and METADATA_KEY not in _object(response, "metadata"):
            self._tools.response_created()
            self._reply_until = now
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
        if item.get("type") == "function_call":
            effects += self._desk.called(item, _text(payload, "response_id"), now)
        elif item.get("type") == "mcp_call":
            effects += self._desk.mcp_done(item, now)
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
                key = (item_id, _int(payload, "content_index"))
                text = _text(payload, "transcript")
                return self._said(self._words.finished(key, text, self._ledger.received_ms(key)), now)
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

    def _said(self, said: Said | None, now: float) -> list[Effect]:
        """The agent's words; of a part that was cut they are written again, with those that were heard."""
        if said is None:
            return []
        fields: dict[str, object] = {"item_id": said.item_id, "content_index": said.content_index}
        fields |= {"role": "assistant", "text": said.text, "audio_ms": said.audio_ms}
        if said.truncated:
            fields |= {"heard_text": said.heard_text, "truncated": True}
        return [*self._recorder.journal("transcript", now, **fields)]

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

    @property
    def free(self) -> bool:
        """True when no response is made and none was asked for."""
        return not self._active and not self._asked

    def ask(self, now: float, line: Payload | None = None) -> list[Effect]:
        """Ask for a response: for what the model wants to say, or by this `response.create` for a line."""
        self._asked = True
        self._asked_at = self._asked_since = now
        if line is not None:
            return [SendProvider(line)]
        self._tools.asked()
        return [SendProvider({"type": "response.create"})]

    def ask_if_due(self, now: float) -> list[Effect]:
        """Ask for the response that uses tool results, once no other is in the way."""
        if not self._tools.answer_due() or self._active or self._asked or now < self._floor_free_at():
            return []
        return self.ask(now)

    def _floor_free_at(self) -> float:
        """When the agent may speak of its own accord: not while the caller speaks, and after that not before
        the provider had time to answer by itself."""
        if self._speaking_since is not None:
            return self._speaking_since + SPEECH_SECONDS
        return self._reply_until

    def refusal(self, event: Payload) -> str:
        """Why a client event, checked for its type before, cannot be passed on; empty when it can."""
        item = _object(event, "item")
        if event.get("type") != "conversation.item.create" or item.get("type") != "function_call_output":
            return ""
        return self._desk.refusal(_text(item, "call_id"))

    def pass_on(self, event: Payload, now: float) -> list[Effect]:
        """A client event of the caller, the operator or a scenario, checked for its type before."""
        if self.refusal(event):
            return []
        item = _object(event, "item")
        effects: list[Effect] = []
        if event["type"] == "session.update":
            self._update_names += 1
            event = {"event_id": f"parley_update_{self._update_names}", **event}
            self.update_sent(event)
        elif event["type"] == "response.create":
            self._asked_at = now
            response = _object(event, "response")
            self._desk.routes.offer_once(response)
            if response.get("conversation") != "none":
                self._tools.asked()
        elif event["type"] == "conversation.item.create" and item.get("type") == "function_call_output":
            effects += self._desk.by_item(_text(item, "call_id"), str(item.get("output", "")), now)
        self.last_activity = now
        return [*effects, SendProvider(event)]

    # Results of function calls

    def tool_output(self, call_id: str, output: str, no_response: bool, now: float) -> list[Effect] | str:
        """Give the caller's result to the model; a sentence when it cannot be taken."""
        taken = self._desk.from_caller(call_id, output, no_response, now)
        if isinstance(taken, str):
            return taken
        self.last_activity = now
        return taken + self.ask_if_due(now)

    def tool_returned(self, call_id: str, output: str, now: float) -> list[Effect]:
        """Give the result of a service to the model."""
        return self._desk.returned(call_id, output, now) + self.ask_if_due(now)

    def tool_failed(self, call_id: str, problem: ToolProblem, now: float) -> list[Effect]:
        """Tell the model that a service has no result."""
        return self._desk.failed(call_id, problem, now) + self.ask_if_due(now)

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
        unheard = self._ledger.unheard(now, above=self._waiting.epoch)
        if not unheard and not self._active:
            return []
        effects: list[Effect] = [ClearMedia(tuple(self._active))]
        if reason in (ClearReason.REQUESTED, ClearReason.OVERFLOW) and self._active:
            effects.append(SendProvider({"type": "response.cancel"}))
        self._ledger.stop(now)
        if unheard:
            wait = self._cleared_timeout if attached and self.caller_answers_clear else 0.0
            cleared = Interruption(self._ledger.epoch, reason, now, now + wait)
            for ended in self._waiting.begin(cleared):
                effects += self._settle(ended, None, now)
            if attached:
                effects.append(SendLeg(Clear(self._ledger.epoch, reason)))
                if reason is ClearReason.BARGE_IN:
                    effects.append(Observe(Measure.BARGE_IN, now))
            else:
                effects += self.finish_interruption(now)
        return effects

    def cleared(self, word: Cleared, now: float) -> list[Effect]:
        """The caller's answer to a Clear; an answer to another epoch is too late and ignored."""
        effects: list[Effect] = []
        for ended in self._waiting.answered(word.epoch):
            heard = Heard(word.item_id, word.content_index, word.played_ms)
            effects += self._settle(ended, heard if ended.epoch == word.epoch else None, now)
        return effects

    def finish_interruption(self, now: float) -> list[Effect]:
        """Wait for no word of the caller any longer."""
        return [effect for ended in self._waiting.all() for effect in self._settle(ended, None, now)]

    def ended(self, now: float) -> list[Effect]:
        """The call is over: the journal says how far the answer was heard that was being said."""
        settled = self.finish_interruption(now)
        effects: list[Effect] = [e for e in settled if not isinstance(e, SendProvider)]
        for cut in self._ledger.cut(self._ledger.epoch, None, now):
            key = (cut.item_id, cut.content_index)
            effects += self._said(self._words.truncated(key, cut.audio_end_ms, cut.received_ms), now)
        return effects

    def _settle(self, ended: Interruption, heard: Heard | None, now: float) -> list[Effect]:
        """Truncate the history at what was heard; the playout clock counts up to the moment of the Clear."""
        effects: list[Effect] = []
        for i, cut in enumerate(self._ledger.cut(ended.epoch, heard, ended.at)):
            truncate = {
                "type": "conversation.item.truncate",
                "item_id": cut.item_id,
                "content_index": cut.content_index,
                "audio_end_ms": cut.audio_end_ms,
            }
            effects += [CutMedia(cut.item_id, cut.content_index, cut.audio_end_ms), SendProvider(truncate)]
            if i == 0 and ended.reason is ClearReason.BARGE_IN:
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
            key = (cut.item_id, cut.content_index)
            effects += self._said(self._words.truncated(key, cut.audio_end_ms, cut.received_ms), now)
        return effects

    def next_deadline(self) -> float | None:
        """When `on_deadline` has something to do."""
        dues = [self._tools.next_deadline(), self._cancel_at()]
        if self._asked and self._lost_since is None:
            dues.append(self._asked_since + ASKED_SECONDS)
        if self._tools.answer_due() and not self._active and not self._asked:
            dues.append(self._floor_free_at())
        dues.append(self._waiting.deadline())
        return min((due for due in dues if due is not None), default=None)

    def on_deadline(self, now: float) -> list[Effect]:
        """The caller did not answer a Clear in time, tools take too long, or an answer may be asked for."""
        effects = self._desk.on_deadline(now)
        if self._asked and self._lost_since is None and now >= self._asked_since + ASKED_SECONDS:
            self._asked = False
        if (due := self._cancel_at()) is not None and now >= due:
            self._watch.cancelled(now)
            effects.append(SendProvider({"type": "response.cancel"}))
        for ended in self._waiting.overdue(now):
            effects += self._settle(ended, None, now)
        return effects + self.ask_if_due(now)

    def _cancel_at(self) -> float | None:
        """When the response that is being made has been silent for too long."""
        if not self._active:
            return None
        return self._watch.cancel_at(self._ledger.received_at, calling=self._desk.provider_calls)

    def given_up_at(self) -> float | None:
        """When a provider is given up whose response neither goes on nor ends."""
        return self._watch.end_at(self._ledger.received_at) if self._active else None

    def clearing(self, epoch: int) -> bool:
        """True while the caller's word on a Clear of this epoch is awaited."""
        return epoch <= self._waiting.epoch

    def settled(self, now: float) -> bool:
        """Nothing is under way between caller, agent and functions, and everything was heard."""
        busy = self._active or self._asked or self._speaking_since is not None or self._lost_since is not None
        owed = self._tools.open_calls() or self._tools.answer_due() or self._desk.provider_calls
        waits = self._waiting.deadline() is not None or now < self._reply_until
        return not (busy or owed or waits or self._ledger.unheard(now))

    def quiet_since(self) -> float:
        """Since when nobody speaks and no answer is made; in the future while one of them goes on.

        A response that never ends and speech that never stops count for a bounded time.
        """
        since = max(self.last_activity, self._ledger.playing_until())
        if self._lost_since is not None:
            since = max(since, self._lost_since + GAP_SECONDS)
        if self._active:
            heard_of = max(self._watch.came_at, self._ledger.received_at)
            since = max(since, heard_of + RESPONSE_SILENCE_SECONDS)
        if self._speaking_since is not None:
            since = max(since, self._speaking_since + SPEECH_SECONDS)
        return max([since, *(call.deadline for call in self._tools.open_calls())])
