"""What may be compiled: the list of mediaworker/compile.py, and how a worker knows which it runs."""

from __future__ import annotations

import ast
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from parley_worker.compiled import WITNESS, is_compiled
from parley_worker.core import media_path
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
COROUTINES = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)


COMPILE = load_script(ROOT / "mediaworker/compile.py", "worker_compile")


def parsed(module: str) -> ast.Module:
    return ast.parse((COMPILE.SOURCES / COMPILE.path_of(module)).read_text())


def generic_with_slots(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            slots = any("slots=True" in ast.unparse(each) for each in node.decorator_list)
            if slots and any("Generic[" in ast.unparse(base) for base in node.bases):
                yield node.name


@pytest.mark.parametrize("module", COMPILE.MODULES)
def test_a_compiled_module_has_nothing_that_compiles_wrongly(module: str) -> None:
    tree = parsed(module)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, COROUTINES)] == []
    assert list(generic_with_slots(tree)) == []


def test_what_compiles_wrongly_is_seen() -> None:
    wrong = ast.parse("@dataclass(slots=True)\nclass Queued(Generic[Message]):\n    size: int\n")
    assert list(generic_with_slots(wrong)) == ["Queued"]
    assert any(isinstance(node, COROUTINES) for node in ast.walk(parsed("parley_worker.transport.leg")))


def test_a_worker_knows_whether_it_is_compiled() -> None:
    assert WITNESS in COMPILE.MODULES
    assert is_compiled() is not str(sys.modules[media_path.__name__].__file__).endswith(".py")


def test_what_was_compiled_is_kept_whole_and_few_of_it(tmp_path: Path) -> None:
    folder, cache = tmp_path / "made", tmp_path / "cache"
    (folder / "package").mkdir(parents=True)
    (folder / "package/hot.so").write_bytes(b"native")
    (folder / "package/hot.py").write_text("")
    for number in range(COMPILE.KEPT + 2):
        COMPILE.keep(folder, cache / f"digest{number}")
    assert len(list(cache.iterdir())) == COMPILE.KEPT
    newest = cache / f"digest{COMPILE.KEPT + 1}"
    assert [path.name for path in newest.rglob("*.*")] == ["hot.so"]


def test_a_result_is_for_every_patch_release_of_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    here = COMPILE.digest()
    monkeypatch.setattr(sys, "version", "3.11.99 (another build of the same)")
    assert COMPILE.digest() == here
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.99"))
    assert COMPILE.digest() != here
    monkeypatch.undo()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: "cpython-399-x86_64-linux-gnu")
    assert COMPILE.digest() != here
