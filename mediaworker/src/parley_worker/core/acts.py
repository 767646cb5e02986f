"""What an agent does of its own accord: declared behaviour, lines, and what its scenario asks for. Pure.

The session hands over every event after it has handled it, and does the effects that come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parley_worker.core import events as ev
from parley_worker.core.agent import Line
from parley_worker.core.behaviour import (
    GOODBYE_EXTRA_SECONDS,
    GOODBYE_RULE,
    AnswerCall,
    Ask,
    DeclaredBehaviour,
    EndCall,
    Quieten,
    Say,
    Scene,
    Wish,
)
from parley_worker.core.conversation import Conversation
from parley_worker.core.effects import (
    ClearMedia,
    ClearReason,
    Effect,
    SendLeg,
    TellScenario,
    Transfer,
    UnitCommand,
)
from parley_worker.core.lines import CHECK_SECONDS, LineEnd, Lines
from parley_worker.core.model import (
    DEFAULT_PROVIDER_AUDIO,
    REALTIME_FORMATS,
    EndReason,
    SessionConfig,
    SessionState,
)
from parley_worker.core.playout import PlayoutLedger
from parley_worker.core.recorder import Recorder
from parley_worker.core.scenario import (
    LOG_LEVELS,
    MAX_LOG_CHARACTERS,
    MAX_LOGS,
    MAX_NOTE_CHARACTERS,
    MAX_TARGET_CHARACTERS,
    ClearAudio,
    Complete,
    Cue,
    DropLines,
    HangUp,
    Log,
    OrderUnit,
    SayLine,
    ScenarioCommand,
    SendEvent,
    TransferCall,
)
from parley_worker.core.units import UnitEventKind

SCENARIO_RULE = "scenario"
MAX_HELD = 64
MEDIA_SILENCE_SECONDS = 1.0
MEDIA_STARTED = ("OpenAI.Beta.Events.WebSocketMediaStarted", "OpenAI.Events.WebSocketMediaStarted")
MEDIA_ENDED = ("OpenAI.Beta.Events.WebSocketMediaEnded", "OpenAI.Events.WebSocketMediaEnded")
"""By shape: beta, GA."""
TRANSFER_SECONDS = 30.0
"""A gateway that was asked to move the call has hung up by then; else the session ends."""


class Acts:
    """The acts of one session. Times are monotonic seconds."""

    def __init__(
        self, config: SessionConfig, talk: Conversation, recorder: Recorder, ledger: PlayoutLedger
    ) -> None:
        self._talk, self._recorder, self._ledger = talk, recorder, ledger
        self._behaviour = DeclaredBehaviour(config.behaviour, config.greet)
        self._lines = Lines(ledger)
        self._scenario = config.scenario is not None
        self._privacy = config.privacy
        self._entry = _entry(config)
        self._opened = False
        self._held: list[Mapping[str, Any]] = []
        self._names = 0
        self._logs = 0
        self._attached_before = False
        self._movable = True
        self._transfer: tuple[str, float] | None = None
        self._ga = config.provider.api_version == "ga"
        self._encoding = REALTIME_FORMATS[config.provider_audio or DEFAULT_PROVIDER_AUDIO]
        self._media_since: float | None = None
        self._now = 0.0
        self.scenario_ready = not self._scenario
        self.ending: tuple[EndReason, str] | None = None
        """Why the session is to end now, once that is decided."""

    def with_tools(self, session: Mapping[str, Any]) -> Mapping[str, Any]:
        """A session object for the provider, with the tools that are ours."""
        return self._behaviour.with_tools(session)

    def completed(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """A client event; an update of the tools keeps ours."""
        session = event.get("session")
        if event.get("type") == "session.update" and isinstance(session, Mapping) and "tools" in session:
            return {**event, "session": self.with_tools(session)}
        return event

    @property
    def greeted(self) -> bool:
        """A caller was attached, in this attempt or in an earlier one."""
        return self._behaviour.greeted

    def resume(self, spoken: bool) -> None:
        """Go on after an earlier attempt to which a caller was attached; `spoken`: something was said in
        it."""
        self._attached_before = True
        self._behaviour.greeted = spoken

    @property
    def settled(self) -> bool:
        """Nothing is being said or ended of our own accord."""
        return (
            self._lines.idle
            and self._transfer is None
            and self.ending is None
            and not self._behaviour.closing
            and not self._held
        )

    def extra_seconds(self) -> float:
        """How far the session may pass its maximum duration: a goodbye is heard to its end."""
        return GOODBYE_EXTRA_SECONDS if self._lines.begun(GOODBYE_RULE) else 0.0

    # Following

    def follow(
        self, event: ev.Event, done: Sequence[Effect], state: SessionState, expires: float | None, now: float
    ) -> list[Effect]:
        """What to do after `event`, for which the session did `done`."""
        attached, self._now = state is SessionState.ACTIVE, now
        if event.__class__ is ev.ProviderMessage and self._nothing_to_do:
            return []
        effects = self._on_event(event, state, now)
        if any(isinstance(effect, ClearMedia) for effect in (*done, *effects)):
            self._lines.cut()
        self._lines.check(now)
        effects += self._end_lines(attached, now) + self._media_ended(now)
        if state is not SessionState.CONNECTING and self.ending is None:
            wishes = self._behaviour.on_time(self._scene(attached, expires, now), now)
            effects += self._do(wishes, attached, now)
            effects += self._ask_for_line(now)
        if self._transfer is not None and now >= self._transfer[1] and self.ending is None:
            self.ending = (EndReason.AGENT_HANGUP, f"the call was transferred to {self._transfer[0]}")
        return effects

    @property
    def _nothing_to_do(self) -> bool:
        """True while what the provider says concerns nobody here: no program, rule, line or transfer."""
        return not self._scenario and self._transfer is None and self._lines.idle and self._behaviour.inert

    def _on_event(self, event: ev.Event, state: SessionState, now: float) -> list[Effect]:
        attached = state is SessionState.ACTIVE
        match event:
            case ev.ProviderMessage(payload):
                self._lines.on_message(payload, now)
                response = payload.get("response")
                ours = isinstance(response, Mapping) and self._lines.owns(str(response.get("id", "")))
                return self._do(self._behaviour.on_message(payload, ours, now), attached, now)
            case ev.FirstFrame():
                return self._media_began(now)
            case ev.LegAttached(request):
                self._movable = request.moves_calls
                first, self._attached_before = not self._attached_before, True
                effects = self._cue("caller", "Connected" if first else "Reconnected")
                return effects + self._do(self._behaviour.attached(), attached, now)
            case ev.LegLost(cause) if state is SessionState.DETACHED:
                return self._cue("caller", "Detached", cause=cause)
            case ev.LegSaid(ev.Dtmf() as key) if attached:
                self._behaviour.caller_active()
                return self._cue("caller", "DtmfReceived", digit=key.digit, duration_ms=key.duration_ms)
            case ev.DrainAnnounced(deadline_unix):
                return self._cue("app", "Draining", deadline_unix=deadline_unix)
            case ev.ProviderReconnecting():
                return self._cue("app", "Reconnecting", reason=event.reason)
            case ev.ProviderReconnected(web_socket_id, cause, gap):
                gap_ms = round(gap * 1000)
                return self._cue(
                    "app", "Reconnected", web_socket_id=web_socket_id, cause=cause, gap_ms=gap_ms
                )
            case ev.UnitEvent():
                return self._on_unit(event)
            case ev.ProviderOpened():
                self._opened = True
                held, self._held = self._held, []
                return [effect for early in held for effect in self._talk.pass_on(early, now)]
            case ev.ScenarioReady():
                return [self._recorder.event("scenario_started", now, entry_point=self._entry)]
            case ev.ScenarioFailed(message, text):
                shown = f"{message}: {text}" if text and not self._privacy else message
                self.ending = self.ending or (EndReason.SCENARIO_FAILED, shown)
                return [self._recorder.event("scenario_failed", now, message=message)]
            case ev.ScenarioSaid(command):
                return self._on_command(command, attached, now)
        return []

    def _cue(self, to: str, name: str, **data: Any) -> list[Effect]:
        return [TellScenario(Cue(to, name, data))] if self._scenario else []

    def _on_unit(self, event: ev.UnitEvent) -> list[Effect]:
        data: dict[str, Any] = {}
        if event.kind in (UnitEventKind.FAILED, UnitEventKind.RECORDING_FAILED):
            data["message"] = event.message
        if event.kind in (UnitEventKind.ENDED, UnitEventKind.RECORDING_FINISHED):
            data["duration_ms"] = event.duration_ms
        if event.url:
            data["url"] = event.url
        return self._cue(event.unit, str(event.kind), **data)

    def _media_began(self, now: float) -> list[Effect]:
        """The provider's audio is heard after a silence."""
        if not self._scenario or self._media_since is not None:
            return []
        self._media_since = now
        name, encoding = MEDIA_STARTED[self._ga], self._encoding
        return self._cue("client", name, tag=None, encoding=encoding, custom_parameters={})

    def _media_ended(self, now: float) -> list[Effect]:
        """It has not been heard for a second."""
        over = self._ledger.playing_until()
        if self._media_since is None or now < over + MEDIA_SILENCE_SECONDS or self._ledger.unheard(now):
            return []
        length = max(0, round((over - self._media_since) * 1000))
        self._media_since = None
        return self._cue("client", MEDIA_ENDED[self._ga], tag=None, media_info={"duration": length})

    # Lines

    def _ask_for_line(self, now: float) -> list[Effect]:
        if not self._talk.free:
            return []
        event = self._lines.request(now)
        if event is None:
            return []
        if self._lines.begun(GOODBYE_RULE):
            self._behaviour.goodbye_begun()
        return self._talk.ask(now, event)

    def _end_lines(self, attached: bool, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for ended in self._lines.take_ended():
            if ended.end is LineEnd.HEARD:
                effects.append(self._recorder.event("line_said", now, rule=ended.rule))
            if ended.rule == SCENARIO_RULE:
                effects += self._cue("lines", "ended", id=ended.id, end=str(ended.end))
            effects += self._do(self._behaviour.line_ended(ended), attached, now)
        return effects

    def _say(self, line: Line, rule: str) -> None:
        self._names += 1
        self._lines.say(f"{rule}-{self._names}", line, rule)

    # Doing

    def _do(self, wishes: Sequence[Wish], attached: bool, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for wish in wishes:
            match wish:
                case Say(line, rule):
                    self._say(line, rule)
                case Ask():
                    effects += self._talk.ask(now)
                case Quieten():
                    effects += self._quieten(attached, now)
                case AnswerCall(call_id, output):
                    answered = self._talk.tool_output(call_id, output, True, now)
                    effects += [] if isinstance(answered, str) else answered
                case EndCall(reason, message):
                    self.ending = self.ending or (reason, message)
        return effects

    def _quieten(self, attached: bool, now: float) -> list[Effect]:
        effects = self._talk.interrupt(ClearReason.REQUESTED, now, attached)
        if effects:
            self._lines.cut()
        return effects

    def _on_command(self, command: ScenarioCommand, attached: bool, now: float) -> list[Effect]:
        match command:
            case SayLine(id, line):
                if not self._lines.say(id, line, SCENARIO_RULE):
                    return self._cue("lines", "ended", id=id, end=str(LineEnd.FAILED))
            case DropLines():
                self._lines.drop()
            case SendEvent(event) if event.get("type") in ev.CLIENT_EVENT_TYPES:
                return self._send(self.completed(event), now)
            case ClearAudio():
                return self._quieten(attached, now)
            case HangUp(True):
                self._behaviour.finish("the scenario ended the call", now)
            case HangUp():
                self.ending = self.ending or (EndReason.AGENT_HANGUP, "the scenario ended the call")
            case TransferCall(target, note):
                return self._move(target, note, attached, now)
            case Complete(reason):
                shown = reason and not self._privacy
                text = "the scenario has ended" + (f": {reason}" if shown else "")
                self.ending = self.ending or (EndReason.SCENARIO_COMPLETED, text)
            case Log(level, text):
                return self._log(level, text, now)
            case OrderUnit(order):
                return [UnitCommand(order)]
        return []

    def _send(self, event: Mapping[str, Any], now: float) -> list[Effect]:
        """What is sent before the provider is there waits for it."""
        if self._opened:
            return self._talk.pass_on(event, now)
        if len(self._held) >= MAX_HELD:
            text = f"the scenario sends more than {MAX_HELD} events before the provider is connected"
            self.ending = self.ending or (EndReason.SCENARIO_FAILED, text)
        self._held.append(event)
        return []

    def _move(self, target: str, note: str, attached: bool, now: float) -> list[Effect]:
        if not attached:
            return self._cue("caller", "TransferFailed", message="no caller is attached")
        if not self._movable:
            text = "the caller's stream takes no transfers: move the call at the telephony provider"
            return self._cue("caller", "TransferFailed", message=text)
        target = target[:MAX_TARGET_CHARACTERS]
        self._transfer = (target, now + TRANSFER_SECONDS)
        moved = self._recorder.event("transferred", now, target=target)
        return [SendLeg(Transfer(target, note[:MAX_NOTE_CHARACTERS])), moved]

    def _log(self, level: str, text: str, now: float) -> list[Effect]:
        self._logs += 1
        if self._logs > MAX_LOGS:
            return []
        level = level if level in LOG_LEVELS else "info"
        fact = self._recorder.event("scenario_logged", now, level=level)
        return [
            fact,
            *self._recorder.journal("scenario_log", now, level=level, text=text[:MAX_LOG_CHARACTERS]),
        ]

    # Time

    def _scene(self, attached: bool, expires: float | None, now: float) -> Scene:
        idle = self._lines.idle
        silent = self._talk.free and idle and not self._ledger.unheard(now)
        return Scene(attached, idle, self._talk.quiet_since(), silent, expires)

    def next_deadline(self, state: SessionState, expires: float | None) -> float | None:
        """When `follow` has something to do; later than its last call."""
        now = self._now
        dues = [self._lines.next_deadline(now)]
        if self._transfer is not None:
            dues.append(self._transfer[1])
        if self._media_since is not None:
            dues.append(max(now + CHECK_SECONDS, self._ledger.playing_until() + MEDIA_SILENCE_SECONDS))
        if state is not SessionState.CONNECTING and not self._behaviour.inert:
            dues.append(
                self._behaviour.next_deadline(self._scene(state is SessionState.ACTIVE, expires, now))
            )
            if self._behaviour.winding:
                dues.append(max(now + CHECK_SECONDS, self._ledger.playing_until()))
        return min((max(due, now + 0.001) for due in dues if due is not None), default=None)


def _entry(config: SessionConfig) -> str:
    scenario = config.scenario
    if scenario is None:
        return ""
    return scenario.entry_point or f"{scenario.file_name}:{scenario.function}"
