"""Lines that the agent is told to say: asked for one at a time, followed until they were heard. Pure.

A line is a response of its own. The provider says whose response it is by the metadata that it gives back;
from a provider that gives none back, the next response after the question is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from parley_worker.core.agent import Line
from parley_worker.core.playout import PlayoutLedger

MAX_LINES = 32
"""Lines that may wait; more are refused."""
ANSWER_SECONDS = 15.0
"""A line whose response does not begin, or goes on saying nothing, for so long has failed."""
STALLED_SECONDS = 5.0
"""A line that was made and of which nothing is played for so long counts as not heard."""
CHECK_SECONDS = 0.1
METADATA_KEY = "parley_line"
EVENT_ID_PREFIX = "parley_line_"
BUSY_CODE = "conversation_already_has_active_response"


def say_instructions(text: str) -> str:
    """The instructions that make a model say `text` and nothing else."""
    return f"Say exactly this, word for word: {json.dumps(text, ensure_ascii=False)}"


class LineEnd(StrEnum):
    """What became of a line."""

    HEARD = "heard"
    """Its audio was played to the end."""
    INTERRUPTED = "interrupted"
    """It was cut, or never played."""
    FAILED = "failed"
    """The provider did not make it."""


class _Stage(Enum):
    ASKED = "asked"
    SPEAKING = "speaking"
    PLAYING = "playing"


@dataclass(frozen=True, slots=True)
class EndedLine:
    """A line that is over. `rule` and `id` are those that it was given with."""

    id: str
    rule: str
    end: LineEnd


@dataclass(slots=True)
class _Current:
    id: str
    rule: str
    line: Line
    stage: _Stage
    since: float
    response_id: str = ""


class Lines:
    """The lines of one conversation. Times are monotonic seconds."""

    def __init__(self, ledger: PlayoutLedger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[str, str, Line]] = []
        self._current: _Current | None = None
        self._ended: list[EndedLine] = []
        self._echoes = False

    @property
    def idle(self) -> bool:
        """True when no line waits or is being said."""
        return self._current is None and not self._waiting

    def under_way(self, rule: str) -> bool:
        """True while a line of this rule waits or is being said."""
        current = self._current is not None and self._current.rule == rule
        return current or any(waiting == rule for _, waiting, _ in self._waiting)

    def begun(self, rule: str) -> bool:
        """True while a line of this rule is being said."""
        return self._current is not None and self._current.rule == rule

    def owns(self, response_id: str) -> bool:
        """True for the response of the line that is being said."""
        return self._current is not None and self._current.response_id == response_id

    def say(self, id: str, line: Line, rule: str) -> bool:
        """Say it after those that wait; False when too many wait. `id` is unique in the conversation."""
        if len(self._waiting) >= MAX_LINES:
            return False
        self._waiting.append((id, rule, line))
        return True

    def request(self, now: float) -> Mapping[str, Any] | None:
        """The client event that asks for the next line, once no other response is in the way."""
        if self._current is not None or not self._waiting:
            return None
        id, rule, line = self._waiting.pop(0)
        self._current = _Current(id, rule, line, _Stage.ASKED, now)
        return {
            "type": "response.create",
            "event_id": EVENT_ID_PREFIX + id,
            "response": {
                "instructions": say_instructions(line.text) if line.text else line.instructions,
                "tool_choice": "none",
                "metadata": {METADATA_KEY: id},
            },
        }

    def take_ended(self) -> list[EndedLine]:
        """Lines that are over since the last call."""
        ended, self._ended = self._ended, []
        return ended

    # What happens

    def on_message(self, payload: Mapping[str, Any], now: float) -> None:
        """Follow a server event."""
        current, kind = self._current, payload.get("type")
        if current is None or not isinstance(kind, str):
            return
        if kind == "error":
            self._on_error(current, payload.get("error"))
        elif kind == "response.created" and current.stage is _Stage.ASKED:
            response = payload.get("response")
            if isinstance(response, Mapping) and self._is_ours(current, response):
                current.response_id = str(response.get("id", ""))
                current.stage, current.since = _Stage.SPEAKING, now
        elif kind.startswith("response.") and current.stage is _Stage.SPEAKING:
            response = payload.get("response")
            if kind == "response.done" and isinstance(response, Mapping):
                self._on_done(current, response, now)
            elif payload.get("response_id") == current.response_id:
                current.since = now

    def _is_ours(self, current: _Current, response: Mapping[str, Any]) -> bool:
        metadata = response.get("metadata")
        if isinstance(metadata, Mapping) and METADATA_KEY in metadata:
            self._echoes = True
            return bool(metadata[METADATA_KEY] == current.id)
        return not self._echoes

    def _on_error(self, current: _Current, error: object) -> None:
        if not isinstance(error, Mapping) or error.get("event_id") != EVENT_ID_PREFIX + current.id:
            return
        if error.get("code") == BUSY_CODE:
            self._waiting.insert(0, (current.id, current.rule, current.line))
            self._current = None
        else:
            self._end(LineEnd.FAILED)

    def _on_done(self, current: _Current, response: Mapping[str, Any], now: float) -> None:
        if str(response.get("id", "")) != current.response_id:
            return
        status = response.get("status")
        if status == "cancelled":
            self._end(LineEnd.INTERRUPTED)
        elif status == "failed":
            self._end(LineEnd.FAILED)
        else:
            current.stage, current.since = _Stage.PLAYING, now
            self.check(now)

    def cut(self) -> None:
        """The agent's audio was cleared: what was being said is over."""
        if self._current is not None and self._current.stage is not _Stage.ASKED:
            self._end(LineEnd.INTERRUPTED)

    def drop(self) -> None:
        """Forget what waits; what is being said goes on."""
        self._ended += [EndedLine(id, rule, LineEnd.INTERRUPTED) for id, rule, _ in self._waiting]
        self._waiting.clear()

    # Time

    def next_deadline(self, now: float) -> float | None:
        """When `check` has something to do."""
        current = self._current
        if current is None:
            return None
        if current.stage is _Stage.PLAYING:
            return max(now + CHECK_SECONDS, self._ledger.playing_until())
        return self._heard_of(current) + ANSWER_SECONDS

    def check(self, now: float) -> None:
        """End what was heard, and what takes too long."""
        current = self._current
        if current is None:
            return
        if current.stage is not _Stage.PLAYING:
            if now >= self._heard_of(current) + ANSWER_SECONDS:
                self._end(LineEnd.FAILED)
        elif not self._ledger.unheard(now):
            self._end(LineEnd.HEARD)
        elif now >= max(current.since, self._ledger.playing_until()) + STALLED_SECONDS:
            self._end(LineEnd.INTERRUPTED)

    def _heard_of(self, current: _Current) -> float:
        """When something of the line last came from the provider."""
        if current.stage is _Stage.ASKED:
            return current.since
        return max(current.since, self._ledger.received_at)

    def _end(self, end: LineEnd) -> None:
        if self._current is not None:
            self._ended.append(EndedLine(self._current.id, self._current.rule, end))
            self._current = None
