"""The client events that make a new connection hold what the old one held, and their check. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_realtime.errors import ProviderError, UnavailableError
from parley_realtime.protocol.history import PROVIDER_MAKES, ConversationHistory, Item, Part
from parley_realtime.protocol.refusals import ErrorDetail, from_code

Event = dict[str, Any]
EVENT_PREFIX = "parley_restore_"
_ECHOES = frozenset({"conversation.item.added", "conversation.item.created"})
_UPDATED = frozenset({"session.updated", "transcription_session.updated"})
_TROUBLE = frozenset({"server_error", "internal_error", "internal_server_error", "service_unavailable"})
"""Types and codes of errors that say nothing about what was asked for."""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What to send, in order: the session's update (None when the user never made one), then the items."""

    update: Event | None
    creates: tuple[Event, ...] = field(repr=False)
    canonical: Mapping[str, Event] = field(default_factory=dict, repr=False)
    """What the model is to see of each item."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The items' ids, in order."""
        return tuple(str(event["item"]["id"]) for event in self.creates)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a conversation cannot be carried over; the words name what is missing and the remedy."""

    reason: str


def plan_restore(
    history: ConversationHistory,
    *,
    ga: bool,
    transcription: bool,
    audio_base64: Any,
    number: int = 0,
    items: bool = True,
) -> RestorePlan | Refusal:
    """Plan the restoration of `history`; without `items`, of the session alone.

    `transcription`: the session transcribes the caller. `audio_base64` turns held audio into base64 text.
    `number` makes the event ids of this restoration its own.
    """
    creates: list[Event] = []
    told = history.told() if items else []
    for item in told:
        body = _body(item, ga, transcription, audio_base64)
        if isinstance(body, Refusal):
            return body
        event_id = f"{EVENT_PREFIX}{number}_{len(creates)}"
        creates.append({"type": "conversation.item.create", "event_id": event_id, "item": body})
    update = None
    if history.wanted:
        update = {
            "type": history.update_type,
            "event_id": f"{EVENT_PREFIX}{number}_session",
            "session": dict(history.wanted),
        }
    return RestorePlan(update, tuple(creates), {item.id: item.canonical() for item in told})


def replacement(history: ConversationHistory, item: Item, *, ga: bool, event_id: str) -> list[Event]:
    """The events that shorten an item which a new connection holds as text, where truncation cannot work."""
    events: list[Event] = [
        {"type": "conversation.item.delete", "event_id": f"{event_id}_delete", "item_id": item.id}
    ]
    if item.wordless:
        return events
    body = _body(item, ga, True, None)
    assert not isinstance(body, Refusal)
    previous = history.before(item.id)
    create = {
        "type": "conversation.item.create",
        "event_id": f"{event_id}_create",
        "previous_item_id": previous or "root",
        "item": body,
    }
    return [*events, create]


def _body(item: Item, ga: bool, transcription: bool, audio_base64: Any) -> Event | Refusal:
    if item.too_big:
        return Refusal(f"item {item.id} is too big to be kept (an image?): send smaller items")
    body: Event = {"id": item.id, "type": item.kind}
    if item.kind != "message":
        return {**body, **item.fields}
    content: list[Event] = []
    for part in item.parts:
        made = _content(part, item.role, ga, transcription, audio_base64)
        if isinstance(made, Refusal):
            return made
        if made is not None:
            content.append(made)
    return {**body, "role": item.role or "user", "content": content}


def _content(
    part: Part, role: str, ga: bool, transcription: bool, audio_base64: Any
) -> Event | Refusal | None:
    if part.kind == "input_image":
        return {"type": "input_image", **part.fields}
    if part.kind == "input_audio" and part.text is None:
        if part.audio and audio_base64 is not None:
            return {"type": "input_audio", "audio": audio_base64(part.audio.whole())}
        if transcription:
            return Refusal("what the caller said was never transcribed and its audio is not held any more")
        return Refusal(
            "input transcription is off, so it is not known what the caller said: set "
            "session.audio.input.transcription (beta: session.input_audio_transcription)"
        )
    if not part.words:
        return None
    if role == "assistant":
        return {"type": "output_text" if ga else "text", "text": part.words}
    return {"type": "input_text", "text": part.words}


class RestoreCheck:
    """Follows the echoes of a plan on the new connection.

    `failed` says why the conversation cannot be carried over at all; `trouble` is the error of a provider
    that cannot do it now. `private`: neither repeats the provider's words.
    """

    def __init__(self, plan: RestorePlan, *, private: bool = False) -> None:
        self._expected = [event["item"] for event in plan.creates]
        self._places = {str(item["id"]): at for at, item in enumerate(self._expected)}
        self._seen: set[str] = set()
        self._configured = plan.update is None
        self._private = private
        self.failed: str | None = None
        self.trouble: ProviderError | None = None

    @property
    def complete(self) -> bool:
        """The new connection holds it all, in order."""
        well = self.failed is None and self.trouble is None
        return self._configured and well and not self.outstanding

    @property
    def outstanding(self) -> int:
        """How many items are not confirmed."""
        return len(self._expected) - len(self._seen)

    def server(self, payload: Mapping[str, Any]) -> None:
        """An event of the new connection."""
        kind = payload.get("type")
        if kind in _UPDATED:
            self._configured = True
        elif kind in _ECHOES:
            item = payload.get("item")
            if isinstance(item, Mapping) and isinstance(item.get("id"), str):
                self._echo(item, payload)
        elif kind == "error":
            self._error(payload)

    def _echo(self, item: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        item_id = item["id"]
        place = self._places.get(item_id)
        if place is None:
            if self.outstanding and self._is_renamed(item):
                self.failed = (
                    f"the provider gave an item a name of its own ({item_id[:64]}): "
                    "a conversation can be carried over only where items keep the ids of the client"
                )
        elif item_id not in self._seen:
            if not self._in_place(place, payload):
                self.failed = f"the provider put item {item_id} in another place"
            self._seen.add(item_id)

    def _is_renamed(self, item: Mapping[str, Any]) -> bool:
        """Providers make lists of tools by themselves, and items of other kinds than the one awaited."""
        awaited = next(each for each in self._expected if each["id"] not in self._seen)
        return item.get("type") not in PROVIDER_MAKES and all(
            item.get(name) == awaited.get(name) for name in ("type", "role")
        )

    def _in_place(self, place: int, payload: Mapping[str, Any]) -> bool:
        """By the predecessor that the provider names; by the order of arrival where it names none."""
        previous = payload.get("previous_item_id")
        if isinstance(previous, str) and previous != "root":
            return self._places.get(previous, place - 1) == place - 1
        return place == len(self._seen) or (place == 0 and "previous_item_id" in payload)

    def _error(self, payload: Mapping[str, Any]) -> None:
        error = payload.get("error")
        offender = error.get("event_id") if isinstance(error, Mapping) else None
        if offender is not None and not str(offender).startswith(EVENT_PREFIX):
            return
        detail = ErrorDetail.of(payload, private=self._private)
        said = detail.message[:200]
        self.trouble = from_code(detail.code, f" ({said})" if said else "", None)
        if self.trouble is None and {detail.type, detail.code} & _TROUBLE:
            text = f"the provider had trouble with the conversation that was carried over ({said})"
            self.trouble = UnavailableError(text, code=detail.code)
        if self.trouble is None:
            self.failed = f"the provider refused it: {said or detail.code or 'no reason given'}"
