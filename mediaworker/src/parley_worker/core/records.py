"""Records of a session: facts (events) and content (journal), each gapless per uid and attempt from 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from parley_worker.core.model import SessionKey

RecordKind = Literal["event", "journal"]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One fact or one piece of content.

    `type` is the field name of the oneof in events.v1 (`provider_connected`, `item_done`), `fields` the
    fields of that message under their proto names; a timestamp field is Unix seconds. `at` is Unix seconds.
    Journal fields hold content and stay out of reprs; `event_sequence` is the last conversation event that
    was numbered before.
    """

    kind: RecordKind
    key: SessionKey
    sequence: int
    at: float
    type: str
    fields: Mapping[str, object] = field(default_factory=dict, repr=False)
    event_sequence: int = 0


class EventSink(Protocol):
    """Takes records without ever blocking or raising; what it cannot hold it drops and counts."""

    def publish(self, record: EventRecord) -> None: ...
