"""Records to NATS messages: subject, CloudEvents headers and the JSON form of `parley.events.v1`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from parley.events.v1 import events_pb2

from parley_worker.codec import events_json
from parley_worker.core.model import SessionKey
from parley_worker.core.records import EventRecord

EVENTS_STREAM, JOURNAL_STREAM = "PARLEY_EVENTS", "PARLEY_JOURNAL"
EVENTS_SUBJECTS, JOURNAL_SUBJECTS = "parley.events.>", "parley.journal.>"
MAX_DIGITS = 18


class RecordError(ValueError):
    """A record that does not fit its message; names kind, type and field, never content."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One NATS message."""

    subject: str
    headers: dict[str, str]
    payload: bytes
    msg_id: str


def msg_id(record: EventRecord) -> str:
    """`<uid>.<attempt>.<sequence>` for the journal, `<uid>.<attempt>.e<sequence>` for events."""
    mark = "e" if record.kind == "event" else ""
    return f"{record.key.uid}.{record.key.attempt}.{mark}{record.sequence}"


def parse_journal_id(text: str) -> tuple[int, int] | None:
    """Attempt and sequence in a journal message's id; None when it is none."""
    parts = text.rsplit(".", 2)
    if len(parts) != 3 or not all(part.isdecimal() and len(part) <= MAX_DIGITS for part in parts[1:]):
        return None
    return int(parts[1]), int(parts[2])


def parse_event_id(text: str) -> tuple[int, int] | None:
    """Attempt and sequence in an event's id; None when it is none."""
    head, mark, sequence = text.rpartition(".e")
    return parse_journal_id(f"{head}.{sequence}") if mark else None


def subject(record: EventRecord) -> str:
    """The subject that the record is published on."""
    key = record.key
    if record.kind == "journal":
        return journal_subject(key)
    return f"parley.events.{key.namespace}.{key.uid}.{record.type.replace('_', '-')}"


def journal_subject(key: SessionKey) -> str:
    return f"parley.journal.{key.namespace}.{key.uid}"


def events_subject(key: SessionKey) -> str:
    """The wildcard over every event of a session."""
    return f"parley.events.{key.namespace}.{key.uid}.>"


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as a protobuf timestamp, exact to the microsecond."""
    micros = round(seconds * 1_000_000)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def encode(record: EventRecord, worker: str, instance: str) -> Encoded:
    """The NATS message of a record; RecordError when the record does not fit."""
    payload = events_json.write(record, worker, instance) or _by_protobuf(record, worker, instance)
    identity = msg_id(record)
    word = record.type.replace("_", "-")
    headers = {
        "Nats-Msg-Id": identity,
        "ce-specversion": "1.0",
        "ce-id": identity,
        "ce-source": f"/parley/workers/{worker}",
        "ce-type": f"dev.parley.{'session' if record.kind == 'event' else 'journal'}.{word}",
        "ce-subject": f"{record.key.namespace}/{record.key.uid}",
        "ce-time": events_json.instant(record.at),
        "content-type": "application/json",
    }
    return Encoded(subject(record), headers, payload, identity)


def _by_protobuf(record: EventRecord, worker: str, instance: str) -> bytes:
    message: Message
    common: dict[str, Any] = {
        "namespace": record.key.namespace,
        "session_uid": record.key.uid,
        "attempt": record.key.attempt,
        "sequence": record.sequence,
        "occur_time": timestamp(record.at),
    }
    if record.kind == "event":
        message = events_pb2.SessionEvent(
            name=record.key.name, worker=worker, worker_instance_id=instance, **common
        )
    else:
        message = events_pb2.JournalEntry(event_sequence=record.event_sequence, **common)
    part = getattr(message, record.type, None)
    if not isinstance(part, Message) or record.type == "occur_time":
        raise RecordError(f"{record.kind} {record.type!r}: parley.events.v1 has no such type")
    part.SetInParent()
    _fill(part, record)
    return json.dumps(MessageToDict(message), ensure_ascii=False, separators=(",", ":")).encode()


def _fill(part: Message, record: EventRecord) -> None:
    known: Mapping[str, object] = part.DESCRIPTOR.fields_by_name
    for name, value in record.fields.items():
        if name not in known:
            raise RecordError(f"{record.kind} {record.type}: no field {name!r}")
        if value is None:
            continue
        try:
            if isinstance(getattr(part, name), Timestamp):
                getattr(part, name).CopyFrom(timestamp(float(value)))  # type: ignore[arg-type]
            else:
                setattr(part, name, value)
        except (TypeError, ValueError) as error:
            kind = type(value).__name__
            raise RecordError(f"{record.kind} {record.type}.{name}: a {kind} does not fit") from error
