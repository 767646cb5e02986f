"""What a provider holds of one conversation, followed from outside: items in order, and the session. Pure.

Fed with server events, with the client events that were sent, and with the durations of audio deltas; so it
can be built from a live connection or from a record of one. Both shapes are read alike; `canonical` is what
the model sees, in words that do not depend on the shape.
"""

from __future__ import annotations

import binascii
import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from parley_realtime.protocol.alignment import Alignment
from parley_realtime.protocol.held import HeldAudio

Payload = Mapping[str, Any]
MAX_ITEMS = 1000
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_MS = 2**31 - 1
MAX_HELD_BYTES = 1024 * 1024
MAX_ITEM_BYTES = 2 * 1024 * 1024
_OWN_FIELDS = frozenset({"id", "object", "type", "status", "role", "content", "previous_item_id"})
_NEW_ITEM = frozenset({"conversation.item.added", "conversation.item.created", "conversation.item.done"})
PROVIDER_MAKES = frozenset({"mcp_list_tools"})
"""Kinds of items that every connection gets from its provider."""
_TEXT_DELTA = frozenset({"response.output_text.delta", "response.text.delta"})
_TEXT_DONE = frozenset({"response.output_text.done", "response.text.done"})
WORDS_DELTA = frozenset({"response.output_audio_transcript.delta", "response.audio_transcript.delta"})
_WORDS_DONE = frozenset({"response.output_audio_transcript.done", "response.audio_transcript.done"})
STREAMED = _TEXT_DELTA | WORDS_DELTA
"""Types of events that carry a piece of what is being said, many to a response."""
_TRANSCRIPT = "conversation.item.input_audio_transcription"
_MAX_UNBOUND = 64


def _nothing(one: Payload = MappingProxyType({})) -> Payload:
    """The same for all that has none: an empty dictionary each would be a tenth of what a turn takes."""
    return one


@dataclass(slots=True)
class Part:
    """A content part. `kind`: input_text, input_audio, input_image, text or audio (assistant's).

    `text` is None while the words of caller audio are not known; `audio` holds that audio until they are.
    """

    kind: str
    text: str | None = None
    fields: Payload = field(default_factory=_nothing)
    audio: HeldAudio | None = field(default=None, repr=False)
    alignment: Alignment | None = None
    truncated_ms: int | None = None
    unintelligible: bool = False

    @property
    def words(self) -> str:
        """What of the part counts: of spoken text that was truncated, what was heard."""
        if self.alignment is None:
            return self.text or ""
        heard = self.alignment.text if self.truncated_ms is None else self.alignment.heard(self.truncated_ms)
        return heard or ""


@dataclass(slots=True)
class Item:
    """An item. `fields` is what only its kind has: call_id, name, arguments, output."""

    id: str
    kind: str
    role: str = ""
    parts: list[Part] = field(default_factory=list)
    fields: Payload = field(default_factory=_nothing)
    done: bool = False
    as_text: bool = False
    """Its spoken parts are at the provider as text: it was carried over."""
    left_out: bool = False
    """The provider does not hold it: it was not carried over."""
    too_big: bool = False

    @property
    def size(self) -> int:
        """Characters and held bytes, roughly."""
        parts = sum(
            len(p.words) + (p.audio.takes if p.audio else 0) + sum(len(str(v)) for v in p.fields.values())
            for p in self.parts
        )
        return parts + sum(len(str(value)) for value in self.fields.values())

    @property
    def audio(self) -> bytes:
        """What is held of the caller's audio."""
        return b"".join(part.audio.whole() for part in self.parts if part.audio)

    @property
    def audible(self) -> bool:
        """Whether any of the caller's audio is held."""
        return any(part.audio for part in self.parts)

    @property
    def wordless(self) -> bool:
        """A message in which nothing is left to be told."""
        return (
            self.kind == "message"
            and not self.too_big
            and not any(
                p.words.strip() or p.kind == "input_image" or (p.kind == "input_audio" and p.text is None)
                for p in self.parts
            )
        )

    def awaits_words(self) -> bool:
        """Caller audio of which no transcript came."""
        return any(part.kind == "input_audio" and part.text is None for part in self.parts)

    @property
    def transcript_comes(self) -> bool:
        """Caller audio whose transcript is on its way: carried-over audio is not transcribed any more."""
        return not self.as_text and any(
            p.kind == "input_audio" and p.text is None and not p.unintelligible for p in self.parts
        )

    def canonical(self) -> dict[str, Any]:
        """What the model sees of it."""
        body: dict[str, Any] = {"id": self.id, "type": self.kind}
        if self.kind != "message":
            return {**body, **self.fields}
        images = [dict(part.fields) for part in self.parts if part.kind == "input_image"]
        words = " ".join(part.words for part in self.parts if part.words)
        return body | {"role": self.role, "words": words} | ({"images": images} if images else {})


class ConversationHistory:
    """See the module. Bounded: beyond `MAX_ITEMS` items or `MAX_TEXT_BYTES` the oldest go first, counted.

    Audio of turns without a transcript is held up to `MAX_HELD_BYTES` as it came, the newest; the last turn
    may be longer while its transcript is awaited. With `packs` the last is halved and all others are packed.
    A tool's result goes together with its call. An item larger than `MAX_ITEM_BYTES` is kept by name only.
    """

    def __init__(
        self,
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_TEXT_BYTES,
        max_held: int = MAX_HELD_BYTES,
        *,
        packs: bool = False,
    ) -> None:
        self._max_held, self._packs = max_held, packs
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._max_items, self._max_bytes = max_items, max_bytes
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._holding: dict[str, None] = {}
        """Ids of items that hold audio, or did; in the order in which they came to it."""
        self._mute: dict[str, None] = {}
        """Ids of items whose audio was let go, or never held, before their words were known."""
        self._unbound: list[str] = []
        self._updates: list[tuple[str, Payload]] = []
        self.wanted: dict[str, Any] = {}
        """What the client asked the session to be, all accepted updates in one."""
        self.update_type = "session.update"
        self.session: Payload = {}
        """What the provider says the session is."""
        self.forgotten = 0
        self.version = 0

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def get(self, item_id: str) -> Item | None:
        """The item, or None."""
        return self._items.get(item_id)

    @property
    def last(self) -> Item | None:
        """The newest item."""
        return next(reversed(self._items.values()), None)

    def before(self, item_id: str) -> str | None:
        """The id in front of an item that still has something to tell; None at the beginning."""
        previous = None
        for item in self._items.values():
            if item.id == item_id:
                return previous
            if not item.wordless and item.kind not in PROVIDER_MAKES:
                previous = item.id
        return None

    def told(self) -> list[Item]:
        """The items that are carried over: all but wordless messages and what providers make themselves."""
        return [i for i in self._items.values() if not i.wordless and i.kind not in PROVIDER_MAKES]

    def canonical(self) -> list[dict[str, Any]]:
        """What the model sees, in order."""
        return [item.canonical() for item in self.told()]

    # Fed

    def client(self, event: Payload) -> None:
        """A client event went out; what it changes is known only when the provider says so, images aside."""
        kind, session = _text(event, "type"), event.get("session")
        if kind in ("session.update", "transcription_session.update") and isinstance(session, Mapping):
            self._updates.append((_text(event, "event_id"), session))
            self.update_type = kind

    def audio(self, item_id: str, content_index: int, milliseconds: float) -> None:
        """An audio delta of an answer came."""
        item = self._items.get(item_id)
        if item is not None:
            _spoken(item, content_index).audio(milliseconds)

    def server(self, payload: Payload) -> None:
        """A server event came."""
        kind = payload.get("type")
        if not isinstance(kind, str):
            return
        if kind in _NEW_ITEM:
            self._on_item(payload, done=kind.endswith("done"))
        elif kind.startswith("response."):
            self._on_response(kind, payload)
        elif kind.startswith(_TRANSCRIPT):
            self._on_transcript(kind, payload)
        elif kind == "input_audio_buffer.committed":
            self._place({"id": payload.get("item_id"), "type": "message", "role": "user"}, payload)
        elif kind == "conversation.item.truncated":
            self.truncate(
                _text(payload, "item_id"), payload.get("content_index"), payload.get("audio_end_ms")
            )
        elif kind == "conversation.item.deleted":
            self.delete(_text(payload, "item_id"))
        elif kind in ("session.updated", "transcription_session.updated"):
            self._on_session(payload)
        elif kind in ("session.created", "transcription_session.created"):
            self.session = _object(payload, "session")
        elif kind == "error":
            self.drop_update(_text(_object(payload, "error"), "event_id"))

    def drop_update(self, event_id: str) -> None:
        """A session update was refused, or will be sent again."""
        self._updates = [u for u in self._updates if not event_id or u[0] != event_id]

    def truncate(self, item_id: str, content_index: object, audio_end_ms: object) -> None:
        """Only so much of an answer was heard. What was cut once is never made longer."""
        item = self._items.get(item_id)
        index = content_index if isinstance(content_index, int) else 0
        if item is None or not isinstance(audio_end_ms, int) or not 0 <= index < len(item.parts):
            return
        part = item.parts[index]
        if part.alignment is not None:
            end = min(max(0, audio_end_ms), MAX_MS)
            part.truncated_ms = end if part.truncated_ms is None else min(end, part.truncated_ms)
            self._changed(item)

    def delete(self, item_id: str) -> None:
        """An item is gone."""
        if self._items.pop(item_id, None) is not None:
            self._mute.pop(item_id, None)
            self._bytes -= self._sizes.pop(item_id, 0)
            self.version += 1

    def hold(self, item_id: str, audio: HeldAudio | None, *, awaited: bool = False) -> None:
        """Keep the audio of a turn until its transcript comes; all of it while that is `awaited`."""
        item = self._items.get(item_id)
        if item is None or item.role != "user":
            return
        if not item.parts:
            item.parts.append(Part("input_audio"))
        part = item.parts[0]
        if part.kind == "input_audio" and part.text is None:
            part.audio = audio
            (self._holding if audio else self._mute)[item_id] = None
            self._changed(item)
            self._let_go(newest=part, spared=part if awaited else None)

    def _let_go(self, newest: Part, spared: Part | None) -> None:
        """Hold at most `max_held` bytes of audio besides what is spared: the oldest goes first. What stays is
        packed, but for the newest."""
        held = 0
        holding = [item for item in map(self._items.get, self._holding) if item is not None]
        self._holding = {item.id: None for item in holding if item.audible}
        for item in reversed(holding):
            for part in item.parts:
                if part.audio is None:
                    continue
                held += part.audio.size
                if part is not spared and held > self._max_held:
                    self._mute[item.id] = part.audio = None
                    self._changed(item)
                elif self._packs and part is not newest and not part.audio.packed:
                    part.audio.pack()
                    self._changed(item)

    @property
    def mute(self) -> bool:
        """Whether there is an item of which neither the words nor the audio are known."""
        while (item_id := next(iter(self._mute), None)) is not None:
            item = self._items.get(item_id)
            if item is not None and item.awaits_words() and not item.audible:
                return True
            del self._mute[item_id]
        return False

    def let_all_go(self) -> None:
        """Hold no audio any more."""
        for item in filter(None, map(self._items.get, self._holding)):
            for part in item.parts:
                if part.audio is not None:
                    self._mute[item.id] = part.audio = None
            self._changed(item)
        self._holding = {}

    def given(self, item_body: Payload) -> None:
        """The provider took an item that the client made: keep the audio in it, no event tells it again."""
        item = self._items.get(_text(item_body, "id"))
        content = item_body.get("content")
        if item is None or not isinstance(content, list):
            return
        for part, body in zip(item.parts, content, strict=False):
            if part.kind == "input_audio" and part.text is None and isinstance(body, Mapping):
                self._holding[item.id] = None
                with contextlib.suppress(ValueError):
                    part.audio = HeldAudio(binascii.a2b_base64(_text(body, "audio")))
        self._changed(item)

    def cut_off(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The connection is gone: what was being made ends where it is.

        Gives the ids of half-spoken messages, and of items that are gone: calls whose arguments are not whole
        and messages without a word.
        """
        half: list[str] = []
        gone: list[str] = []
        for item in [i for i in self._items.values() if not i.done and i.role != "user"]:
            if item.kind not in ("message", "function_call_output") or item.wordless:
                gone.append(item.id)
                continue
            item.done = True
            for part in item.parts:
                if part.alignment is not None and not part.alignment.complete:
                    half.append(item.id)
                    end = int(part.alignment.audio_ms)
                    part.truncated_ms = end if part.truncated_ms is None else min(end, part.truncated_ms)
            self._changed(item)
            if item.wordless:
                gone.append(item.id)
        for item_id in gone:
            self.delete(item_id)
        return tuple(dict.fromkeys(half)), tuple(gone)

    # Inside

    def _on_session(self, payload: Payload) -> None:
        self.session = _object(payload, "session")
        if self._updates:
            self.wanted = merged(self.wanted, self._updates.pop(0)[1])

    def _on_item(self, payload: Payload, done: bool) -> None:
        item = self._place(_object(payload, "item"), payload)
        if item is not None and done:
            item.done = True

    def _place(self, body: Payload, payload: Payload) -> Item | None:
        """The item of this id, made behind its predecessor if it is new, with what is new about it."""
        item_id = _text(body, "id")
        if not item_id:
            return None
        item = self._items.get(item_id)
        if item is None:
            item = Item(item_id, _text(body, "type") or "message", _text(body, "role"))
            self._insert(item, payload.get("previous_item_id"))
        self._take(item, body)
        self._changed(item)
        self._bound()
        return item

    def _insert(self, item: Item, previous: object) -> None:
        """Behind `previous`; at the beginning for `root`; at the end where it is not told or not known."""
        newest = next(reversed(self._items), None)
        told = previous == "root" or (isinstance(previous, str) and previous in self._items)
        if not told or previous == newest:
            self._items[item.id] = item
            return
        ids = list(self._items)
        at = 0 if previous == "root" else ids.index(str(previous)) + 1
        self._items[item.id] = item
        for item_id in ids[at:]:
            self._items.move_to_end(item_id)

    def _take(self, item: Item, body: Payload) -> None:
        item.role = _text(body, "role") or item.role
        if item.kind != "message":
            own = {k: v for k, v in body.items() if k not in _OWN_FIELDS and v is not None}
            item.fields = {**item.fields, **own}
            return
        content = body.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, Mapping):
                _take_part(item, index, part)

    def _on_response(self, kind: str, payload: Payload) -> None:
        if kind == "response.created":
            response = _object(payload, "response")
            if "conversation_id" in response and response["conversation_id"] is None:
                self._unbound.append(_text(response, "id"))
                del self._unbound[:-_MAX_UNBOUND]
            return
        if kind in ("response.output_item.added", "response.output_item.done"):
            item_id = _text(_object(payload, "item"), "id")
            if item_id in self._items or _text(payload, "response_id") not in self._unbound:
                self._on_item({"item": payload.get("item")}, done=kind.endswith("done"))
            return
        item = self._items.get(_text(payload, "item_id"))
        if item is None:
            return
        if kind in WORDS_DELTA and item.kind == "message":
            delta = _text(payload, "delta")
            _spoken(item, _part_index(payload)).words(delta)
            self._grown(item, len(delta))
            return
        if item.kind == "message":
            _answer_part(item, kind, payload)
        elif kind == "response.function_call_arguments.done" or kind == "response.mcp_call_arguments.done":
            item.fields = {**item.fields, "arguments": _text(payload, "arguments")}
        self._changed(item)

    def _on_transcript(self, kind: str, payload: Payload) -> None:
        item = self._items.get(_text(payload, "item_id"))
        if item is None or not kind.endswith((".completed", ".failed")):
            return
        index = payload.get("content_index")
        index = index if isinstance(index, int) and 0 <= index < 16 else 0
        while len(item.parts) <= index:
            item.parts.append(Part("input_audio"))
        part = item.parts[index]
        if kind.endswith(".completed"):
            part.text, part.audio = _text(payload, "transcript"), None
        else:
            part.unintelligible = True
            part.text = None if part.audio else ""
        self._changed(item)

    def _grown(self, item: Item, characters: int) -> None:
        """As `_changed`, where it is known how much came: counted anew only now and then."""
        known = self._sizes.get(item.id, 0)
        if item.too_big or known + characters > MAX_ITEM_BYTES:
            self._changed(item)
            return
        self._bytes += characters
        self._sizes[item.id] = known + characters
        self.version += 1

    def _changed(self, item: Item) -> None:
        size = item.size
        if size > MAX_ITEM_BYTES:
            item.too_big, item.fields, item.parts = True, _nothing(), []
            size = 0
        self._bytes += size - self._sizes.get(item.id, 0)
        self._sizes[item.id] = size
        self.version += 1

    def _bound(self) -> None:
        while len(self._items) > self._max_items or (self._bytes > self._max_bytes and len(self._items) > 1):
            item = next(iter(self._items.values()))
            self.delete(item.id)
            self.forgotten += 1
            call_id = item.fields.get("call_id")
            if item.kind == "function_call" and call_id:
                for other in list(self._items.values()):
                    if other.kind == "function_call_output" and other.fields.get("call_id") == call_id:
                        self.delete(other.id)
                        self.forgotten += 1


def merged(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """A deep partial update. Objects of another `type` replace each other, as do lists and plain values."""
    result = dict(base)
    for name, value in update.items():
        old = result.get(name)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and old.get("type") == value.get("type", old.get("type"))
        ):
            result[name] = merged(old, value)
        else:
            result[name] = merged({}, value) if isinstance(value, Mapping) else value
    return result


def _take_part(item: Item, index: int, body: Payload) -> None:
    """A content part as an item event shows it; what is known already is not forgotten for an empty field."""
    kind = _text(body, "type").removeprefix("output_")
    while len(item.parts) <= index:
        item.parts.append(Part(kind))
    part = item.parts[index]
    part.kind = kind
    if kind == "audio":
        alignment = _spoken(item, index)
        if not alignment.text:
            alignment.text = _text(body, "transcript")
    elif kind == "input_image":
        part.fields = {k: body[k] for k in ("image_url", "detail") if k in body}
    elif kind == "input_audio":
        if isinstance(transcript := body.get("transcript"), str) and transcript:
            part.text, part.audio = transcript, None
    elif isinstance(body.get("text"), str):
        part.text = body["text"] or part.text


def _answer_part(item: Item, kind: str, payload: Payload) -> None:
    index = _part_index(payload)
    if kind in _TEXT_DELTA or kind in _TEXT_DONE:
        while len(item.parts) <= index:
            item.parts.append(Part("text", ""))
        part = item.parts[index]
        delta = _text(payload, "delta")
        part.text = (part.text or "") + delta if kind in _TEXT_DELTA else _text(payload, "text")
    elif kind in _WORDS_DONE:
        _spoken(item, index).finish(_text(payload, "transcript"))


def _part_index(payload: Payload) -> int:
    index = payload.get("content_index")
    return index if isinstance(index, int) and 0 <= index < 64 else 0


def _spoken(item: Item, index: int) -> Alignment:
    """The alignment of a spoken part, made if it is new."""
    index = min(max(index, 0), 64)
    while len(item.parts) <= index:
        item.parts.append(Part("audio"))
    part = item.parts[index]
    part.kind = "audio"
    if part.alignment is None:
        part.alignment = Alignment()
    return part.alignment


def _object(fields: Payload, name: str) -> Payload:
    value = fields.get(name)
    return value if value.__class__ is dict or isinstance(value, Mapping) else {}


def _text(fields: Payload, name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
