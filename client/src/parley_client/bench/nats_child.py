"""nats-server with JetStream as a child on a free port of loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from parley_client.bench.systems import pinned
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.embedded.programs import find_program
from parley_client.errors import ParleyError

START_S: Final = 15.0


async def start_nats(folder: Path, cpus: Sequence[int]) -> tuple[Child, str]:
    """Start it with its data below `folder`, on these CPUs; the child and its URL.

    Raises:
        MissingProgram: it is not installed.
        ParleyError: it was not ready in time.
    """
    data, ports = folder / "nats", folder / "ports"
    ports.mkdir(parents=True, exist_ok=True)
    program = find_program("nats-server")
    argv = [program, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(data), "--ports_file_dir", str(ports)]
    child = await Child.start(ChildSpec("nats-server", pinned(argv, cpus), json_ready=False), folder)
    file = ports / f"nats-server_{child.pid}.ports"
    for _ in range(round(START_S / 0.05)):
        try:
            return child, str(json.loads(file.read_text())["nats"][0])
        except (OSError, ValueError, KeyError, IndexError):
            await asyncio.sleep(0.05)
    await child.stop()
    raise ParleyError(f"nats-server was not ready within {START_S:g} s:\n{child.tail()}")
