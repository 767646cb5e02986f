"""The scenario of one session: starts its process, tells it what happens, takes what it asks for, ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.ga import GA
from parley_scenario.wire import WireError, decode

from parley_worker.clock import Clock
from parley_worker.codec.scenario_json import BadFrame, boot_frame, command_of, is_seconds
from parley_worker.core import events as ev
from parley_worker.core.budget import Budget
from parley_worker.core.model import SessionConfig
from parley_worker.core.scenario import Cue
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.runtime.scenario_processes import ScenarioLost, ScenarioProcess, ScenarioProcesses
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.scenario_http import HttpRefused, HttpRequest, ScenarioHttp

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""For handlers of Disconnected and Terminating, after the end of the session."""
PING_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""Beyond the limit of a handler: a process that answers nothing for so long is killed."""
MAX_THREADS = 64
"""Looked at once in PING_SECONDS: threads are counted against all sessions of the worker."""
MAX_EARLY = 1000
"""Frames that wait for a process that is starting."""
BURST_SECONDS = 2.0
MAX_HTTP_WAITING = 64
BYTES_PER_SECOND, BURST_BYTES = 1024 * 1024, 4 * 1024 * 1024
"""What a scenario may send; a frame of any kind counts `FRAME_BYTES` besides. More, and it is killed."""
FRAME_BYTES = 512
_UNCOUNTED = frozenset({"pong", "listen", "ready", "done", "failed"})
_FRAME_LINE = re.compile(r'File "([^"]+)", line (\d+)')


class Scenarios:
    """What the scenarios of a worker share. `paths` are put before their module path, `hidden` not read."""

    def __init__(self, paths: tuple[str, ...] = (), hidden: tuple[str, ...] = ()) -> None:
        self.hidden = hidden
        self.processes = ScenarioProcesses(paths)
        self.http = ScenarioHttp()

    async def close(self) -> None:
        """End every process; close connections."""
        await self.processes.close()
        await self.http.close()


class SessionScenario:
    """See the module. `feed` takes events of the core; it may be called from anywhere in the event loop."""

    def __init__(
        self,
        config: SessionConfig,
        shared: Scenarios,
        clock: Clock,
        metrics: Metrics,
        feed: Callable[[ev.Event], None],
    ) -> None:
        assert config.scenario is not None
        self._config, self._limits = config, config.scenario.limits
        self._processes, self._http, self._clock, self._feed = shared.processes, shared.http, clock, feed
        self._hidden = shared.hidden
        self._metrics, self._asked_at = metrics, 0.0
        self._shape = BETA if config.provider.api_version == "beta" else GA
        self._listens: frozenset[str] = frozenset()
        self._process: ScenarioProcess | None = None
        self._early: deque[Mapping[str, Any]] = deque()
        self._tasks: asyncio.TaskGroup | None = None
        self._requests: set[asyncio.Task[None]] = set()
        rate = self._limits.events_per_second
        self._budget = Budget(rate, rate * BURST_SECONDS)
        self._traffic = Budget(BYTES_PER_SECOND, BURST_BYTES)
        self._heard_at = 0.0
        self._ready = self._over = self._failed = False
        self._stop_timer: asyncio.TimerHandle | None = None

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Start; everything of it runs in these tasks."""
        self._tasks = tasks
        tasks.create_task(self._run(), name="scenario of a session")

    # What it is told

    def opened(self, client_id: str, web_socket_id: str) -> None:
        """The provider is connected."""
        self._send({"t": "opened", "client_id": client_id, "web_socket_id": web_socket_id})

    def provider_event(self, payload: Mapping[str, Any]) -> None:
        """A server event, after the session has handled it; what nobody listens to is not sent."""
        name = str(self._shape.names.get(str(payload.get("type")), self._shape.unknown_name))
        if not self._ready or name in self._listens:
            self._send({"t": "client", "name": name, "data": {"payload": payload}})

    def tell(self, cue: Cue) -> None:
        """Something else that happened."""
        self._send({"t": "cue", "to": cue.to, "name": cue.name, "data": dict(cue.data)})

    def call_tool(self, call_id: str, name: str, arguments: str, deadline: float) -> None:
        """See ScenarioTools. The session gives up at the deadline by itself."""
        self._send({"t": "tool", "call_id": call_id, "name": name, "arguments": arguments})

    def cancel_tool(self, call_id: str) -> None:
        """See ScenarioTools."""
        self._send({"t": "cancel_tool", "call_id": call_id})

    def stop(self, reason: str) -> None:
        """The session is over: a short time for last work, then the process is killed."""
        if self._over:
            return
        self._send({"t": "end", "reason": reason})
        self._over = True
        loop = asyncio.get_running_loop()
        self._stop_timer = loop.call_later(GRACE_SECONDS if self._process else 0, self._kill)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _send(self, frame: Mapping[str, Any]) -> None:
        if self._over:
            return
        if self._process is None:
            if len(self._early) < MAX_EARLY:
                self._early.append(frame)
            return
        try:
            kept_up = self._process.send(frame)
        except WireError:
            log.warning("session %s: an event is too large for its scenario", self._config.key.uid)
            return
        if not kept_up:
            self._fail("the scenario does not keep up with its events")

    # Its process

    async def _run(self) -> None:
        self._asked_at = self._clock.monotonic()
        try:
            self._process = await self._processes.start(boot_frame(self._config, self._hidden))
        except ScenarioLost as error:
            self._fail(str(error))
            return
        if self._over:
            await self._processes.end(self._process)
            return
        assert self._tasks is not None
        self._metrics.scenario_process(1)
        watch = self._tasks.create_task(self._watch(self._process), name="watch over a scenario")
        try:
            while self._early:
                self._send(self._early.popleft())
            await self._listen(self._process)
        finally:
            watch.cancel()
            for task in self._requests:
                task.cancel()
            if self._stop_timer is not None:
                self._stop_timer.cancel()
            self._metrics.scenario_process(-1)
            await self._processes.end(self._process)

    async def _listen(self, process: ScenarioProcess) -> None:
        while True:
            try:
                body = await process.receive()
                if body is None:
                    break
                self._heard_at = self._clock.monotonic()
                if not self._traffic.take(self._heard_at, len(body) + FRAME_BYTES):
                    self._fail(f"the scenario sends more than {BYTES_PER_SECOND} bytes a second")
                    process.kill()
                    break
                frame = decode(body)
                if frame.get("t") == "done":
                    return
                if self._failed and frame.get("t") != "failed":
                    continue
                if frame.get("t") not in _UNCOUNTED and not self._budget.take(self._heard_at):
                    self._fail(
                        f"the scenario asks for more than {self._limits.events_per_second} things a second"
                    )
                    continue
                self._take(frame)
            except (WireError, BadFrame) as error:
                self._fail(f"the scenario's process sent what is no command: {error}")
                process.kill()
                break
        await asyncio.wait({process.exited}, timeout=1.0)
        if not self._over:
            self._fail(self._lost_words(process))

    def _take(self, frame: Mapping[str, Any]) -> None:
        match frame:
            case {"t": "ready"}:
                if frame.get("unconfined"):
                    log.warning(
                        "session %s: its scenario runs without all of its confinement, which this kernel "
                        "does not offer",
                        self._config.key.uid,
                    )
                self._ready = True
                self._metrics.scenario_started(self._clock.monotonic() - self._asked_at)
                self._feed(ev.ScenarioReady())
            case {"t": "listen", "names": [*names]}:
                self._listens = frozenset(name for name in names if isinstance(name, str))
            case {"t": "pong"}:
                pass
            case {"t": "failed", "message": str(message), "text": str(text)}:
                self._fail(message, text)
            case {"t": "tool_result", "call_id": str(call_id), "output": str(output)}:
                self._feed(ev.ToolReturned(call_id, output))
            case {"t": "tool_failed", "call_id": str(call_id), "message": str(message)}:
                self._feed(ev.ToolFailed(call_id, ToolProblem(ToolCode.FAILED, message[:400])))
            case {"t": "http", "id": str(id)}:
                self._request(id, frame)
            case _:
                command = command_of(frame)
                if not self._over:
                    self._feed(ev.ScenarioSaid(command))

    def _fail(self, message: str, text: str = "") -> None:
        if self._failed or self._over:
            return
        self._failed = True
        self._metrics.scenario_failed()
        self._feed(ev.ScenarioFailed(message[:400], text[:400]))

    def _lost_words(self, process: ScenarioProcess) -> str:
        where = crash_place(process.crash_words())
        place = f"{where}: " if where else ""
        status = process.exited.result() if process.exited.done() else None
        if status is not None and status < 0:
            return f"{place}the scenario's process was ended by signal {-status}"
        shown = "" if status is None else f" with exit status {status}"
        return f"{place}the scenario's process ended by itself{shown}"

    async def _watch(self, process: ScenarioProcess) -> None:
        """Kill a process that holds still for too long, and say where it was."""
        limit = self._limits.handler_timeout + SILENT_SECONDS
        self._heard_at = self._clock.monotonic()
        number = 0
        while True:
            await asyncio.sleep(PING_SECONDS)
            number += 1
            process.send({"t": "ping", "n": number})
            if process.threads() > MAX_THREADS:
                self._fail(f"the scenario runs more than {MAX_THREADS} threads")
                process.kill()
                return
            if self._clock.monotonic() - self._heard_at > limit and not self._over:
                process.ask_where()
                await asyncio.sleep(0.2)
                where = crash_place(process.crash_words())
                place = f"{where}: " if where else ""
                self._fail(f"{place}the scenario did not answer for {limit:g} s")
                process.kill()
                return

    # HTTP

    def _request(self, id: str, frame: Mapping[str, Any]) -> None:
        headers = frame.get("headers")
        body, timeout = frame.get("body"), frame.get("timeout")
        if not isinstance(headers, Mapping) or not is_seconds(timeout):
            raise BadFrame("a request has no headers or no timeout")
        request = HttpRequest(
            str(frame.get("method")),
            str(frame.get("url")),
            {str(name): str(value) for name, value in headers.items()},
            body if isinstance(body, str) else None,
            float(timeout),
        )
        if self._tasks is None or len(self._requests) >= min(self._limits.http_requests, MAX_HTTP_WAITING):
            self._reply(id, {"error": f"more than {self._limits.http_requests} requests at once"})
            return
        task = self._tasks.create_task(self._fetch(id, request), name="http of a scenario")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _fetch(self, id: str, request: HttpRequest) -> None:
        hosts = self._config.media_access.hosts
        try:
            value = await self._http.request(request, hosts, self._limits.http_response_bytes)
        except HttpRefused as error:
            value = {"error": str(error)}
        self._reply(id, value)

    def _reply(self, id: str, value: Mapping[str, Any]) -> None:
        """Also after the end of the session: last work may wait for it."""
        if self._process is None:
            return
        try:
            kept_up = self._process.send({"t": "reply", "id": id, "value": value})
        except WireError:
            too_large = {"error": "the answer is too large for a scenario"}
            kept_up = self._process.send({"t": "reply", "id": id, "value": too_large})
        if not kept_up:
            self._fail("the scenario does not take what it asked for")
            self._process.kill()


def crash_place(words: str) -> str:
    """`file:line` of the user's code in what the interpreter wrote down; empty when there is none."""
    for path, line in _FRAME_LINE.findall(words):
        if "parley_scenario" not in path and not re.search(r"/lib/python[\d.]+/(?!site-packages)", path):
            return f"{os.path.basename(path)}:{line}"
    return ""
