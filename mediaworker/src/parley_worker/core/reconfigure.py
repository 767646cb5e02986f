"""A live session's configuration changed: what the provider is told, and whether it took it. Pure.

All or nothing: session object, routes and limits change when the provider has taken the update, and when it
refuses, everything stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from parley_worker.core.fields import object_of, text_of
from parley_worker.core.model import SessionConfig, Wanted
from parley_worker.core.recorder import well_formed

EVENT_ID_PREFIX = "parley_reconfigure_"
ANSWER_SECONDS = 10.0
"""A provider that says neither yes nor no for so long is asked again, when the operator asks again."""
MAX_WORDS = 500
FIXED = ("type", "model")
"""What no update can change on an open WebSocket."""
CLEARED: Mapping[str, object] = {"instructions": "", "tools": [], "tool_choice": "auto"}
"""What takes a field back. Of others the provider keeps the value that it has."""


class CannotChange(Exception):
    """`str()` names the field and the remedy."""


def difference(before: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "session") -> dict[str, Any]:
    """What turns `before` into `wanted` as a partial session object; raises CannotChange."""
    changed: dict[str, Any] = {}
    for name, value in wanted.items():
        old = before.get(name)
        if old == value and name in before:
            continue
        if path == "session" and name in FIXED and name in before:
            raise CannotChange(f"{path}.{name} cannot be changed in a running session: start another one")
        if isinstance(value, Mapping) and isinstance(old, Mapping) and _mergeable(path, name):
            inner = difference(old, value, f"{path}.{name}")
            if inner:
                changed[name] = inner
        else:
            changed[name] = value
    for name in before.keys() - wanted.keys():
        if path != "session" or name not in CLEARED:
            raise CannotChange(
                f"{path}.{name} cannot be taken back in a running session: give the value to have"
            )
        changed[name] = CLEARED[name]
    return changed


def _mergeable(path: str, name: str) -> bool:
    """`audio`, its `input` and its `output` are merged by providers; other objects are replaced whole."""
    return (path, name) in (("session", "audio"), ("session.audio", "input"), ("session.audio", "output"))


@dataclass(frozen=True, slots=True)
class _Asked:
    wanted: Wanted
    event_id: str
    since: float


class Reconfiguring:
    """What was asked for last, and what became of it. Times are monotonic seconds."""

    def __init__(self, generation: int) -> None:
        self.judged = generation
        """Generation of the last change that was taken or refused."""
        self.refused = ""
        """Why that one was refused; empty when it was taken."""
        self._asked: _Asked | None = None
        self._taken: tuple[str, SessionConfig] | None = None

    def ask(
        self, wanted: Wanted, config: SessionConfig, now: float
    ) -> Mapping[str, Any] | SessionConfig | None:
        """The event for the provider, the new configuration where it need not be asked, or None when there
        is nothing to do but to say again how it stands."""
        if wanted.generation <= self.judged or self._asked is not None:
            return None
        try:
            changed = difference(config.session, wanted.session)
        except CannotChange as error:
            self._judge(wanted.generation, str(error))
            return None
        if not changed:
            self._judge(wanted.generation, "")
            return _with(config, wanted)
        event_id = f"{EVENT_ID_PREFIX}{wanted.generation}"
        self._asked = _Asked(wanted, event_id, now)
        update = dict(changed)
        if "type" in config.session:
            update["type"] = config.session["type"]
        return {"type": "session.update", "event_id": event_id, "session": update}

    def follow(self, payload: Mapping[str, Any], config: SessionConfig) -> SessionConfig | None:
        """A server event; the configuration from here on when this one decides about a change."""
        kind = payload.get("type")
        if kind == "session.updated" and self._asked is not None:
            asked, self._asked = self._asked, None
            self._taken = (asked.event_id, config)
            self._judge(asked.wanted.generation, "")
            return _with(config, asked.wanted)
        if kind == "error":
            error = object_of(payload, "error")
            words = text_of(error, "message") or "no reason given"
            return self.failed(
                text_of(error, "event_id"), f"the provider refused the update: {words}", config
            )
        return None

    def failed(self, event_id: str, words: str, config: SessionConfig) -> SessionConfig | None:
        """The update of this id is refused, also where another's answer was taken for its own before."""
        words = str(well_formed(words[:MAX_WORDS]))
        if self._asked is not None and self._asked.event_id == event_id:
            asked, self._asked = self._asked, None
            self._judge(asked.wanted.generation, words)
            return config
        if self._taken is not None and self._taken[0] == event_id:
            before, self._taken = self._taken[1], None
            self.refused = words
            return before
        return None

    def next_deadline(self) -> float | None:
        return self._asked.since + ANSWER_SECONDS if self._asked else None

    def on_deadline(self, now: float) -> None:
        """Nothing is known of an update without an answer: whoever asked may ask again."""
        if self._asked is not None and now >= self._asked.since + ANSWER_SECONDS:
            self._asked = None

    def _judge(self, generation: int, refused: str) -> None:
        self.judged, self.refused = generation, refused


def _with(config: SessionConfig, wanted: Wanted) -> SessionConfig:
    return replace(config, session=wanted.session, tools=wanted.tools, limits=wanted.limits)
