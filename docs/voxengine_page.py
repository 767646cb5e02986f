"""docs/voxengine.md: VoxEngine's RealtimeAPIClient against ours, each line with the test that proves it.

What VoxEngine has comes from `parley_realtime.catalogue`, the proofs from `voxengine_proofs`. A cell without
text, a proof that is no test any more or does not speak of its line, and something of ours that no table
names are faults: the page is not written then.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parley_realtime
import voxengine_proofs as proofs
from parley_realtime import beta, catalogue

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = {"ga": parley_realtime.RealtimeAPIClient, "beta": beta.RealtimeAPIClient}
ABSENT = "VoxEngine has none"
OURS = {"Factories and methods": 1, "Parameters": 1, "Enums": 1}
"""Which cell of a table has the name that a proof has to speak of; else the first."""
INTRO = """# VoxEngine's RealtimeAPIClient and ours

Every factory, method, parameter, event and enum of VoxEngine's OpenAI client, Beta and GA, against
`parley_realtime`, with the provider's type on the wire and the test that proves it. `make docs` makes this
page from [the catalogue](../mediaworker/src/parley_realtime/catalogue.py) and fails when a cell is empty or a
test is gone.

Names are spelled the Python way (`sessionUpdate` is `session_update`); names of events are the same to the
letter. GA is `parley_realtime`, Beta is `parley_realtime.beta`. How to use it:
[the library](realtime-client.md) and the guides [greeting first](guides/greeting-first.md),
[barge-in](guides/barge-in.md), [tools](guides/tools.md), [transcription only](guides/transcription-only.md),
[third-party speech](guides/third-party-speech.md) and [hang up by tool](guides/hang-up-by-tool.md).
"""

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def page() -> tuple[str, list[str]]:
    """The text of the page, and what is wrong with it."""
    tables = list(_tables())
    faults = [*_empty_cells(tables), *_unproved(tables), *_unnamed()]
    text = INTRO + "".join(_rendered(title, head, rows) for title, head, rows in tables)
    return text, [f"docs/voxengine.md: {fault}" for fault in faults]


def _tables() -> Iterator[Table]:
    head = ("VoxEngine", "ours", "GA", "Beta", "provider's type", "meaning", "proof")
    yield "Factories and methods", head, [_method(row) for row in catalogue.METHODS]
    head = ("VoxEngine", "ours", "in", "meaning", "proof")
    rows = (*catalogue.PARAMETERS, *catalogue.MEDIA_PARAMETERS)
    yield "Parameters", head, [_parameter(row) for row in rows]
    head = ("VoxEngine", "ours", "provider's type", "payload", "meaning", "proof")
    for shape, title in (("ga", "GA"), ("beta", "Beta")):
        events = [_event(shape, row) for row in catalogue.rows(shape)]
        yield f"{title} events: {len(events)}", head, events
    head = ("VoxEngine", "ours", "`event.data`", "meaning", "proof")
    yield "Media events", head, [row for shape in ("ga", "beta") for row in _media_events(shape)]
    head = ("VoxEngine", "ours", "value", "proof")
    yield "Enums", head, [row for enum in catalogue.ENUMS for row in _members(enum)]
    yield "Rules", ("VoxEngine says", "ours", "proof"), list(proofs.RULES)
    yield "What VoxEngine has not", ("ours", "meaning", "proof"), list(proofs.EXTENSIONS)


def _method(row: catalogue.MethodRow) -> tuple[str, ...]:
    calls = [f"`{row.ours}{call}`" if call else ABSENT for call in (row.ga, row.beta)]
    proof = proofs.METHODS.get(row.ours, "")
    return (
        f"`{row.voxengine}`",
        f"`{row.ours}`",
        *calls,
        f"`{row.wire}`" if row.wire else "none",
        row.meaning,
        proof,
    )


def _parameter(row: catalogue.ParameterRow) -> tuple[str, ...]:
    where = {"both": "GA, Beta", "ga": "GA", "beta": "Beta"}[row.shapes.value]
    return f"`{row.voxengine}`", f"`{row.ours}`", where, row.meaning, proofs.PARAMETERS.get(row.ours, "")


def _event(shape: str, row: catalogue.EventRow) -> tuple[str, ...]:
    own = "any other" if row.name == "Unknown" else "the client's own"
    wire = ", ".join(f"`{kind}`" for kind in row.types(shape)) or own
    payload = f"`payloads.{shape}.{row.name}`"
    proof = proofs.OWN_EVENTS.get(row.name) or proofs.EVENT.format(shape=shape, name=row.name)
    theirs, ours = ("OpenAI", "") if shape == "ga" else ("OpenAI.Beta", "beta.")
    names = (f"`{theirs}.RealtimeAPIEvents.{row.name}`", f"`{ours}RealtimeAPIEvents.{row.name}`")
    return *names, wire, payload, row.meaning, proof


def _media_events(shape: str) -> Iterator[tuple[str, ...]]:
    for row in catalogue.MEDIA_EVENTS:
        space = "OpenAI.Events" if shape == "ga" else "OpenAI.Beta.Events"
        ours = "Events" if shape == "ga" else "beta.Events"
        proof = proofs.MEDIA_EVENT.format(shape=shape)
        yield (
            f"`{space}.{row.name}`",
            f"`{ours}.{row.name}`",
            f"`payloads.{shape}.{row.data}`",
            row.meaning,
            proof,
        )


def _members(enum: catalogue.EnumRow) -> Iterator[tuple[str, ...]]:
    for name, value in enum.members:
        proof = proofs.ENUM.format(name=f"{enum.ours}.{name}")
        yield f"`{enum.voxengine}.{name}`", f"`{enum.ours}.{name}`", f"`{value}`", proof


def _rendered(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    text = f"\n## {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row[:-1]]
        path, _, name = row[-1].partition("::")
        text += f"| {' | '.join(cells)} | [`{name}`](../{path}) |\n"
    return text


def _empty_cells(tables: list[Table]) -> Iterator[str]:
    for title, head, rows in tables:
        for row in rows:
            if len(row) != len(head):
                yield f"{title}: {row[0]} has {len(row)} cells, not {len(head)}"
            for name, cell in zip(head, row, strict=False):
                if not cell.strip():
                    yield f"{title}: the cell {name!r} of {row[0]} is empty"


def _unproved(tables: list[Table]) -> Iterator[str]:
    wanted = {row[-1] for _, _, rows in tables for row in rows if row[-1]}
    there = _collected(sorted({proof.partition("::")[0] for proof in wanted}))
    for title, _, rows in tables:
        for row in rows:
            if not row[-1]:
                continue
            if row[-1] not in there:
                yield f"{title}: the proof of {row[0]} is no test: {row[-1]}"
            elif title != "Rules" and not _speaks_of(row[-1], row[OURS.get(title, 0)]):
                yield f"{title}: the test {row[-1]} does not mention {row[0]}"


def _collected(files: list[str]) -> set[str]:
    """The ids of all tests in these files; a parametrised test is there with and without its parameters."""
    missing = [name for name in files if not (ROOT / name).exists()]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *(f for f in files if f not in missing)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    if run.returncode:
        raise SystemExit(f"the tests of docs/voxengine.md cannot be collected:\n{run.stdout}{run.stderr}")
    found = {line for line in run.stdout.splitlines() if "::" in line}
    return found | {line.partition("[")[0] for line in found}


def _speaks_of(proof: str, name: str) -> bool:
    """Whether the id or the text of a test has the name (what stands behind its last dot)."""
    path, _, test = proof.partition("::")
    word = name.strip("`").partition("(")[0].rsplit(".", 1)[-1]
    return word in test + _source(path, test.partition("[")[0].split("::"))


def _source(path: str, names: list[str]) -> str:
    text = (ROOT / path).read_text()
    body: list[Any] = ast.parse(text).body
    node: Any = None
    for name in names:
        node = next((n for n in body if getattr(n, "name", None) == name), None)
        if node is None:
            return ""
        body = node.body
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def _unnamed() -> Iterator[str]:
    """What is public in the clients and their parameters, and in no table."""
    named = {row.ours for row in (*catalogue.METHODS, *catalogue.PARAMETERS)}
    named |= {row[0].strip("`").partition("(")[0] for row in proofs.EXTENSIONS}
    for shape, client in CLIENTS.items():
        for name in dir(client):
            inside = name.startswith(("_", "media")) or name in proofs.INSIDE
            if not inside and name not in named:
                yield f"{shape}: the method {name} is in no table"
    for field in dataclasses.fields(parley_realtime.RealtimeAPIClientParameters):
        if field.name not in named:
            yield f"the parameter {field.name} is in no table"
