"""`kubectl explain` has a sentence for every field of every kind, and every kind can be selected by what
people ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = sorted((Path(__file__).resolve().parents[3] / "charts/parley/files/crds").glob("*.yaml"))


def version(path: Path) -> Any:
    return yaml.safe_load(path.read_text())["spec"]["versions"][0]


def fields(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    yield where, schema
    for name, field in schema.get("properties", {}).items():
        # The API server describes metadata itself.
        if where or name != "metadata":
            yield from fields(field, f"{where}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{where}[]")


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_every_field_is_described(path: Path) -> None:
    found = dict(fields(version(path)["schema"]["openAPIV3Schema"], ""))
    assert len(found) > 30
    bare = [where for where, schema in found.items() if not schema.get("description", "").strip()]
    assert bare == []
    ends = {where: schema["description"].rstrip()[-1:] for where, schema in found.items()}
    assert [where for where, end in ends.items() if end not in (".", ">", ")")] == []


def paths(schema: Any) -> set[str]:
    return {where for where, _ in fields(schema, "")}


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_columns_and_selectors_lead_to_fields(path: Path) -> None:
    found = version(path)
    known = paths(found["schema"]["openAPIV3Schema"]) | {".metadata.creationTimestamp"}
    columns = [column["jsonPath"] for column in found["additionalPrinterColumns"]]
    selectors = [selector["jsonPath"] for selector in found.get("selectableFields", [])]
    # A column may pick an entry of a list.
    assert {p for p in (*columns, *selectors) if "[?" not in p} <= known


def test_sessions_are_selected_by_phase_pool_and_agent() -> None:
    (path,) = [path for path in CRDS if path.stem == "voicesessions"]
    selectors = {selector["jsonPath"] for selector in version(path)["selectableFields"]}
    assert selectors >= {".status.phase", ".status.pool", ".spec.agentRef.name"}
