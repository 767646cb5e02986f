"""Runs @copilotkit/aimock, an independent emulation of the Realtime API, as the lock file pins it.

It is installed by `npm ci` into `build/aimock`, once per lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).parent / "aimock"
TARGET = Path(__file__).parents[2] / "build" / "aimock"
API_KEY = "sk-aimock-accepts-this"
_LISTENING = re.compile(r"listening on (http://\S+)")


class AimockUnavailable(Exception):
    """Why it cannot run on this machine; the message says what to do."""


def install() -> Path:
    """The command's script, installed if need be. AimockUnavailable without node or when npm fails."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise AimockUnavailable("node and npm are not on PATH: install Node.js 20.15 or newer")
    script = TARGET / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    wanted = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    done = TARGET / "installed"
    TARGET.mkdir(parents=True, exist_ok=True)
    with (TARGET / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if script.exists() and done.exists() and done.read_text() == wanted:
            return script
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, TARGET / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=TARGET, capture_output=True, text=True, timeout=300, check=False)
        if result.returncode != 0:
            raise AimockUnavailable(f"npm ci in {TARGET.name} failed: {result.stderr.strip()[-300:]}")
        done.write_text(wanted)
    return script


@contextmanager
def running(script: Path, log: Path, *, api_key: str = API_KEY) -> Iterator[str]:
    """Its base URL while it runs. Only `api_key` is accepted."""
    command = ["node", str(script), "--port", "0", "--fixtures", str(SOURCE / "fixtures.json")]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AIMOCK_API_KEYS": api_key},
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (found := _LISTENING.search(log.read_text())) is not None:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AimockUnavailable(f"aimock did not start: {log.read_text()[-500:]}")
