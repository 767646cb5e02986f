"""The load program as a child: callers and provider in one process, told what to do by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from parley_client.embedded.processes import LINE_LIMIT, TETHER
from parley_client.embedded.programs import cache_bin
from parley_client.errors import MissingProgram, ParleyError, ProcessDied

NAME: Final = "parley-loadgen"
REMEDY: Final = (
    "make loadgen  (in a checkout of the project: it is built from Go sources in tests/load/loadgen and found"
    " at build/bin; or give --loadgen PATH)"
)
START_S: Final = 45.0
ANSWER_S: Final = 20.0
STOP_S: Final = 10.0


class CallFailed(ParleyError):
    """A call was refused, or ended by itself.

    Attributes:
        status: gRPC status word or WebSocket code; `reason`: what was said with it.
    """

    def __init__(self, sid: int, status: str, reason: str) -> None:
        super().__init__(f"call {sid}: {status or 'ended'}{f' ({reason})' if reason else ''}")
        self.sid, self.status, self.reason = sid, status, reason


def find_loadgen(given: Path | None) -> Path:
    """The program: `given`, or build/bin below the working directory, or on PATH, or in the cache.

    Raises:
        MissingProgram: it is nowhere; the error says how it is made.
    """
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise MissingProgram(f"{given} (--loadgen)", REMEDY)
        return given.absolute()
    for candidate in (Path("build/bin") / NAME, cache_bin() / NAME):
        if os.access(candidate, os.X_OK):
            return candidate.absolute()
    found = shutil.which(NAME)
    if found is None:
        raise MissingProgram(NAME, REMEDY)
    return Path(found)


@dataclass(slots=True)
class _Call:
    """A call under way: `started` and `ended` are each set once."""

    started: asyncio.Future[float]
    ended: asyncio.Future[dict[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    stopping: bool = False


class LinePeer:
    """A child that reads commands and writes events as lines of JSON; `Loadgen` and other callers are one."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._calls: dict[int, _Call] = {}
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read(), name=f"events of {name}")
        self.failed: list[CallFailed] = []
        """Calls that ended though nobody stopped them, oldest first."""

    @classmethod
    async def spawn(
        cls, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> Self:
        """Start it; it dies with this process."""
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", TETHER, str(os.getpid()), *argv),
                env={**os.environ, **(env or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                limit=16 * LINE_LIMIT,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> int:
        """Calls that have started and not ended."""
        return sum(1 for call in self._calls.values() if call.started.done() and not call.ended.done())

    async def call(self, sid: int, command: Mapping[str, Any]) -> float:
        """Start a call; returns when audio flows (CLOCK_MONOTONIC seconds).

        Raises:
            CallFailed: it was refused or ended before.
            ParleyError: nothing was heard of it in time.
        """
        call = self._calls[sid] = _Call(asyncio.get_running_loop().create_future())
        self.send({"op": "call", "sid": sid, **command})
        try:
            async with asyncio.timeout(START_S):
                return await call.started
        except TimeoutError:
            raise ParleyError(f"call {sid} had no answer within {START_S:g} s{self._said()}") from None

    async def stop_call(self, sid: int) -> dict[str, Any]:
        """Hang up; returns the `ended` event, empty when none came in time."""
        call = self._calls[sid]
        call.stopping = True
        self.send({"op": "stop", "sid": sid})
        try:
            async with asyncio.timeout(ANSWER_S):
                ended: dict[str, Any] = await asyncio.shield(call.ended)
                return ended
        except TimeoutError:
            return {}
        finally:
            self._calls.pop(sid, None)

    async def request(self, command: Mapping[str, Any], answer: str, patience: float) -> dict[str, Any]:
        """Send a command and wait for its event; `answer` is `event` or `event/name`."""
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = waiting
        self.send(command)
        try:
            async with asyncio.timeout(patience):
                return await waiting
        except TimeoutError:
            raise ParleyError(
                f"{self.name} did not answer {command['op']} within {patience:g} s{self._said()}"
            ) from None
        finally:
            self._waiting.pop(answer, None)

    async def wait_event(self, event: str, patience: float) -> dict[str, Any]:
        """Wait for an event that comes by itself."""
        waiting = self._waiting.setdefault(event, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(patience):
                return await waiting
        except TimeoutError:
            raise ParleyError(f"{self.name} said no {event} within {patience:g} s{self._said()}") from None
        finally:
            self._waiting.pop(event, None)

    async def window(self, name: str, seconds: float) -> dict[str, Any]:
        """Measure from now on; returns the `window` event."""
        command = {"op": "window", "name": name, "seconds": seconds}
        return await self.request(command, f"window/{name}", seconds + ANSWER_S)

    def send(self, command: Mapping[str, Any]) -> None:
        """Write a command; the pipe to a child that reads is never full for long."""
        if self._process.stdin is None or self._process.stdin.is_closing():
            raise ProcessDied(self.name, self._process.returncode or 0, self._tail())
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def close(self) -> None:
        """End of input, then SIGTERM, then SIGKILL. Idempotent."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            for signal in ("", "terminate", "kill"):
                if signal and self._process.returncode is None:
                    getattr(self._process, signal)()
                try:
                    async with asyncio.timeout(STOP_S):
                        await self._process.wait()
                    break
                except TimeoutError:
                    continue
        finally:
            if self._process.returncode is None:
                self._process.kill()
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                event = json.loads(line)
                self._take(event)
            except (ValueError, KeyError, TypeError):
                with self.log.open("ab") as sink:
                    sink.write(b"not an event: " + line[:400] + b"\n")
        died = ProcessDied(self.name, await self._process.wait(), self._tail())
        for call in self._calls.values():
            _fail(call.started, died)
        for waiting in self._waiting.values():
            _fail(waiting, died)

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "started":
                call = self._calls.get(int(event["sid"]))
                if call is not None and not call.started.done():
                    call.started.set_result(float(event.get("t") or 0.0))
            case "ended" | "refused" as kind:
                self._over(int(event["sid"]), kind, event)
            case kind:
                waiting = self._waiting.get(f"{kind}/{event['name']}" if "name" in event else kind)
                if waiting is not None and not waiting.done():
                    waiting.set_result(event)

    def _over(self, sid: int, kind: str, event: dict[str, Any]) -> None:
        call = self._calls.get(sid)
        if call is None:
            return
        failure = CallFailed(sid, str(event.get("status") or kind), str(event.get("reason") or ""))
        if not call.started.done():
            call.started.set_exception(failure)
        elif not call.stopping:
            self.failed.append(failure)
        if not call.ended.done():
            call.ended.set_result(event)

    def _tail(self) -> str:
        try:
            return "\n".join(f"    {line[:300]}" for line in self.log.read_text().splitlines()[-6:])
        except (OSError, UnicodeDecodeError):
            return ""

    def _said(self) -> str:
        tail = self._tail()
        return f"; its last words:\n{tail}" if tail else ""


class Loadgen(LinePeer):
    """The load program. `provider` is host:port of its provider half once `open` has returned."""

    provider = ""

    @classmethod
    async def open(cls, argv: Sequence[str], log: Path) -> Self:
        """Start it and wait until its provider listens."""
        program = await cls.spawn("the load program", argv, log)
        try:
            listening = await program.wait_event("listening", ANSWER_S)
            program.provider = str(listening["provider"])
        except BaseException:
            await program.close()
            raise
        return program


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Nobody may be waiting for it.
        future.exception()
