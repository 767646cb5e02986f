"""The JSON of `parley.events.v1` written from records: what protobuf's own writer gives, for less.

The fields of every message are read from the descriptors once. What is not as usual (a value of another
type, a kind of field that no record has today) is left to protobuf, which takes it or says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from parley.events.v1 import events_pb2

from parley_worker.core.records import EventRecord

_INT32: Final = 2**31
_INT64: Final = 2**63
_encode = msgspec.json.Encoder().encode


class _Unusual(Exception):
    """Left to protobuf."""


# Each writer gives what stands in the JSON, None for a default, which does not stand there.


def _text(value: object) -> str | None:
    if value.__class__ is not str:
        raise _Unusual
    return value or None


def _small(value: object) -> int | None:
    if value.__class__ is not int or not -_INT32 <= value < _INT32:
        raise _Unusual
    return value or None


def _large(value: object) -> str | None:
    if value.__class__ is not int or not -_INT64 <= value < _INT64:
        raise _Unusual
    return str(value) if value else None


def _real(value: object) -> float | None:
    if value.__class__ is not float or not math.isfinite(value):
        raise _Unusual
    # Minus zero is not the default.
    return value if value or math.copysign(1.0, value) < 0 else None


def _flag(value: object) -> bool | None:
    if value.__class__ is not bool:
        raise _Unusual
    return value or None


def _moment(value: object) -> str:
    if value.__class__ is not float:
        raise _Unusual
    return moment(value)


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment(seconds: float) -> str:
    """Unix seconds as RFC 3339 to the microsecond, with 0, 3 or 6 digits of fraction as protobuf does."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    if not micros:
        return _second(whole) + "Z"
    if not micros % 1000:
        return f"{_second(whole)}.{micros // 1000:03d}Z"
    return f"{_second(whole)}.{micros:06d}Z"


def instant(seconds: float) -> str:
    """As `moment`, with 6 digits always."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{micros:06d}Z"


_WRITERS: Final[dict[int, Callable[[object], Any]]] = {
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_INT32: _small,
    FieldDescriptor.CPPTYPE_INT64: _large,
    FieldDescriptor.CPPTYPE_DOUBLE: _real,
    FieldDescriptor.CPPTYPE_BOOL: _flag,
}


@dataclass(frozen=True, slots=True)
class _Form:
    """How one type is written: its own JSON name, and name and writer of each field."""

    name: str
    fields: dict[str, tuple[str, Callable[[object], Any]]]


def _writer(field: FieldDescriptor) -> Callable[[object], Any] | None:
    if field.is_repeated or field.type == FieldDescriptor.TYPE_BYTES:
        return None
    if field.message_type is not None:
        return _moment if field.message_type.full_name == "google.protobuf.Timestamp" else None
    return None if field.has_presence else _WRITERS.get(field.cpp_type)


def _forms(holder: Descriptor) -> dict[str, _Form]:
    """Every type of record that can be written here."""
    forms = {}
    for part in holder.fields:
        if part.message_type is None or part.containing_oneof is None:
            continue
        writers = {field.name: (field.json_name, _writer(field)) for field in part.message_type.fields}
        known = {name: (to, writer) for name, (to, writer) in writers.items() if writer is not None}
        if len(known) == len(writers):
            forms[part.name] = _Form(part.json_name, known)
    return forms


_FORMS: Final = {
    "event": _forms(events_pb2.SessionEvent.DESCRIPTOR),
    "journal": _forms(events_pb2.JournalEntry.DESCRIPTOR),
}


def write(record: EventRecord, worker: str, instance: str) -> bytes | None:
    """The record's JSON; None when it is to be written by protobuf."""
    form = _FORMS[record.kind].get(record.type)
    if form is None:
        return None
    part: dict[str, Any] = {}
    try:
        for name, value in record.fields.items():
            if value is None:
                continue
            to, writer = form.fields[name]
            written = writer(value)
            if written is not None:
                part[to] = written
        key = record.key
        whole: dict[str, Any] = {"namespace": key.namespace} if key.namespace else {}
        if record.kind == "event":
            whole |= {"name": key.name, "worker": worker, "workerInstanceId": instance}
        whole["sessionUid"] = key.uid
        whole["attempt"] = key.attempt
        whole["sequence"] = str(record.sequence)
        whole["occurTime"] = moment(record.at)
        if record.event_sequence:
            whole["eventSequence"] = str(record.event_sequence)
        whole[form.name] = part
        return _encode(whole)
    except (_Unusual, KeyError, UnicodeEncodeError):
        return None
