"""What an editor knows of a handler's event is what mypy knows: `typed_handlers` says what that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(300)
def test_handlers_are_typed() -> None:
    """Strict mypy finds nothing: each error that is expected is there, and no other."""
    source = Path(__file__).with_name("typed_handlers.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", source]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
