"""Runs one scenario in a process of its own: frames of the worker in, calls of handlers, commands out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import FrameType
from typing import Any

from parley_scenario.alarm import Alarm, GuardedSelector
from parley_scenario.context import MAX_TASKS, Context, Limits, SessionInfo, Setup, tool_output
from parley_scenario.events import CUES, AppEvents, CallEvents, ScenarioMistake
from parley_scenario.faults import Fault, fault_of, stuck_fault, without_values
from parley_scenario.handlers import call
from parley_scenario.link import Link
from parley_scenario.loading import load_entry, load_source
from parley_scenario.timers import Timer, Timers
from parley_scenario.wire import MAX_ASKED_BYTES, Decoder, WireError, encode

MAX_EVENTS = 2000
"""Events that may wait for handlers; more, and the scenario has failed."""
MAX_UNSENT_BYTES = 8 * 1024 * 1024
READ_BYTES = 1 << 16
LAST_SECONDS = 1.5
"""For handlers of Disconnected and Terminating together."""

logger = logging.getLogger(__name__)
Job = Callable[[], Awaitable[None]]


class Host:
    """One scenario. `boot` is the worker's first frame."""

    def __init__(self, connection: socket.socket, boot: Mapping[str, Any]) -> None:
        self._socket = connection
        self._boot = boot
        self._private = bool(boot.get("privacy"))
        self._limits = Limits(**boot.get("limits", {}))
        self._unsent = bytearray()
        self._jobs: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._failed = self._ending = False
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tools: dict[str, asyncio.Task[None]] = {}
        self._link = Link(self._write)
        self._timers = Timers(self._limits.max_timers, self._timer_due)
        setup = Setup(
            SessionInfo(**boot["session"]),
            boot.get("api_version", "ga"),
            boot.get("parameters", {}),
            self._limits,
        )
        self.context = Context(setup, self._link, self._timers, self._spawn_users)

    async def serve(self) -> None:
        """Until the worker says that the session is over, or is gone."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self._socket.setblocking(False)
        reading = loop.create_task(self._read(), name="frames of the worker")
        working = loop.create_task(self._work(), name="handlers")
        ended = loop.create_task(self._over.wait(), name="the end")
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        self._timers.close()
        self._link.close()
        for task in (reading, working, ended, *self._tasks):
            task.cancel()
        await asyncio.wait({reading, working, ended, *self._tasks}, timeout=0.2)
        self.flush()

    # Frames

    async def _read(self) -> None:
        loop, decoder = asyncio.get_running_loop(), Decoder()
        while data := await loop.sock_recv(self._socket, READ_BYTES):
            for frame in decoder.feed(data):
                self._take(frame)

    def _take(self, frame: Mapping[str, Any]) -> None:
        match frame:
            case {"t": "ping", "n": n}:
                self._link.send("pong", n=n)
            case {"t": "reply", "id": id, "value": value}:
                self._link.answer(id, value)
            case {"t": "cue", "to": "lines", "data": {"id": id, "end": end}}:
                self._link.answer(id, end)
            case {"t": "opened", "client_id": client_id, "web_socket_id": socket_id}:
                self.context.client.opened(client_id, socket_id)
            case {"t": "client", "name": name, "data": data}:
                self._put(lambda: self.context.client.dispatch(name, data, self._limit))
            case {"t": "cue", "to": to, "name": name, "data": data}:
                self._cue(to, name, data)
            case {"t": "tool", "call_id": call_id, "name": name, "arguments": arguments}:
                self._call_tool(call_id, name, arguments)
            case {"t": "cancel_tool", "call_id": call_id}:
                if call_id in self._tools:
                    self._tools[call_id].cancel()
            case {"t": "end", "reason": reason}:
                self._end(reason)

    def _write(self, frame: Mapping[str, Any]) -> None:
        try:
            self._unsent += encode(frame, MAX_ASKED_BYTES)
        except WireError as error:
            raise ScenarioMistake(str(error)) from None
        if len(self._unsent) > MAX_UNSENT_BYTES:
            raise ScenarioMistake("more is asked of the worker than it takes: ask for less")
        self._send_some()

    def _send_some(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            loop.add_writer(self._socket, self._send_some)
            return
        except OSError:
            self._unsent.clear()
            self._over.set()
        loop.remove_writer(self._socket)

    def flush(self) -> None:
        """Send what is left, for a short time."""
        self._socket.settimeout(0.5)
        with contextlib.suppress(OSError):
            self._socket.sendall(self._unsent)
        self._unsent.clear()

    # Handlers, one after the other

    @property
    def _limit(self) -> float:
        return self._limits.async_handler_timeout

    async def _work(self) -> None:
        await self._guarded(self._start)
        while True:
            while self._jobs and not self._failed:
                await self._guarded(self._jobs.popleft())
            self._wake.clear()
            await self._wake.wait()

    async def _guarded(self, job: Job) -> None:
        try:
            await job()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.fail(fault_of(error))
        except BaseException as error:  # noqa: BLE001 - whatever user code raises ends its scenario alone
            self.fail(fault_of(error))

    def _put(self, job: Job) -> None:
        if self._failed or self._ending:
            return
        if len(self._jobs) >= MAX_EVENTS:
            self.fail(Fault(f"handlers are slower than events: {MAX_EVENTS} wait"))
            return
        self._jobs.append(job)
        self._wake.set()

    async def _start(self) -> None:
        boot = self._boot
        missing = ", ".join(boot.get("unconfined", ()))
        if missing and boot.get("strict"):
            raise ScenarioMistake(
                f"this kernel has no {missing}, source cannot be confined: use an entry point of the image"
            )
        if boot.get("entry_point"):
            main = load_entry(boot["entry_point"])
        else:
            main = load_source(boot["source"], boot["file_name"], boot["function"])
        await call(main, (self.context,), self._limit, "the scenario's function")
        self._link.send("ready", unconfined=list(boot.get("unconfined", ())))
        resumed = {"resumed": True} if self.context.session.resumed else {}
        await self.context.dispatch_app(AppEvents.Started, resumed, self._limit)

    def _cue(self, to: str, name: str, data: dict[str, Any]) -> None:
        if to == "app":
            if name == "Reconnected":
                self.context.client.opened(self.context.client.id(), str(data.get("web_socket_id", "")))
            if name in CUES["app"]:
                self._put(lambda: self.context.dispatch_app(CUES["app"][name], data, self._limit))
            return
        if to == "client":
            self._put(lambda: self.context.client.dispatch(name, data, self._limit))
            return
        target = self.context.target_of(to)
        event = CUES.get(to, CUES["player"]).get(name)
        if target is None or event is None:
            return
        happened = target.happened(event, data)
        self._put(lambda: target.dispatch(happened, self._limit))

    # Timers, tasks, tools

    def _timer_due(self, timer: Timer) -> None:
        async def run() -> None:
            timer.waits = False
            if not timer.active:
                return
            if not timer.repeats:
                timer.cancel()
            await call(timer.handler, (), self._limit, "the handler of a timer")

        self._put(run)

    def _spawn_users(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        if len(self._tasks) >= MAX_TASKS:
            work.close()
            raise ScenarioMistake(f"{MAX_TASKS} tasks run: wait for some before starting more")
        task = asyncio.get_running_loop().create_task(_without_exits(work))
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(fault_of(error))

    def _call_tool(self, call_id: str, name: str, arguments: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run_tool(call_id, name, arguments))
        self._tools[call_id] = task
        task.add_done_callback(lambda _: self._tools.pop(call_id, None))

    async def _run_tool(self, call_id: str, name: str, arguments: str) -> None:
        """An error in a tool is told to the model, and ends nothing."""
        handler = self.context.tool_handler(name)
        if handler is None:
            self._link.send("tool_failed", call_id=call_id, message=f"the scenario has no tool {name!r}")
            return
        try:
            output = tool_output(
                await call(handler, (json.loads(arguments or "{}"),), 3600.0, f"tool {name}")
            )
            self._link.send("tool_result", call_id=call_id, output=output)
        except Exception as error:  # noqa: BLE001 - see above
            fault = fault_of(error)
            self._link.send("log", level="error", text=f"tool {name}: {self._words(fault)}")
            self._link.send("tool_failed", call_id=call_id, message=f"{name!r} failed")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - code that held the process, or wanted to end it
            self.fail(fault_of(error))

    # Failing and ending

    def _words(self, fault: Fault) -> str:
        if self._private:
            return without_values(fault.message)
        return f"{fault.message}: {fault.text}" if fault.text else fault.message

    def fail(self, fault: Fault) -> None:
        """Tell the worker, once; what waits is forgotten. The worker ends the session."""
        if self._failed or self._ending:
            return
        self._failed = True
        self._jobs.clear()
        self._timers.close()
        message, text = (without_values(fault.message), "") if self._private else (fault.message, fault.text)
        self._link.send("failed", message=message, text=text)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, what: dict[str, Any]) -> None:
        error = what.get("exception")
        self.fail(fault_of(error) if isinstance(error, BaseException) else Fault(str(what.get("message"))))

    def _end(self, reason: str) -> None:
        if self._ending:
            return
        self._ending = True
        self._jobs.clear()
        self._timers.close()
        asyncio.get_running_loop().create_task(self._last_work(reason), name="last work")

    async def _last_work(self, reason: str) -> None:
        data = {"reason": reason}
        gone = self.context.caller.happened(CallEvents.Disconnected, data)
        app = self.context.dispatch_app
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LAST_SECONDS):
                await self._quietly(self.context.caller.dispatch(gone, LAST_SECONDS))
                await self._quietly(app(AppEvents.Terminating, data, LAST_SECONDS))
                await self._quietly(app(AppEvents.Terminated, data, 0.1))
        self._link.send("done")
        self._over.set()

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the session is over already
            self._link.send("log", level="error", text=self._words(fault_of(error)))


async def _without_exits(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except SystemExit as error:
        raise ScenarioMistake("SystemExit: end the session with ctx.terminate()") from error


class Printed:
    """Takes the place of stdout and stderr: what is printed is logged, line by line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._line = ""

    def write(self, text: str) -> int:
        """See io.TextIOBase."""
        self._line = (self._line + text)[-8192:]
        while "\n" in self._line:
            line, _, self._line = self._line.partition("\n")
            if line.strip():
                self._write(line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits but a line that has no end yet."""

    def isatty(self) -> bool:
        """No."""
        return False


def run(connection: socket.socket, boot: Mapping[str, Any]) -> None:
    """Run the scenario of this process to its end."""
    seconds = float(boot.get("limits", {}).get("handler_timeout", 1.0))

    def stubborn(frame: FrameType | None) -> None:
        """Code that goes on after the alarm: say where, and end the process."""
        fault = stuck_fault(frame, seconds)
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.sendall(encode({"t": "failed", "message": fault.message, "text": ""}))

    alarm = Alarm(seconds, stubborn)
    loop = asyncio.SelectorEventLoop(GuardedSelector(alarm))

    async def serve() -> None:
        host = Host(connection, boot)
        printed = Printed(lambda line: host.context.log.info(line))
        sys.stdout = sys.stderr = printed
        await host.serve()

    try:
        loop.run_until_complete(serve())
    finally:
        alarm.disarm()
