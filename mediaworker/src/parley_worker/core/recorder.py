"""Numbers a session's records and keeps its latest conversation events for a caller that comes back."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from parley_worker.core.effects import ConversationEvent, Publish
from parley_worker.core.model import SessionKey
from parley_worker.core.records import EventRecord


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

    def unix(self, now: float) -> float:
        """`now` as Unix seconds."""
        return now + self._offset

    def event(self, type_: str, now: float, **fields: object) -> Publish:
        """A fact, without content."""
        self._events += 1
        return Publish(EventRecord("event", self._key, self._events, self.unix(now), type_, fields))

    def journal(self, type_: str, now: float, **fields: object) -> list[Publish]:
        """A piece of content; nothing under privacy."""
        if self._privacy:
            return []
        self.journal_last += 1
        return [Publish(EventRecord("journal", self._key, self.journal_last, self.unix(now), type_, fields))]


class Replay:
    """Conversation events, numbered from 1; the latest `max_events` and `max_bytes` can be given again."""

    def __init__(self, attempt: int, max_events: int, max_bytes: int) -> None:
        self._attempt = attempt
        self._max_events, self._max_bytes = max_events, max_bytes
        self._kept: deque[ConversationEvent] = deque()
        self._bytes = 0
        self._last = 0

    def add(self, payload: Mapping[str, Any], secret: str = "") -> ConversationEvent:
        """Number an event; `secret` is blotted out of it, should the provider have echoed it."""
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        if secret and secret in text:
            text = text.replace(secret, "***")
        self._last += 1
        event = ConversationEvent(self._last, self._attempt, str(payload.get("type", "")), text)
        self._kept.append(event)
        self._bytes += len(text)
        while len(self._kept) > self._max_events or self._bytes > self._max_bytes:
            self._bytes -= len(self._kept.popleft().event_json)
        return event

    def since(self, sequence: int) -> list[ConversationEvent]:
        """What is still kept after `sequence`."""
        return [event for event in self._kept if event.sequence > sequence]
