"""The declarative scenario: greeting, hang-up rules, idle lines, goodbye. Decides; the acts do it. Pure.

Times are monotonic seconds. Every rule ends by what was heard, and by a bound should it never be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from parley_worker.core.agent import Behaviour, Line
from parley_worker.core.lines import EndedLine
from parley_worker.core.model import EndReason

HANG_UP = "hang_up"
HANG_UP_TOOL: Mapping[str, Any] = {
    "type": "function",
    "name": HANG_UP,
    "description": "End the call. Call it once the conversation is over and the caller needs nothing more.",
    "parameters": {
        "type": "object",
        "properties": {"reason": {"type": "string", "description": "Why the call is over, in a few words."}},
    },
}
HANG_UP_OUTPUT = json.dumps({"result": "the call is being ended"})
GOODBYE = Line(instructions="Say goodbye to the caller in one short sentence.")
CLOSING_SECONDS = 20.0
"""A call that is being ended is over by then, whatever was heard."""
GOODBYE_EXTRA_SECONDS = 5.0
"""How far a goodbye that is being said may pass the maximum duration."""

GREETING_RULE, FAREWELL_RULE, IDLE_RULE, GOODBYE_RULE = "greeting", "farewell", "idle", "goodbye"


@dataclass(frozen=True, slots=True)
class Say:
    """Say this line."""

    line: Line
    rule: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Let the model speak of its own accord."""


@dataclass(frozen=True, slots=True)
class Quieten:
    """Cancel what is being said, and throw away what was not heard."""


@dataclass(frozen=True, slots=True)
class AnswerCall:
    """Give a function call its result, without a response."""

    call_id: str
    output: str


@dataclass(frozen=True, slots=True)
class EndCall:
    """End the session."""

    reason: EndReason
    message: str


Wish = Say | Ask | Quieten | AnswerCall | EndCall


@dataclass(frozen=True, slots=True)
class Scene:
    """What the rules look at. `quiet_since` is since when nobody speaks, in the future while somebody does;
    `lines_idle` is true when no line waits or is being said, `silent` when no response is made either and
    everything was heard; `expires` is when the session must be over, None before it is ready."""

    attached: bool
    lines_idle: bool
    quiet_since: float
    silent: bool
    expires: float | None


class _Stage(Enum):
    OPEN = "open"
    """The conversation goes on."""
    WINDING = "winding"
    """The call ends as soon as the agent has said what it is saying."""
    FAREWELL = "farewell"
    """The call ends as soon as the farewell was heard."""


class DeclaredBehaviour:
    """The rules of one session."""

    def __init__(self, behaviour: Behaviour, greet: bool) -> None:
        self._rules = behaviour
        self._greet = greet
        self._stage = _Stage.OPEN
        self._because = ""
        self._close_by: float | None = None
        self._greeting = behaviour.greeting
        self._spoke_in = self._hung_up_in = ""
        self._idle_said = 0
        self._goodbye_said = self._goodbye_begun = self._goodbye_pressed = False
        self.greeted = False
        """A caller was attached: the greeting is not said again."""
        phrases = [_words(phrase) for phrase in behaviour.hang_up_phrases]
        self._phrases = [f" {phrase} " for phrase in phrases if phrase]

    @property
    def closing(self) -> bool:
        """True once it is decided that the call ends."""
        return self._stage is not _Stage.OPEN

    @property
    def inert(self) -> bool:
        """True when neither server events nor time bring a wish: no rule that was declared waits for one."""
        rules = self._rules
        waits = rules.hang_up_tool or self._phrases or rules.idle_after > 0 or rules.goodbye_before > 0
        return not waits and self._stage is _Stage.OPEN

    def with_tools(self, session: Mapping[str, Any]) -> Mapping[str, Any]:
        """A session object whose tools have `hang_up`, where that is offered."""
        tools = session.get("tools", [])
        if not self._rules.hang_up_tool or not isinstance(tools, list):
            return session
        others = [t for t in tools if not (isinstance(t, Mapping) and t.get("name") == HANG_UP)]
        return {**session, "tools": [*others, dict(HANG_UP_TOOL)]}

    # What happens

    def attached(self) -> list[Wish]:
        """A caller attached. The greeting is said once in a session."""
        if self.greeted:
            return []
        self.greeted = True
        greet, greeting = self._greet, self._greeting
        if greeting and not self.closing:
            return [Say(greeting, GREETING_RULE)]
        return [Ask()] if greet else []

    def caller_active(self) -> None:
        """The caller spoke or pressed a key: the idle lines begin anew."""
        self._idle_said = 0

    def on_message(self, payload: Mapping[str, Any], ours: bool, now: float) -> list[Wish]:
        """A server event; `ours` is true when its response is that of a line."""
        match payload.get("type"):
            case "input_audio_buffer.speech_started":
                self.caller_active()
            case "response.created" if self._stage is _Stage.FAREWELL and not ours:
                return [Quieten()]
            case "response.output_item.done":
                return self._on_item(payload, now)
            case "conversation.item.input_audio_transcription.completed":
                return self._on_transcript(payload.get("transcript"), now)
        return []

    def _on_item(self, payload: Mapping[str, Any], now: float) -> list[Wish]:
        item, response_id = payload.get("item"), str(payload.get("response_id", ""))
        if not isinstance(item, Mapping):
            return []
        if item.get("type") == "message":
            self._spoke_in = response_id
        elif self._rules.hang_up_tool and item.get("type") == "function_call" and item.get("name") == HANG_UP:
            answer = AnswerCall(str(item.get("call_id", "")), HANG_UP_OUTPUT)
            if not self.closing:
                self._hung_up_in = response_id
                self._close("the agent ended the call", now)
            return [answer]
        return []

    def _on_transcript(self, transcript: object, now: float) -> list[Wish]:
        if self.closing or not isinstance(transcript, str):
            return []
        heard = f" {_words(transcript)} "
        if not any(phrase in heard for phrase in self._phrases):
            return []
        self._close("the caller said a phrase that ends the call", now)
        self._stage = _Stage.FAREWELL
        return [Quieten(), Say(self._rules.farewell or GOODBYE, FAREWELL_RULE)]

    def finish(self, because: str, now: float) -> None:
        """End the call once everything was heard, the farewell included where there is one."""
        if not self.closing:
            self._close(because, now)

    def _close(self, because: str, now: float) -> None:
        self._stage, self._because = _Stage.WINDING, because
        self._close_by = now + CLOSING_SECONDS

    def _wound(self) -> list[Wish]:
        """The agent has said what it was saying when the end was decided."""
        farewell = self._rules.farewell
        if not farewell and self._hung_up_in and self._hung_up_in != self._spoke_in:
            farewell = GOODBYE
        if not farewell:
            return [EndCall(EndReason.AGENT_HANGUP, self._because)]
        self._stage = _Stage.FAREWELL
        return [Say(farewell, FAREWELL_RULE)]

    def line_ended(self, ended: EndedLine) -> list[Wish]:
        """A line is over, heard or not. After the farewell the call ends either way."""
        if self._stage is _Stage.FAREWELL and ended.rule == FAREWELL_RULE:
            return [EndCall(EndReason.AGENT_HANGUP, self._because)]
        return []

    # Time

    def next_deadline(self, scene: Scene) -> float | None:
        """When `on_time` has something to do, whatever happens until then."""
        if self.closing:
            return self._close_by
        dues = (self._idle_at(scene), self._goodbye_at(scene))
        return min((due for due in dues if due is not None), default=None)

    @property
    def winding(self) -> bool:
        """True while the end of what is being said is awaited."""
        return self._stage is _Stage.WINDING

    def on_time(self, scene: Scene, now: float) -> list[Wish]:
        """Look at the clock; to be called after every event."""
        if self._close_by is not None:
            if now >= self._close_by:
                return [EndCall(EndReason.AGENT_HANGUP, self._because)]
            return self._wound() if self._stage is _Stage.WINDING and scene.silent else []
        wishes = self._goodbye(scene, now)
        idle_at = self._idle_at(scene)
        if not wishes and idle_at is not None and now >= idle_at:
            wishes = self._idle()
        return wishes

    def _idle_at(self, scene: Scene) -> float | None:
        rules = self._rules
        over = self._idle_said >= len(rules.idle_lines)
        if rules.idle_after <= 0 or (over and not rules.idle_hang_up):
            return None
        if not scene.attached or not scene.lines_idle:
            return None
        return scene.quiet_since + rules.idle_after

    def _idle(self) -> list[Wish]:
        rules = self._rules
        if self._idle_said >= len(rules.idle_lines):
            text = f"nobody spoke for {rules.idle_after:g} s"
            after = f" after {len(rules.idle_lines)} reminders" if rules.idle_lines else ""
            return [EndCall(EndReason.IDLE_TIMEOUT, text + after)]
        self._idle_said += 1
        return [Say(rules.idle_lines[self._idle_said - 1], IDLE_RULE)]

    def _goodbye_at(self, scene: Scene) -> float | None:
        """When the goodbye is to be said, and half of the rest later, when it may wait no longer."""
        rules = self._rules
        if scene.expires is None or not scene.attached or self._goodbye_pressed:
            return None
        if rules.goodbye_before <= 0 or not rules.goodbye:
            return None
        return scene.expires - rules.goodbye_before / (2 if self._goodbye_said else 1)

    def _goodbye(self, scene: Scene, now: float) -> list[Wish]:
        due = self._goodbye_at(scene)
        if due is None or now < due:
            return []
        if not self._goodbye_said:
            self._goodbye_said = True
            return [Say(self._rules.goodbye, GOODBYE_RULE)]
        self._goodbye_pressed = True
        return [] if self._goodbye_begun else [Quieten()]

    def goodbye_begun(self) -> None:
        """The goodbye is being said: nothing is in its way any more."""
        self._goodbye_begun = True


def _words(text: str) -> str:
    """Lower case, words only: `Good-bye, then!` is `good bye then`."""
    return " ".join(re.findall(r"\w+", text.casefold()))
