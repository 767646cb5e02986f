"""Every fact and every piece of content that the worker's core writes has a place in `parley.events.v1`.

A record that does not fit is dropped at run time, where a test of the core alone does not see it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parley.events.v1 import events_pb2

CORE = Path(__file__).resolve().parents[3] / "mediaworker/src/parley_worker/core"
PLACES: dict[str, Any] = {
    "event": events_pb2.SessionEvent.DESCRIPTOR,
    "journal": events_pb2.JournalEntry.DESCRIPTOR,
}


def records() -> Iterator[tuple[str, str, str, set[str]]]:
    """Where, what kind, which type and which fields: of each call that names its type as it writes it."""
    for path in sorted(CORE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            kind, named = node.func.attr, node.args[0] if node.args else None
            if kind not in PLACES or not isinstance(named, ast.Constant) or not isinstance(named.value, str):
                continue
            fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            yield f"{path.name}:{node.lineno}", kind, named.value, fields


def test_every_record_fits() -> None:
    wrong = []
    for where, kind, type_, fields in records():
        field = PLACES[kind].fields_by_name.get(type_)
        if field is None or field.containing_oneof is None:
            wrong.append(f"{where}: {kind} {type_} is not in parley.events.v1")
            continue
        odd = fields - set(field.message_type.fields_by_name)
        wrong += [f"{where}: {kind} {type_} has no field {name}" for name in sorted(odd)]
    assert wrong == []


def test_the_core_is_read_rightly() -> None:
    found = {(kind, type_) for _, kind, type_, _ in records()}
    assert ("event", "admitted") in found
    assert ("journal", "session_ended") in found
    assert len(found) > 15
