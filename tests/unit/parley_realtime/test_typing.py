"""What an editor knows of a handler's event is what mypy knows: `typed_handlers` says what that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "realtime"


def strict(*sources: Path) -> None:
    """mypy finds nothing in these files."""
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *sources]
    environment = {**os.environ, "MYPYPATH": str(EXAMPLES)}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.timeout(300)
def test_handlers_are_typed() -> None:
    """Each error that is expected is there, and no other."""
    strict(Path(__file__).with_name("typed_handlers.py"))


@pytest.mark.timeout(300)
def test_the_examples_are_typed() -> None:
    strict(*sorted(EXAMPLES.glob("*.py")))
