"""The session core: events in, effects out, one timer. No I/O, no clock, no randomness.

The runner calls `handle(event, now)` and does the effects in order; it calls `handle(DeadlineReached(), now)`
when `next_deadline()` has come. `now` is monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parley_worker.core import events as ev
from parley_worker.core.acts import Acts
from parley_worker.core.attach_rules import refusal
from parley_worker.core.audio import PROVIDER_FORMATS, AudioFormat
from parley_worker.core.behaviour import HANG_UP
from parley_worker.core.comeback import MOVED, Comeback, first_epoch, late_events, movable
from parley_worker.core.conversation import FIRST_UPDATE_ID, Conversation
from parley_worker.core.deadlines import Deadlines, Due, last_moment
from parley_worker.core.deadlines import SessionBounds as SessionBounds
from parley_worker.core.effects import (
    AttachMedia,
    ClearReason,
    ConversationEvent,
    DetachMedia,
    Draining,
    DropLeg,
    Effect,
    Ended,
    Measure,
    Observe,
    Publish,
    SendLeg,
    SendProvider,
    StateChanged,
)
from parley_worker.core.endings import end_records, redacted, started_of
from parley_worker.core.event_filter import EventFilter
from parley_worker.core.marks import Marks
from parley_worker.core.model import (
    DEFAULT_PROVIDER_AUDIO,
    TRANSITIONS,
    EndReason,
    SessionConfig,
    SessionReport,
    SessionState,
    Usage,
    Wanted,
)
from parley_worker.core.playout import AudioCounters, PlayoutLedger
from parley_worker.core.provider_health import ProviderHealth
from parley_worker.core.reconfigure import Reconfiguring
from parley_worker.core.recorder import Recorder, to_json
from parley_worker.core.replay import Replay
from parley_worker.core.restored import Restored
from parley_worker.core.saved import HandOver, SavedState
from parley_worker.core.tool_desk import ToolDesk
from parley_worker.core.tool_routing import ToolRoutes
from parley_worker.core.unit_facts import unit_facts

S = SessionState
REFUSED_GRACE_SECONDS = 1.0
QUIET_SECONDS = 0.3


class Session:
    """One session. `ledger` and `counters` are shared with the media path, which writes them."""

    def __init__(
        self,
        config: SessionConfig,
        bounds: SessionBounds,
        now: float,
        unix_offset: float,
        shard: int = 0,
    ) -> None:
        self.config = config
        self.ledger = PlayoutLedger()
        self.counters = AudioCounters()
        self.state = S.CONNECTING
        self._shard = shard
        self._recorder = Recorder(config.key, unix_offset, config.privacy)
        self._health = ProviderHealth(self._recorder)
        self._replay = Replay(config.key.attempt, bounds.replay_events, bounds.replay_bytes)
        own = (HANG_UP,) if config.behaviour.hang_up_tool else ()
        self._desk = ToolDesk(self._recorder, ToolRoutes(config.tools, config.session, own), self._tell)
        ga, timeout, spec = config.provider.api_version == "ga", bounds.cleared_timeout, config.session
        self._talk = Conversation(self._recorder, self.ledger, self._desk, ga, timeout, spec)
        self._acts = Acts(config, self._talk, self._recorder, self.ledger)
        self._changes = Reconfiguring(config.origin.generation)
        self._configured: Mapping[str, Any] | None = None
        self._configured_at = now
        self._report = SessionReport(config.key, S.CONNECTING, shard=shard)
        self._made_at = now
        self._connect_since: float | None = now
        self._since = now
        self._expires: float | None = None
        self._refused: str | None = None
        self._refused_at = 0.0
        self._ticket_used = False
        self._marks = Marks()
        self._drain_unix: float | None = None
        self._comeback = Comeback(config.restore, self._recorder)
        self._resume_sha256: tuple[bytes, ...] = ()
        self._follows_moves = True
        self._hears = EventFilter()
        self._save = self._sent_on = False
        self._held: list[Publish] | None = [] if config.restore and config.restore.hand_over else None
        """Records of a session that another worker still writes: until the caller is here."""
        self.ledger.epoch = first_epoch(config.key)
        self._limits = Deadlines(config.limits, bounds)

    # What others read

    @property
    def provider_format(self) -> AudioFormat:
        """The format towards the provider."""
        return PROVIDER_FORMATS[self.config.provider_audio or DEFAULT_PROVIDER_AUDIO]

    @property
    def report(self) -> SessionReport:
        """The session as the worker tells it."""
        last = self._recorder.journal_last
        return replace(
            self._report,
            state=self.state,
            usage=self._usage(),
            journal_first=min(last, 1),
            journal_last=last,
            origin=replace(self.config.origin, generation=self._changes.judged),
            update_refused=self._changes.refused,
            recovery_degraded=self._comeback.degraded,
            migratable=self._may_move,
            untold=self.state is S.ENDED and self._held is not None,
        )

    @property
    def replay_bytes(self) -> int:
        """Bytes kept for a caller that comes back."""
        return self._replay.bytes

    def _usage(self) -> Usage:
        return replace(
            self._talk.usage,
            input_audio_seconds=self.counters.input_ms / 1000,
            output_audio_seconds=self.counters.output_ms / 1000,
        )

    def let_go(self) -> None:
        """After the end: refer to nothing that refers back. The report stays."""
        self._desk.let_go()

    def start(self, now: float) -> list[Effect]:
        """The first effects of every session."""
        admitted = self._recorder.event("admitted", now, shard=self._shard)
        return self._withheld([admitted, StateChanged(self.state)])

    def check_attach(self, request: ev.AttachRequest, now: float) -> ev.LegRefusal | None:
        """Why this caller may not attach now, or None."""
        unix = self._recorder.unix(now)
        return refusal(request, self.config, self.state, ticket_used=self._ticket_used, unix=unix)

    # Events

    def handle(self, event: ev.Event, now: float) -> list[Effect]:
        """Take an event; the effects are to be done in order.

        After the end nothing happens, but that a recording is finished (it may still be on its way then).
        """
        effects = self._handle(event, now)
        if self.state is not S.ENDED:
            effects += self._acts.follow(event, effects, self.state, self._last_moment, now)
            if self._acts.ending is not None:
                effects += self._end(*self._acts.ending, now)
        if self._save or (isinstance(event, ev.Doubted) and self.state is not S.ENDED):
            self._save = False
            state = to_json(self._saved(now).write())
            effects += self._recorder.journal("checkpoint", now, state_json=state)
        return effects if self._held is None else self._withheld(effects)

    def _withheld(self, effects: list[Effect]) -> list[Effect]:
        """The effects without records, which wait."""
        if self._held is None:
            return effects
        self._held += [effect for effect in effects if isinstance(effect, Publish)]
        return [effect for effect in effects if not isinstance(effect, Publish)]

    def _handle(self, event: ev.Event, now: float) -> list[Effect]:
        if isinstance(event, ev.UnitEvent):
            return unit_facts(event, self._recorder, ended=self.state is S.ENDED, now=now)
        if self.state is S.ENDED:
            return []
        match event:
            case ev.ProviderMessage(payload):
                return self._on_provider(payload, now)
            case ev.ConnectHeld() | ev.ConnectBegan():
                self._connect_since = now if isinstance(event, ev.ConnectBegan) else None
                return []
            case ev.ProviderOpened():
                return self._on_opened(event)
            case ev.ProviderLost():
                return self._on_provider_lost(event, now)
            case ev.ProviderReconnecting():
                return self._on_reconnecting(event, now)
            case ev.ProviderReconnected():
                self._report = replace(self._report, web_socket_id=event.web_socket_id)
                self._talk.provider_replaced(now)
                return [*self._health.on_reconnected(event, now), StateChanged(self.state)]
            case ev.RestoreRefused():
                return self._health.on_refused(event, now)
            case ev.ProviderTraced(direction, frame_json):
                return [*self._recorder.journal("trace", now, direction=direction, frame_json=frame_json)]
            case ev.LegAttached():
                return self._on_attached(event, now)
            case ev.LegLost(cause):
                return self._on_leg_lost(cause, now)
            case ev.LegSaid(command):
                return self._on_said(command, now) if self.state is S.ACTIVE else []
            case ev.FirstFrame(response_id):
                return self._talk.first_frame(response_id, now)
            case ev.PartSent():
                return self._on_part_sent(event)
            case ev.OutputOverflow():
                return self._talk.interrupt(ClearReason.OVERFLOW, now, self.state is S.ACTIVE)
            case ev.ToolReturned(call_id, output):
                return self._talk.tool_returned(call_id, output, now)
            case ev.ToolFailed(call_id, problem):
                return self._talk.tool_failed(call_id, problem, now)
            case ev.TerminateRequested(reason, message):
                return self._end(reason, message, now)
            case ev.CommandReceived(client_event, clear):
                return self._on_command(client_event, clear, now)
            case ev.ConfigChanged(wanted):
                return self._on_config_changed(wanted, now)
            case ev.UpdateUnsendable(event_id, message):
                return self._run_with(self._changes.failed(event_id, f"session: {message}", self.config), now)
            case ev.ConversationRestored(restored):
                return self._on_restored(restored, now)
            case ev.Departed(cause):
                return self._depart(cause, now)
            case ev.MovedAway():
                self._sent_on = self.state is S.ACTIVE
                return [SendLeg(event)] if self._sent_on else []
            case ev.DrainAnnounced(deadline_unix):
                return self._on_drain(deadline_unix, now)
            case ev.DeadlineReached():
                return self._on_deadline(now)
            case ev.ScenarioReady():
                self._acts.scenario_ready = True
                return self._on_ready(now)
            case ev.ScenarioSaid() | ev.ScenarioFailed() | ev.Doubted():
                return []

    def _become(self, state: SessionState, now: float) -> StateChanged:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        self.state = state
        self._since = now
        return StateChanged(state)

    # Provider

    def _on_opened(self, event: ev.ProviderOpened) -> list[Effect]:
        self._report = replace(self._report, client_id=event.client_id, web_socket_id=event.web_socket_id)
        session = dict(self._acts.with_tools(self._comeback.session(self.config.session)))
        update = {"type": "session.update", "event_id": FIRST_UPDATE_ID, "session": session}
        self._talk.update_sent(update)
        return [SendProvider(update), StateChanged(self.state)]

    def _on_provider(self, payload: Mapping[str, Any], now: float) -> list[Effect]:
        kind = payload.get("type")
        secret = self.config.provider.api_key.reveal() if kind == "error" else ""
        message = self._replay.add(payload, secret)
        self._recorder.event_sequence = message.sequence
        effects = [*self._heard(message), *self._talk.on_message(payload, now, self.state is S.ACTIVE)]
        self._save = self._save or kind == "response.done"
        if kind == "rate_limits.updated":
            effects += self._health.on_rate_limits(payload, now)
        elif quota := self._health.quota_used_up(payload):
            return [*effects, *self._end(EndReason.PROVIDER_QUOTA, quota, now)]
        if kind in ("session.updated", "error"):
            effects += self._run_with(self._changes.follow(payload, self.config), now)
        if self.state is S.CONNECTING:
            if kind in ("session.updated", "transcription_session.updated"):
                if self._configured is None:
                    self._configured, self._configured_at = payload, now
                effects += self._on_ready(now)
            elif kind == "error" and self._refused is None and self._configured is None:
                error = payload.get("error")
                words = error.get("message") if isinstance(error, Mapping) else None
                self._refused = f"the provider refused the session: {words or 'no reason given'}"
                self._refused_at = now
        return effects

    def _on_ready(self, now: float) -> list[Effect]:
        """Ready means: the provider is configured, and the scenario listens."""
        if self.state is not S.CONNECTING or self._configured is None or not self._acts.scenario_ready:
            return []
        took = self._configured_at - (self._connect_since or self._made_at)
        session = self._configured.get("session")
        model = session.get("model") if isinstance(session, Mapping) else None
        self._expires = now + self.config.limits.max_duration
        if self._comeback.state.expires_unix is not None:
            self._expires = min(self._expires, self._comeback.state.expires_unix - self._recorder.unix(0.0))
        self._report = replace(self._report, ready_at=self._recorder.unix(now))
        self._refused = None
        return [
            self._become(S.READY, now),
            self._recorder.event(
                "provider_connected",
                now,
                web_socket_id=self._report.web_socket_id,
                connect_ms=round(took * 1000),
                model=str(model or self.config.provider.model),
            ),
            Observe(Measure.PROVIDER_CONNECTED, took),
            *self._desk.give_up_lost(now),
        ]

    def _on_reconnecting(self, event: ev.ProviderReconnecting, now: float) -> list[Effect]:
        """The call goes on; an answer that was cut in the middle ends at what was heard of it."""
        effects = self._health.on_reconnecting(event, now)
        self._talk.provider_lost(now)
        if event.cut:
            effects += self._talk.interrupt(ClearReason.RECONNECT, now, self.state is S.ACTIVE)
        return effects

    def quiet(self, now: float) -> bool:
        """Nobody speaks, nothing plays and nothing happened for a moment: the provider may be changed."""
        return self._talk.quiet_since() + QUIET_SECONDS <= now

    def _on_provider_lost(self, event: ev.ProviderLost, now: float) -> list[Effect]:
        gone = self._recorder.event(
            "provider_disconnected",
            now,
            web_socket_id=self._report.web_socket_id,
            close_code=event.close_code,
            reason=str(event.reason),
        )
        observe = Observe(Measure.PROVIDER_ERROR, 1, str(event.reason))
        return [gone, observe, *self._health.on_lost(), *self._end(event.reason, event.message, now)]

    # Caller

    def _on_attached(self, event: ev.LegAttached, now: float) -> list[Effect]:
        request = event.request
        resumed = request.credential is ev.CredentialKind.RESUME
        first = self.state is S.READY
        self._ticket_used = True
        effects: list[Effect] = []
        if self.state is S.ACTIVE:
            refusal = ev.LegRefusal(ev.Status.ABORTED, "replaced", "a newer attach took the session over")
            effects += [*self._detach("replaced", now), DropLeg(refusal, "replaced")]
        else:
            effects.append(self._become(S.ACTIVE, now))
        if first:
            self._report = replace(self._report, started_at=self._recorder.unix(now))
        self.ledger.attached(request.playout_buffer_ms, request.mark_interval_ms > 0)
        self._talk.caller_answers_clear = request.answers_clear
        self._marks.forget()
        self._talk.last_activity = now
        key = self.config.key
        started = started_of(key, event, self.provider_format)
        effects += [
            SendLeg(started),
            self._recorder.event(
                "leg_attached",
                now,
                input_format=str(request.input_carried),
                output_format=str(request.output_carried),
                resumed=resumed,
            ),
        ]
        attempt, sequence = self._comeback.since(request, key.attempt)
        back = self._comeback.attached(request, self._desk, self._replay) if first else []
        self._hears = EventFilter(request.events)
        effects += self._heard(*self._replay.since(sequence, attempt))
        if self._drain_unix is not None:
            effects.append(SendLeg(Draining(self._drain_unix)))
        effects += [AttachMedia(request), *back, *self._talk.ask_if_due(now)]
        self._resume_sha256, self._follows_moves = event.resume_sha256, request.follows_moves
        self._save = True
        held, self._held = self._held or [], None
        return [*held, *effects]

    def _detach(self, cause: str, now: float) -> list[Effect]:
        effects = self._talk.finish_interruption(now)
        return [*effects, DetachMedia(), self._recorder.event("leg_detached", now, cause=cause)]

    def _on_leg_lost(self, cause: str, now: float) -> list[Effect]:
        if self.state is not S.ACTIVE:
            return []
        effects = self._detach(cause, now)
        return [*effects, DropLeg(None, cause), self._become(S.DETACHED, now)]

    def _on_said(self, command: ev.LegCommand, now: float) -> list[Effect]:
        match command:
            case ev.Progress():
                key = (command.item_id, command.content_index)
                self.ledger.acknowledge(key, command.played_ms, "progress", now)
                return []
            case ev.MarkPlayed():
                return self._on_mark_played(command, now)
            case ev.Cleared():
                return self._talk.cleared(command, now)
            case ev.ClientEvent(event):
                return self._on_client_event(event, now)
            case ev.ClientEventInvalid(message):
                return self._refuse_event("", message)
            case ev.ToolOutput():
                result = self._talk.tool_output(command.call_id, command.output, command.no_response, now)
                return self._refuse_event("tool_output", result) if isinstance(result, str) else result
            case ev.ClearRequest():
                return self._talk.interrupt(ClearReason.REQUESTED, now, attached=True)
            case ev.Dtmf():
                self._talk.last_activity = now
                pressed = self._recorder.event("dtmf_received", now, duration_ms=command.duration_ms)
                return [pressed, *self._recorder.journal("dtmf", now, digit=command.digit)]
            case ev.Hangup():
                return self._end(EndReason.CALLER_HANGUP, "the caller hung up", now, command.note)

    def _on_mark_played(self, mark: ev.MarkPlayed, now: float) -> list[Effect]:
        """A mark that comes back after a Clear proves nothing: some players return those that they threw
        away."""
        known = self._marks.back(mark)
        if known is not None and not self._talk.clearing(mark.epoch):
            self.ledger.acknowledge((known.item_id, known.content_index), known.position_ms, "mark", now)
        return []

    def _on_part_sent(self, part: ev.PartSent) -> list[Effect]:
        if self.state is not S.ACTIVE:
            return []
        self.ledger.marked((part.item_id, part.content_index), part.position_ms)
        return [SendLeg(self._marks.after(part))]

    def _on_client_event(self, event: Mapping[str, Any], now: float) -> list[Effect]:
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in ev.CLIENT_EVENT_TYPES:
            allowed = ", ".join(sorted(ev.CLIENT_EVENT_TYPES))
            return self._refuse_event(str(kind), f"type {kind!r} is not allowed: use one of {allowed}")
        if why := self._talk.refusal(event):
            return self._refuse_event(kind, why)
        return self._talk.pass_on(self._acts.completed(event), now)

    def _refuse_event(self, kind: str, message: str) -> list[Effect]:
        """Tell the caller's program; a mistake in a message costs no call."""
        refused = {"type": "parley.client_event_refused", "event_type": kind[:100], "message": message}
        return self._tell(refused)

    def _tell(self, payload: Mapping[str, Any]) -> list[Effect]:
        """A conversation event of our own for the caller's program."""
        event = self._replay.add(payload)
        self._recorder.event_sequence = event.sequence
        return self._heard(event)

    def _heard(self, *events: ConversationEvent) -> list[Effect]:
        """Those that the attached caller wants are told."""
        return [SendLeg(each) for each in events if self.state is S.ACTIVE and self._hears.wants(each.type)]

    # Coming from and going to other workers

    def _on_restored(self, restored: Restored, now: float) -> list[Effect]:
        self._talk.usage = replace(restored.state.usage, input_audio_seconds=0.0, output_audio_seconds=0.0)
        self._resume_sha256 = restored.state.resume_sha256
        self._ticket_used = restored.visited
        self._talk.updates = restored.changes
        if restored.state.greeted:
            self._acts.resume(bool(restored.items))
        return self._comeback.begin(restored, self._desk, self._replay, self.counters, now)

    @property
    def _may_move(self) -> bool:
        return movable(self.config) and self._follows_moves

    def settled(self, now: float) -> bool:
        """Whether this is a moment at which the session can be moved unheard."""
        calm = self._talk.settled(now) and self._acts.settled and self.quiet(now)
        return calm and self._may_move and self.state in (S.READY, S.ACTIVE, S.DETACHED)

    def hand_over(self, items: tuple[Mapping[str, Any], ...] | None, now: float) -> HandOver:
        """The session for another worker; without `items` they are to be read from the journal."""
        late, changes, whole = late_events(self._replay), self._talk.updates, items is not None
        return HandOver(
            self.config.key.attempt, self._saved(now), items or (), changes, late, self._replay.last, whole
        )

    def _saved(self, now: float) -> SavedState:
        expires = None if self._expires is None else self._recorder.unix(self._expires)
        return SavedState(self._usage(), expires, self._acts.greeted, self._resume_sha256)

    def _depart(self, cause: str, now: float) -> list[Effect]:
        """End without a word: it is no end of the session."""
        attached = self.state is S.ACTIVE
        gone = self._recorder.event("session_moved", now, cause=cause)
        self._report = replace(self._report, departed=True, ended_at=self._recorder.unix(now))
        effects: list[Effect] = [*self._desk.abandon(), gone, self._become(S.ENDED, now)]
        if attached:
            return [DetachMedia(), *effects, DropLeg(None if self._sent_on else MOVED, "replaced")]
        return effects

    # Others

    def _on_command(self, client_event: Mapping[str, Any] | None, clear: bool, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if clear:
            effects += self._talk.interrupt(ClearReason.REQUESTED, now, self.state is S.ACTIVE)
        if client_event is not None and self.state is not S.CONNECTING:
            effects += self._on_client_event(client_event, now)
        return effects

    def _on_config_changed(self, wanted: Wanted, now: float) -> list[Effect]:
        if self.state is S.CONNECTING:
            # It is asked for again once there is a session to change.
            return []
        found = self._changes.ask(wanted, self.config, now)
        if isinstance(found, Mapping):
            return self._talk.pass_on(self._acts.completed(found), now)
        return self._run_with(found or self.config, now)

    def _run_with(self, config: SessionConfig | None, now: float) -> list[Effect]:
        """Go on with this configuration, and report it; None: nothing was decided."""
        if config is None:
            return []
        before, self.config, self._talk.spec = self.config, config, config.session
        self._desk.routes.reroute(config.tools)
        self._limits = self._limits.changed(config.limits)
        if self._expires is not None:
            self._expires += config.limits.max_duration - before.limits.max_duration
        return [StateChanged(self.state)]

    @property
    def _last_moment(self) -> float | None:
        return last_moment(self._expires, self._drain_unix, self._recorder.unix(0.0))

    def _on_drain(self, deadline_unix: float, now: float) -> list[Effect]:
        self._drain_unix = deadline_unix
        event = self._recorder.event("drain_announced", now, deadline_time=deadline_unix)
        notice = [SendLeg(Draining(deadline_unix))] if self.state is S.ACTIVE else []
        return [event, *notice]

    # Time

    def next_deadline(self) -> float | None:
        """When `handle(DeadlineReached())` is due; None for never."""
        return min((due for due, _, _ in self._deadlines()), default=None)

    def _deadlines(self) -> list[Due]:
        dues: list[Due] = []
        limits = self._limits
        if self.state is S.ENDED:
            return []
        if self.state is S.CONNECTING:
            dues.append(limits.connecting(self._made_at, self._connect_since))
            if self._refused is not None:
                grace = self._refused_at + REFUSED_GRACE_SECONDS
                dues.append((grace, EndReason.INVALID_SPEC, self._refused))
        elif self.state is S.ACTIVE:
            dues.append(limits.idle(self._talk.quiet_since()))
        elif alone := limits.alone(self.state, self._since, self._comeback.returning):
            dues.append(alone)
        if self._expires is not None:
            dues.append(limits.at_last(self._expires + self._acts.extra_seconds()))
        if (given_up := self._talk.given_up_at()) is not None:
            text = "the provider neither finished nor cancelled a response of which nothing came any more"
            dues.append((given_up, EndReason.PROVIDER_UNAVAILABLE, text))
        talk = self._talk.next_deadline()
        acts = self._acts.next_deadline(self.state, self._last_moment)
        changes = self._changes.next_deadline()
        dues += [(due, None, "") for due in (talk, acts, changes) if due is not None]
        return dues

    def _on_deadline(self, now: float) -> list[Effect]:
        due = sorted((d for d in self._deadlines() if d[0] <= now and d[1] is not None), key=lambda d: d[0])
        if due:
            _, reason, message = due[0]
            assert reason is not None
            return self._end(reason, message, now)
        self._changes.on_deadline(now)
        return self._talk.on_deadline(now)

    def _end(self, reason: EndReason, message: str, now: float, note: str = "") -> list[Effect]:
        if self._sent_on:
            return self._depart("moved", now)
        message = redacted(message, self.config.provider.api_key)
        effects: list[Effect] = []
        attached = self.state is S.ACTIVE
        if attached:
            effects += [DetachMedia(), self._recorder.event("leg_detached", now, cause="ended")]
        usage = self._usage()
        effects += self._talk.ended(now)
        effects += self._desk.end(now)
        effects.append(self._become(S.ENDED, now))
        self._report = replace(
            self._report, end_reason=reason, end_message=message, ended_at=self._recorder.unix(now)
        )
        effects += end_records(self._recorder, self._report, usage, note, self.config.privacy, now)
        if attached:
            effects += [SendLeg(Ended(reason, message)), DropLeg(None, "ended")]
        return effects
