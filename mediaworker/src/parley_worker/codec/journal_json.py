"""Journal records read back from the JSON that workers write (`parley.events.v1.JournalEntry`)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from parley.events.v1 import events_pb2

from parley_worker.core.restored import JournalRecord

_COMMON: Final = frozenset({"namespace", "sessionUid", "attempt", "sequence", "occurTime", "eventSequence"})
_LARGE: Final = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _forms() -> dict[str, tuple[str, dict[str, tuple[str, bool]]]]:
    """By JSON name of a record's type: its proto name, and of each field the proto name and whether the JSON
    has a 64-bit number as text."""
    found = {}
    for part in events_pb2.JournalEntry.DESCRIPTOR.oneofs_by_name["content"].fields:
        assert part.message_type is not None
        fields = {f.json_name: (f.name, f.type in _LARGE) for f in part.message_type.fields}
        found[part.json_name] = (part.name, fields)
    return found


_FORMS: Final = _forms()


def read(payload: bytes) -> JournalRecord | None:
    """The record; None when it is none, or of a type that this version does not know."""
    try:
        whole = _decode(payload)
        attempt, sequence = int(whole.get("attempt", 0)), int(whole.get("sequence", 0))
        told = int(whole.get("eventSequence", 0))
        name = next((name for name in whole if name not in _COMMON), "")
        kind, forms = _FORMS[name]
        fields: dict[str, Any] = {}
        for key, value in whole[name].items():
            if key in forms:
                proto, large = forms[key]
                fields[proto] = int(value) if large else value
        return JournalRecord(attempt, sequence, kind, fields, told)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError):
        return None
