"""Guards of the tree itself: names that break Python, and text that may not be committed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in names.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found.append((path.relative_to(ROOT), data.decode(errors="replace")))
    return found


def test_operator_is_a_folder_and_never_a_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"
    assert not (ROOT / "operator.py").exists()


def test_no_packages_below_tests() -> None:
    below = [p.relative_to(ROOT) for p in tracked() if p.name == "__init__.py"]
    assert [str(p) for p in below if p.parts[0] == "tests"] == []


# Joined here so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs"),
        ("proxy", "golang"),
        ("sum", "golang"),
        ("deb", "debian"),
        ("crates", "io"),
        ("repo", "maven"),
    )
]


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_registry_host_is_committed(host: str) -> None:
    assert [str(path) for path, text in texts() if host in text] == []


def test_no_path_of_a_machine_is_committed() -> None:
    pattern = re.compile(re.escape(f"{ROOT}/") + "|/" + "home/[a-z]+/" + "|/" + "Users/")
    assert [str(path) for path, text in texts() if pattern.search(text)] == []


def test_no_marker_of_unfinished_work() -> None:
    pattern = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    # Upstream wording inside pinned lock files is not ours.
    ours = [(p, t) for p, t in texts() if p.suffix not in {".txt", ".json"} and "gen" not in p.parts]
    assert [str(path) for path, text in ours if pattern.search(text)] == []


def test_files_stay_readable() -> None:
    """A hand-written module that nobody can hold in the head is split."""
    sources = [p for p in tracked() if p.suffix == ".py" and "gen" not in p.relative_to(ROOT).parts]
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 600}
    assert long == {}
