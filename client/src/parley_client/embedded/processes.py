"""Supervised child processes: started with a deadline, watched, stopped in order, never left behind.

A child has its own session, so that Ctrl-C on the terminal reaches the parent alone, and dies with the parent
whatever kills that (Linux). Its stderr, and its stdout after the ready line, go to a log file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from parley_client.errors import ParleyError, ProcessDied

TETHER: Final = str(Path(__file__).with_name("tether.py"))
LINE_LIMIT: Final = 1 << 20
TAIL_LINES: Final = 8
# Variables that a child needs of its surroundings; everything else stays with the parent.
INHERITED: Final = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "PARLEY_CACHE",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start a child.

    Attributes:
        name: what people call it.
        argv: program and arguments.
        env: variables beside the inherited ones.
        json_ready: True when it prints one line of JSON on stdout once it serves.
        ready_timeout: seconds until it must be ready.
        stop_timeout: seconds from SIGTERM to SIGKILL.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    json_ready: bool = True
    ready_timeout: float = 30.0
    stop_timeout: float = 5.0


class Child:
    """A running child; made by `Child.start`."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.ready: dict[str, Any] = {}
        self._process = process
        self._stopping = False
        self._pump: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, spec: ChildSpec, logs: Path) -> Child:
        """Start it and wait for its ready line.

        Raises:
            ProcessDied: it ended first.
            ParleyError: it was not ready in time, or its ready line is no JSON object.
        """
        log = logs / f"{spec.name.replace(' ', '-')}.log"
        env = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(spec.env)
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", TETHER, str(os.getpid()), *spec.argv),
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                limit=LINE_LIMIT,
            )
        child = cls(spec, process, log)
        try:
            if spec.json_ready:
                await child._read_ready()
        except BaseException:
            await child.stop(grace=0)
            raise
        child._pump = asyncio.create_task(child._copy_stdout(), name=f"log of {spec.name}")
        return child

    async def died(self) -> ProcessDied:
        """Wait until it ends by itself; return what to say about it."""
        status = await self._process.wait()
        if self._stopping:
            await asyncio.Event().wait()
        return ProcessDied(self.spec.name, status, self.tail())

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line[:400]}" for line in lines[-TAIL_LINES:])

    async def stop(self, grace: float | None = None) -> None:
        """SIGTERM, wait, SIGKILL. Idempotent; a cancellation still kills it."""
        self._stopping = True
        grace = self.spec.stop_timeout if grace is None else grace
        try:
            if self._process.returncode is None and grace > 0:
                self._signal(signal.SIGTERM)
                async with asyncio.timeout(grace):
                    await self._process.wait()
        except TimeoutError:
            pass
        finally:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)
        await self._process.wait()
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=1.0)
            self._pump.cancel()
            await asyncio.wait([self._pump])

    def _signal(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass

    async def _read_ready(self) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self.spec.ready_timeout):
                line = await self._process.stdout.readline()
                if not line:
                    raise ProcessDied(self.spec.name, await self._process.wait(), self.tail())
        except TimeoutError:
            waited = f"{self.spec.ready_timeout:g} s"
            raise ParleyError(
                f"{self.spec.name} was not ready within {waited}; its last words:\n{self.tail()}"
            ) from None
        try:
            ready = json.loads(line)
        except ValueError:
            ready = None
        if not isinstance(ready, dict):
            raise ParleyError(f"{self.spec.name} printed no JSON object when ready: {line[:200]!r}")
        self.ready = ready

    async def _copy_stdout(self) -> None:
        assert self._process.stdout is not None
        with self.log.open("ab") as sink:
            while data := await self._process.stdout.read(65536):
                sink.write(data)
                sink.flush()
