"""Runs programs of independent clients in an environment of their own, made by `make peers`."""

from __future__ import annotations

import asyncio
import json
import os
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "conformance" / "peers"


class PeersUnavailable(Exception):
    """Why they cannot run on this machine; the message says what to do."""


def interpreter() -> Path:
    """The peers' Python. PeersUnavailable where nobody has made their environment."""
    python = Path(os.environ.get("PARLEY_PEERS_VENV", ROOT / ".venv-peers")) / "bin" / "python"
    if not python.exists():
        raise PeersUnavailable("the peers' environment is missing: run `make peers`")
    return python


@dataclass(frozen=True)
class Ran:
    """What a program reported, its exit code and the end of its standard error."""

    lines: list[dict[str, Any]]
    code: int | None
    complaint: str

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


async def run(program: str, plan: dict[str, Any], folder: Path) -> Ran:
    """Run the program on the plan and wait for its end, at most ten seconds past its deadline."""
    path = folder / "plan.json"
    path.write_text(json.dumps({**plan, "folder": str(folder)}))
    process = await asyncio.create_subprocess_exec(
        str(interpreter()),
        str(PROGRAMS / program),
        str(path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_AGENTS_DISABLE_TRACING": "1", "PYTHONPATH": ""},
    )
    try:
        async with asyncio.timeout(plan["deadline_s"] + 10):
            said, wrong = await process.communicate()
    except TimeoutError:
        process.kill()
        said, wrong = await process.communicate()
    lines = [json.loads(line) for line in said.decode().splitlines() if line.startswith("{")]
    return Ran(lines, process.returncode, wrong.decode(errors="replace")[-3000:])


def write_wav(path: Path, pcm: bytes, rate: int) -> str:
    """PCM16 mono as a file; its path."""
    with wave.open(str(path), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes(pcm)
    return str(path)


def read_wav(path: str) -> tuple[bytes, int]:
    with wave.open(path, "rb") as source:
        return source.readframes(source.getnframes()), source.getframerate()
