"""Runs fakeai, an independent emulation of the beta shape that writes null into unused fields."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers

STARTS_WITHIN_S = 60


@contextmanager
def running(log: Path) -> Iterator[str]:
    """Its base URL while it runs. Raises PeersUnavailable."""
    program = peers.interpreter().parent / "fakeai"
    if not program.exists():
        raise peers.PeersUnavailable("fakeai is missing in the peers' environment: run `make peers`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(program), "server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": ""}
        )
    try:
        _await_answer(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise peers.PeersUnavailable(f"fakeai did not start: {log.read_text()[-500:]}")
