"""Client events the provider has not answered, and the answers it is making. Pure.

A provider confirms every client event but audio: by an event that names its item, by the next event of a
kind, or by an error that names it. What is not confirmed when a connection is lost has to be sent again; what
is confirmed is part of the history and must not be. An error that names nothing counts for the oldest event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Payload = Mapping[str, Any]
_MAX_ANSWERS = 64
_BY_ITEM = {
    "conversation.item.added": "conversation.item.create",
    "conversation.item.created": "conversation.item.create",
    "conversation.item.truncated": "conversation.item.truncate",
    "conversation.item.deleted": "conversation.item.delete",
    "conversation.item.retrieved": "conversation.item.retrieve",
}
_IN_TURN = {
    "session.updated": "session.update",
    "transcription_session.updated": "transcription_session.update",
    "input_audio_buffer.committed": "input_audio_buffer.commit",
    "input_audio_buffer.cleared": "input_audio_buffer.clear",
    "response.created": "response.create",
    "response.done": "response.cancel",
}
CONFIRMED = frozenset({*_BY_ITEM.values(), *_IN_TURN.values()})
"""Types of client events that a provider answers."""

ALWAYS_ANSWERED = frozenset(
    {"session.update", "transcription_session.update", "response.create", "input_audio_buffer.commit"}
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A client event. `at` is the end of the caller's audio before it, `since` seconds of any clock."""

    event: Payload = field(repr=False)
    at: int
    since: float

    @property
    def type(self) -> str:
        return str(self.event.get("type"))

    @property
    def item_id(self) -> str:
        """The item it is about."""
        item = self.event.get("item")
        value = item.get("id") if isinstance(item, Mapping) else self.event.get("item_id")
        return value if isinstance(value, str) else ""


@dataclass(slots=True)
class Answer:
    """A response being made. `request` is the client event that asked for it, None when a turn's end did."""

    id: str
    bound: bool
    request: Payload | None
    since: float
    """When something of it came last."""
    open: dict[str, str] = field(default_factory=dict)
    """Items begun and not finished, with their kind."""
    finished: int = 0
    calls: int = 0
    """Finished function calls: their results bring the next response."""
    unwanted: bool = False
    """It was cancelled or talked over."""
    sounding: dict[tuple[str, int], None] = field(default_factory=dict)
    """Audio parts begun and not finished."""
    cancelled_at: float | None = None
    waits_for_tool: bool = False
    """A tool that the provider calls by itself is at work."""


class Outstanding:
    """See the module. Bounded in number by `limit`: `full` says that no more may be put."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sent: OrderedDict[int, Sent] = OrderedDict()
        self._number = 0
        self.answers: OrderedDict[str, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        """True when no more may be put."""
        return len(self._sent) >= self._limit

    @property
    def answer_due_since(self) -> float | None:
        """Since when the oldest event waits of those every provider answers."""
        return next((sent.since for sent in self._sent.values() if sent.type in ALWAYS_ANSWERED), None)

    def put(self, event: Payload, at: int, now: float) -> None:
        """A client event is on its way."""
        self._sent[self._number] = Sent(event, at, now)
        self._number += 1
        if event.get("type") == "response.cancel":
            wanted = event.get("response_id")
            for answer in self.answers.values():
                if (answer.bound and wanted is None) or answer.id == wanted:
                    answer.unwanted = True

    def take_all(self) -> list[Sent]:
        """All of them, in order; they are forgotten here."""
        taken = list(self._sent.values())
        self._sent.clear()
        return taken

    def peek(self) -> list[Sent]:
        """All of them, in order."""
        return list(self._sent.values())

    def server(self, payload: Payload, now: float) -> Sent | None:
        """Follow a server event; gives the client event that it confirms or refuses."""
        kind = payload.get("type")
        if not isinstance(kind, str):
            return None
        confirmed = self._confirm(kind, payload)
        if kind.startswith("response."):
            self._follow(kind, payload, confirmed, now)
        return confirmed

    def goes_on(self, response_id: object, now: float) -> None:
        """A piece of a response came that neither confirms, begins nor ends anything."""
        answer = self.answers.get(response_id) if isinstance(response_id, str) else None
        if answer is not None:
            answer.since = now

    def talked_over(self) -> None:
        """The caller speaks, and the provider ends its answer for that."""
        for answer in self.answers.values():
            answer.unwanted = answer.unwanted or answer.bound

    def audio(self, response_id: str, item_id: str, content_index: int, now: float) -> None:
        """An audio delta came."""
        answer = self.answers.get(response_id)
        if answer is not None:
            answer.since = now
            answer.sounding[(item_id, content_index)] = None

    def _confirm(self, kind: str, payload: Payload) -> Sent | None:
        if kind == "error":
            refused = _object(payload, "error").get("event_id")
            return self._first(lambda sent: refused is None or sent.event.get("event_id") == refused)
        if kind in _BY_ITEM:
            wanted = _BY_ITEM[kind]
            item_id = payload.get("item_id") or _object(payload, "item").get("id")
            return self._first(lambda sent: sent.type == wanted and sent.item_id == item_id)
        if kind == "response.created":
            return self._request_of(_object(payload, "response"))
        if kind in _IN_TURN:
            wanted = _IN_TURN[kind]
            return self._first(lambda sent: sent.type == wanted)
        return None

    def _request_of(self, response: Payload) -> Sent | None:
        """An answer to speech takes up no request for one outside the conversation, nor the other way."""
        told, outside = "conversation_id" in response, response.get("conversation_id", "") is None
        return self._first(
            lambda sent: sent.type == "response.create" and (not told or outside == is_aside(sent.event))
        )

    def _first(self, test: Any) -> Sent | None:
        for number, sent in self._sent.items():
            if test(sent):
                return self._sent.pop(number)
        return None

    def _follow(self, kind: str, payload: Payload, confirmed: Sent | None, now: float) -> None:
        if kind == "response.created":
            response = _object(payload, "response")
            bound = response.get("conversation_id", "") is not None
            response_id = str(response.get("id"))
            request = None if confirmed is None else confirmed.event
            self.answers[response_id] = Answer(response_id, bound, request, now)
            while len(self.answers) > _MAX_ANSWERS:
                self.answers.popitem(last=False)
            return
        if kind == "response.done":
            self.answers.pop(str(_object(payload, "response").get("id")), None)
            return
        answer = self.answers.get(str(payload.get("response_id")))
        if answer is None and len(self.answers) == 1 and kind.startswith("response.mcp_call"):
            answer = next(iter(self.answers.values()))
        if answer is None:
            return
        answer.since = now
        if kind.startswith("response.mcp_call"):
            answer.waits_for_tool = kind == "response.mcp_call.in_progress"
        item = _object(payload, "item")
        item_id = str(item.get("id"))
        if kind == "response.output_item.added":
            answer.open[item_id] = str(item.get("type"))
        elif kind == "response.output_item.done":
            answer.open.pop(item_id, None)
            answer.finished += 1
            answer.calls += item.get("type") == "function_call"
        elif kind in ("response.output_audio.done", "response.audio.done"):
            index = payload.get("content_index")
            key = (str(payload.get("item_id")), index if isinstance(index, int) else 0)
            answer.sounding.pop(key, None)


def is_aside(request: Payload) -> bool:
    """Whether a `response.create` asks for a response outside the conversation."""
    return _object(request, "response").get("conversation") == "none"


def _object(fields: Payload, name: str) -> Payload:
    value = fields.get(name)
    return value if value.__class__ is dict or isinstance(value, Mapping) else {}
