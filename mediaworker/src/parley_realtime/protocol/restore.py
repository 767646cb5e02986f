"""The client events that make a new connection hold what the old one held, and their check. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_realtime.protocol.history import ConversationHistory, Item, Part

Event = dict[str, Any]
EVENT_PREFIX = "parley_restore_"
_ECHOES = frozenset({"conversation.item.added", "conversation.item.created"})
_UPDATED = frozenset({"session.updated", "transcription_session.updated"})


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
    history: ConversationHistory, *, ga: bool, transcription: bool, audio_base64: Any, number: int = 0
) -> RestorePlan | Refusal:
    """Plan the restoration of `history`.

    `transcription`: the session transcribes the caller. `audio_base64` turns held audio into base64 text.
    `number` makes the event ids of this restoration its own.
    """
    creates: list[Event] = []
    for item in history.told():
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
    return RestorePlan(update, tuple(creates), {item.id: item.canonical() for item in history.told()})


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
            return {"type": "input_audio", "audio": audio_base64(part.audio)}
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
    """Follows the echoes of a plan on the new connection."""

    def __init__(self, plan: RestorePlan) -> None:
        self._expected = list(plan.ids)
        self._seen: list[str] = []
        self._configured = plan.update is None
        self.failed: str | None = None

    @property
    def complete(self) -> bool:
        """The new connection holds it all, in order."""
        return self._configured and self.failed is None and len(self._seen) == len(self._expected)

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
            item_id = item.get("id") if isinstance(item, Mapping) else None
            if isinstance(item_id, str) and item_id in self._expected and item_id not in self._seen:
                self._seen.append(item_id)
                if self._seen[-1] != self._expected[len(self._seen) - 1]:
                    self.failed = f"the provider put item {item_id} in another place"
        elif kind == "error":
            error = payload.get("error")
            error = error if isinstance(error, Mapping) else {}
            offender = error.get("event_id")
            if offender is None or str(offender).startswith(EVENT_PREFIX):
                self.failed = f"the provider refused it: {str(error.get('message'))[:200]}"
