"""Numbers a session's records, and makes what comes from a provider fit for the messages that carry it.

That is: no text that is not UTF-8, no audio, no credential of a tool, no event larger than a message may be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from parley_worker.core.effects import Publish
from parley_worker.core.fields import without_tool_credentials
from parley_worker.core.model import SessionKey
from parley_worker.core.records import EventRecord

MAX_FIELD_BYTES = 700_000
"""Of one field of a journal record as JSON: NATS takes messages of 1 MiB unless told otherwise."""
_SURELY_CARRIED = MAX_FIELD_BYTES // 6
"""Characters: none takes more than 6 bytes in JSON."""


class Recorder:
    """Makes events and journal records, each without gaps from 1. With `privacy` there is no journal.

    `unix_offset` is wall time less monotonic time when the session was made.
    """

    def __init__(self, key: SessionKey, unix_offset: float, privacy: bool) -> None:
        self._key = key
        self._offset = unix_offset
        self._privacy = privacy
        self._events = 0
        self.journal_last = 0
        self.event_sequence = 0
        """Of the last conversation event."""

    def unix(self, now: float) -> float:
        """`now` as Unix seconds."""
        return now + self._offset

    def event(self, type_: str, now: float, **fields: object) -> Publish:
        """A fact, without content."""
        self._events += 1
        _mend(fields)
        return Publish(EventRecord("event", self._key, self._events, self.unix(now), type_, fields))

    def journal(self, type_: str, now: float, **fields: object) -> list[Publish]:
        """A piece of content; nothing under privacy. A field too large for a NATS message is cut short."""
        if self._privacy:
            return []
        self.journal_last += 1
        _mend(fields)
        for name, value in fields.items():
            if isinstance(value, str) and len(value) > _SURELY_CARRIED:
                fields[name] = _carried(name, value)
        at, told = self.unix(now), self.event_sequence
        return [Publish(EventRecord("journal", self._key, self.journal_last, at, type_, fields, told))]


def _carried(name: str, value: object) -> object:
    """A field as a record can carry it: of JSON that is too long the identity, of text the beginning."""
    if not isinstance(value, str) or len(value) <= _SURELY_CARRIED:
        return value
    if len(json.dumps(value, ensure_ascii=False).encode()) <= MAX_FIELD_BYTES:
        return value
    size = len(value.encode())
    if not name.endswith("_json"):
        return f"{value[:_SURELY_CARRIED]}... [{size} bytes in all]"
    whole = json.loads(value)
    kept = {key: whole[key] for key in ("id", "type", "role", "call_id", "name") if key in whole}
    return to_json({**kept, "parley_omitted_bytes": size})


def well_formed(value: object) -> object:
    """Text without halves of surrogate pairs: JSON can hold them, UTF-8 cannot. Other values as they are."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()


def _mend(fields: dict[str, object]) -> None:
    for name, value in fields.items():
        if isinstance(value, str) and not value.isascii():
            fields[name] = well_formed(value)


_encode = msgspec.json.Encoder().encode


def to_json(value: Mapping[str, Any]) -> str:
    """Compact JSON that UTF-8 can carry."""
    if value.__class__ is dict:
        try:
            return _encode(value).decode()
        except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
            pass
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text if text.isascii() else str(well_formed(text))


def showable(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """A server event without audio in its item and without credentials in the tools of its session."""
    item, session = payload.get("item"), payload.get("session")
    if isinstance(item, Mapping):
        payload = {**payload, "item": without_audio(item)}
    if isinstance(session, Mapping):
        payload = {**payload, "session": without_tool_credentials(session)}
    return payload


def without_audio(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An item without the audio of its content parts."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    parts = [{k: v for k, v in p.items() if k != "audio"} if isinstance(p, dict) else p for p in content]
    return {**item, "content": parts}
