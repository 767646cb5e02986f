"""The guard of docs/voxengine.md: an empty cell, a test that is gone or speaks of something else, a gap."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
PROOF = "tests/unit/repo/test_voxengine_page.py::test_a_table_without_a_fault[session_update]"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield load_script(ROOT / "docs" / "voxengine_page.py")
    for name in ("voxengine_page", "voxengine_proofs"):
        sys.modules.pop(name, None)


def table(*cells: str) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    return [("Events", ("VoxEngine", "meaning", "proof"), [cells])]


@pytest.mark.parametrize("name", ["session_update"])
def test_a_table_without_a_fault(page: ModuleType, name: str) -> None:
    assert list(page._empty_cells(table(f"`{name}`", "Something.", PROOF))) == []


@pytest.mark.parametrize("cells", [("`a`", "", PROOF), ("`a`", " ", PROOF), ("`a`", "x", ""), ("`a`", "x")])
def test_an_empty_cell(page: ModuleType, cells: tuple[str, ...]) -> None:
    assert list(page._empty_cells(table(*cells)))


def test_proofs_are_tests_that_speak_of_their_line(page: ModuleType) -> None:
    """One good line, three whose test is gone in one way or another, one whose test is another's."""
    gone = [
        PROOF.replace("session_update", "session_updated"),
        PROOF.replace("test_a_table", "test_no_table"),
        "tests/unit/repo/test_gone.py::test_gone",
    ]
    tables = [*table("`session_update`", "x", PROOF), *table("`session_create`", "x", PROOF)]
    for proof in gone:
        tables += table("`session_update`", "x", proof)
    assert list(page._unproved(tables)) == [
        f"Events: the test {PROOF} does not mention `session_create`",
        *(f"Events: the proof of `session_update` is no test: {proof}" for proof in gone),
    ]


def test_what_no_table_names(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(page._unnamed()) == []
    client = type("Client", (page.CLIENTS["ga"],), {"brand_new": lambda self: None})
    monkeypatch.setitem(page.CLIENTS, "ga", client)
    assert list(page._unnamed()) == ["ga: the method brand_new is in no table"]
