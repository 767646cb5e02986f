"""A conversation rebuilt from what an earlier placement of the session wrote down or handed over. Pure.

Items come out as a provider would tell of them, with the words that were heard; what was made by a call and
given to nobody is not in a journal and is not rebuilt.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parley_realtime.recovery import Fillable

from parley_worker.core.changes import Changes
from parley_worker.core.fields import int_of, text_of
from parley_worker.core.saved import HandOver, LateEvent, SavedState

Payload = Mapping[str, Any]
PartKey = tuple[str, int]
MAX_TOLD = 512
"""Events that are made again for a caller that missed them: the latest."""
HEARD_SLACK_MS = 300
"""An answer of which no more than this is missing counts as heard."""
MAX_ID = 32
"""Characters of an item's id: more are refused by providers."""
_RESTART = "restart"
_DELTA, _DONE = "response.output_audio_transcript.delta", "response.output_audio_transcript.done"


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One record as a journal holds it: `fields` under their proto names, integers as integers."""

    attempt: int
    sequence: int
    type: str
    fields: Payload = field(default_factory=dict, repr=False)
    event_sequence: int = 0


@dataclass(frozen=True, slots=True)
class KnownCall:
    """A function call of the model. `answered`: it has its result."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    answered: bool


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a part that the agent spoke: all of them and how long they took (0: not known), or those
    that were heard where that is known."""

    text: str = field(repr=False)
    audio_ms: int = 0
    heard: str | None = field(default=None, repr=False)
    cut_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What an event told that a caller may have missed: its number in its attempt."""

    attempt: int
    sequence: int
    payload: Payload = field(repr=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """What there is to go on with. `source` is `journal` or `hand-over`; `degraded` says what is missing.

    `taken_over`: the journal holds already that this attempt writes it. `unsure`: who came is not known."""

    from_attempt: int = 0
    source: str = "journal"
    items: tuple[Payload, ...] = field(default=(), repr=False)
    words: Mapping[PartKey, Words] = field(default_factory=dict, repr=False)
    calls: tuple[KnownCall, ...] = ()
    changes: Changes = field(default_factory=Changes)
    state: SavedState = field(default_factory=SavedState)
    told: tuple[Told, ...] = ()
    late: tuple[LateEvent, ...] = ()
    degraded: str = ""
    taken_over: bool = False
    unsure: bool = False

    @property
    def visited(self) -> bool:
        """Somebody was attached to an earlier attempt, or may have been."""
        return bool(self.state.resume_sha256 or self.degraded or self.unsure)

    @property
    def handed_over(self) -> bool:
        """The session was moved, and nothing of it is lost."""
        return self.source == "hand-over"

    def carry(self, history: Fillable) -> None:
        """Fill an empty history with it."""
        for body in self.items:
            item_id = text_of(body, "id")
            history.server({"type": "conversation.item.done", "item": body})
            history.given(body)
            for (of, index), words in self.words.items():
                if of == item_id:
                    _speak(history, item_id, index, words)

    def fresh(self) -> Restored:
        """The same for a conversation that begins anew: who may come back, and what was used."""
        state = replace(self.state, greeted=False, expires_unix=None)
        unsure = bool(self.degraded)
        return Restored(self.from_attempt, "journal", state=state, taken_over=self.taken_over, unsure=unsure)


def _speak(history: Fillable, item_id: str, index: int, words: Words) -> None:
    part = {"item_id": item_id, "content_index": index}
    text = words.text if words.heard is None else words.heard
    history.server({"type": _DELTA, "delta": text, **part})
    if words.heard is None:
        history.audio(item_id, index, float(words.audio_ms))
    history.server({"type": _DONE, "transcript": text, **part})
    if words.heard is None and words.cut_ms is not None:
        history.truncate(item_id, index, words.cut_ms)


# What was heard of the last answer


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a caller has come in the agent's speech; the item is empty where it has heard nothing."""

    item_id: str
    content_index: int
    played_ms: int


@dataclass(frozen=True, slots=True)
class Unheard:
    """What of the conversation nobody heard. `asks`: somebody waits for an answer."""

    cuts: tuple[tuple[str, int, int], ...] = ()
    """Item, content index and milliseconds that stay."""
    gone: tuple[str, ...] = ()
    asks: bool = False


def unheard(restored: Restored, reach: Reach | None) -> Unheard:
    """What the caller, who came `reach` far (None: it does not say), has not heard, and whether it waits."""
    if restored.handed_over:
        # It was a moment in which nothing was owed and everything was heard.
        return Unheard()
    items = restored.items
    last = items[-1] if items else {}
    if last.get("role") == "user" or last.get("type") == "function_call_output":
        return Unheard(asks=True)
    if reach is None or not reach.item_id:
        return Unheard()
    at = next((n for n, item in enumerate(items) if item.get("id") == reach.item_id), None)
    if at is None:
        return Unheard()
    gone = tuple(text_of(item, "id") for item in items[at + 1 :] if item.get("role") == "assistant")
    words = restored.words.get((reach.item_id, reach.content_index))
    cuts: tuple[tuple[str, int, int], ...] = ()
    whole = words is not None and words.heard is None and words.cut_ms is None
    if words is not None and whole and reach.played_ms < words.audio_ms - HEARD_SLACK_MS:
        cuts = ((reach.item_id, reach.content_index, reach.played_ms),)
    return Unheard(cuts, gone, asks=bool(cuts or gone))


# From a hand-over


def from_hand_over(given: HandOver) -> Restored:
    """A conversation that another worker gave."""
    results = {text_of(item, "call_id") for item in given.items if item.get("type") == "function_call_output"}
    calls = [
        KnownCall(call_id, text_of(item, "name"), text_of(item, "arguments"), call_id in results)
        for item in given.items
        if item.get("type") == "function_call" and (call_id := text_of(item, "call_id"))
    ]
    return Restored(
        given.attempt,
        "hand-over",
        items=given.items,
        calls=tuple(calls),
        changes=given.changes,
        state=given.state,
        late=given.events,
    )


# From a journal


class _Rebuild:
    """Takes records in order."""

    def __init__(self, ga: bool) -> None:
        self.ga = ga
        self.attempt = 0
        self.state = SavedState()
        self.lost_turns = self.omitted = 0
        self.unread = False
        self.begin_anew()

    def begin_anew(self) -> None:
        self.items: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.user_words: dict[PartKey, str] = {}
        self.agent_words: dict[PartKey, Words] = {}
        self.calls: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self.results: dict[str, str] = {}
        self.changes = Changes()
        self.told: deque[Told] = deque(maxlen=MAX_TOLD)

    def feed(self, record: JournalRecord) -> None:
        fields = record.fields
        self.attempt = max(self.attempt, record.attempt)
        match record.type:
            case "takeover" if fields.get("mode") == _RESTART:
                self.begin_anew()
            case "checkpoint":
                self._checkpoint(text_of(fields, "state_json"))
            case "session_updated":
                update = _json_object(text_of(fields, "session_json"))
                under = _json_object(text_of(fields, "under_json"))
                self.changes = self.changes.then(Changes(update, under))
            case "item_done":
                self._item(record, _json_object(text_of(fields, "item_json")))
            case "transcript":
                self._transcript(record)
            case "item_truncated":
                self._cut(record)
            case "item_deleted":
                item_id = text_of(fields, "item_id")
                self.items.pop(item_id, None)
                for words in (self.user_words, self.agent_words):
                    for key in [key for key in words if key[0] == item_id]:
                        del words[key]
                self._tell(record, {"type": "conversation.item.deleted", "item_id": item_id})
            case "tool_call":
                self._call(record)
            case "tool_result":
                self.results[text_of(fields, "call_id")] = text_of(fields, "output")

    def _checkpoint(self, text: str) -> None:
        try:
            self.state = SavedState.read(_json_object(text))
        except ValueError:
            self.unread = True

    def _item(self, record: JournalRecord, body: dict[str, Any]) -> None:
        item_id = text_of(body, "id")
        if not item_id or "parley_omitted_bytes" in body:
            self.omitted += 1
            return
        previous = text_of(record.fields, "previous_item_id")
        if item_id in self.items:
            self.items[item_id] = body
        else:
            _insert(self.items, item_id, body, previous)
        kind = "conversation.item.done" if self.ga else "conversation.item.created"
        self._tell(record, {"type": kind, "previous_item_id": previous or None, "item": body})

    def _transcript(self, record: JournalRecord) -> None:
        fields = record.fields
        key = (text_of(fields, "item_id"), int_of(fields, "content_index"))
        part = {"item_id": key[0], "content_index": key[1], "transcript": text_of(fields, "text")}
        if fields.get("role") == "user":
            self.user_words[key] = text_of(fields, "text")
            self._tell(record, {"type": "conversation.item.input_audio_transcription.completed", **part})
            return
        before = self.agent_words.get(key)
        heard = text_of(fields, "heard_text") if fields.get("truncated") else None
        self.agent_words[key] = Words(
            text_of(fields, "text"),
            int_of(fields, "audio_ms") or (before.audio_ms if before else 0),
            heard,
            before.cut_ms if before else None,
        )
        name = "response.output_audio_transcript.done" if self.ga else "response.audio_transcript.done"
        if heard is None:
            self._tell(record, {"type": name, "response_id": "", "output_index": 0, **part})

    def _cut(self, record: JournalRecord) -> None:
        fields = record.fields
        key = (text_of(fields, "item_id"), int_of(fields, "content_index"))
        end = int_of(fields, "audio_end_ms")
        words = self.agent_words.get(key, Words(""))
        self.agent_words[key] = replace(words, cut_ms=end if words.cut_ms is None else min(end, words.cut_ms))
        self._tell(
            record,
            {
                "type": "conversation.item.truncated",
                "item_id": key[0],
                "content_index": key[1],
                "audio_end_ms": end,
            },
        )

    def _call(self, record: JournalRecord) -> None:
        call_id, name = text_of(record.fields, "call_id"), text_of(record.fields, "tool")
        arguments = text_of(record.fields, "arguments")
        self.calls[call_id] = (name, arguments)
        item = {"id": _call_item(call_id), "type": "function_call", "status": "completed", "call_id": call_id}
        item |= {"name": name, "arguments": arguments}
        told = {"type": "response.output_item.done", "response_id": "", "output_index": 0, "item": item}
        self._tell(record, told)

    def _tell(self, record: JournalRecord, payload: dict[str, Any]) -> None:
        event_id = f"parley_restored_{record.attempt}_{record.sequence}"
        payload = {"type": payload["type"], "event_id": event_id, **payload}
        self.told.append(Told(record.attempt, record.event_sequence, payload))

    # At the end

    def whole(self) -> Restored:
        self._complete_calls()
        self._complete_messages()
        items = tuple(self.items.values())
        kept = tuple(body for body in items if not self._wordless_turn(body))
        self.lost_turns += len(items) - len(kept)
        answered = {text_of(b, "call_id") for b in kept if b.get("type") == "function_call_output"}
        calls = [
            KnownCall(call_id, text_of(body, "name"), text_of(body, "arguments"), call_id in answered)
            for body in kept
            if body.get("type") == "function_call" and (call_id := text_of(body, "call_id"))
        ]
        known = {text_of(body, "id") for body in kept}
        return Restored(
            self.attempt,
            "journal",
            items=kept,
            words={key: words for key, words in self.agent_words.items() if key[0] in known and words.text},
            calls=tuple(calls),
            changes=self.changes,
            state=self.state,
            told=tuple(self.told),
            degraded=self._missing(),
        )

    def _complete_calls(self) -> None:
        """A call or a result that the provider had no time to tell of."""
        items_of = {
            text_of(body, "call_id"): item_id
            for item_id, body in self.items.items()
            if body.get("type") == "function_call"
        }
        given = {
            text_of(body, "call_id")
            for body in self.items.values()
            if body.get("type") == "function_call_output"
        }
        own = {item_id for item_id, body in self.items.items() if body.get("type") == "mcp_call"}
        for call_id, (name, arguments) in self.calls.items():
            if call_id in items_of or call_id in own:
                continue
            item_id = items_of[call_id] = _call_item(call_id)
            body = {"id": item_id, "type": "function_call", "status": "completed", "call_id": call_id}
            self.items[item_id] = {**body, "name": name, "arguments": arguments}
        for call_id, output in self.results.items():
            call = items_of.get(call_id)
            if call is None or call_id in given:
                continue
            item_id = f"out_{call_id}"[:MAX_ID]
            body = {"id": item_id, "type": "function_call_output", "call_id": call_id, "output": output}
            _insert(self.items, item_id, body, call)

    def _complete_messages(self) -> None:
        for (item_id, index), text in self.user_words.items():
            body = self.items.setdefault(item_id, _message(item_id, "user"))
            _part(body, index, "input_audio")["transcript"] = text
        spoken = "output_audio" if self.ga else "audio"
        for (item_id, index), words in self.agent_words.items():
            if not words.text:
                continue
            body = self.items.setdefault(item_id, _message(item_id, "assistant"))
            _part(body, index, spoken)["transcript"] = None

    def _wordless_turn(self, body: Payload) -> bool:
        """What the caller said, and nobody knows what it was."""
        parts = body.get("content")
        if body.get("role") != "user" or not isinstance(parts, list):
            return False
        return any(
            isinstance(part, Mapping) and part.get("type") == "input_audio" and not part.get("transcript")
            for part in parts
        )

    def _missing(self) -> str:
        found = []
        if self.lost_turns:
            found.append(f"{self.lost_turns} turns of the caller without a transcript")
        if self.omitted:
            found.append(f"{self.omitted} items that were too large for the journal")
        if self.unread:
            found.append("a checkpoint of another version")
        return f"not carried over: {', '.join(found)}" if found else ""


def from_journal(
    records: Iterable[JournalRecord], *, ga: bool, holes: int = 0, cut: bool = False
) -> Restored:
    """A conversation from its journal. `holes`: records that are missing in between; `cut`: so are the
    first."""
    rebuild = _Rebuild(ga)
    for record in records:
        rebuild.feed(record)
    restored = rebuild.whole()
    missing = [restored.degraded] if restored.degraded else []
    if holes:
        missing.append(f"{holes} records of the journal are missing")
    if cut:
        missing.append("the beginning of the journal is missing")
    return replace(restored, degraded="; ".join(missing))


def holes_in(numbers: Sequence[tuple[int, int]]) -> int:
    """How many records are missing among these attempts and sequences, in order; each attempt begins at 1."""
    missing = 0
    attempt, last = 0, 0
    for number, sequence in numbers:
        if number != attempt:
            attempt, last = number, 0
        missing += max(0, sequence - last - 1)
        last = sequence
    return missing


def _insert(
    items: OrderedDict[str, dict[str, Any]], item_id: str, body: dict[str, Any], previous: str
) -> None:
    """Behind `previous`; at the end where it is not known."""
    ids = list(items)
    items[item_id] = body
    if previous in items and previous != item_id:
        for later in ids[ids.index(previous) + 1 :]:
            items.move_to_end(later)


def _call_item(call_id: str) -> str:
    return f"item_{call_id}"[:MAX_ID]


def _message(item_id: str, role: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": role, "status": "completed", "content": []}


def _part(body: dict[str, Any], index: int, kind: str) -> dict[str, Any]:
    content = body.get("content")
    if not isinstance(content, list):
        content = body["content"] = []
    while len(content) <= index:
        content.append({"type": kind})
    part = content[index]
    assert isinstance(part, dict)
    return part


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
