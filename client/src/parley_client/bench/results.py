"""A run's result: the facts around its rows, and the file that holds it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parley_client.bench import machine
from parley_client.bench.scenario import Scenario
from parley_client.errors import UsageError

FORMAT = 1


def envelope(
    name: str, command: Sequence[str], scenario: Scenario, began: datetime.datetime, seconds: float
) -> dict[str, Any]:
    """What every result begins with. `command`: as it was typed, without the program's path."""
    facts = machine.machine()
    return {
        "bench": name,
        "format": FORMAT,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "command": " ".join(["parley", *command]),
        "machine": facts,
        "machine_line": machine.one_line(facts),
        "versions": machine.versions(),
        "scenario": asdict(scenario),
    }


def write(folder: Path, result: Mapping[str, Any]) -> Path:
    """`folder`/NAME.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['bench']}.json"
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(result, indent=1, default=str) + "\n")
    os.replace(draft, path)
    return path


def read(path: Path) -> dict[str, Any]:
    """A result.

    Raises:
        UsageError: the file cannot be read or is no result of this version.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise UsageError(f"{path}: this is no result of `parley bench` (format {FORMAT})")
    return result
