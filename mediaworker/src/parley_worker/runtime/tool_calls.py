"""Runs the function calls that services answer: one task each, ended with its session at the latest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from parley_worker.clock import Clock
from parley_worker.core import events as ev
from parley_worker.core.agent import ToolRouteKind
from parley_worker.core.effects import CallTool
from parley_worker.core.model import SessionKey
from parley_worker.core.tool_routing import ToolCode, ToolProblem, unreachable
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest, ToolService

log = logging.getLogger(__name__)


class ToolServices:
    """Whoever answers function calls for the sessions of a worker, and how many calls run at once."""

    def __init__(self, services: Mapping[ToolRouteKind, ToolService] | None = None, limit: int = 256) -> None:
        self._services = dict(services or {})
        self._limit = limit
        self.running = 0

    async def call(self, request: ToolRequest) -> str:
        """The result; ToolCallFailed when there is none, at once when too many calls run."""
        service = self._services.get(request.route.kind)
        if service is None:
            log.warning("tool %s: this worker has no %s route", request.name, request.route.kind)
            raise ToolCallFailed(unreachable(request.name))
        if self.running >= self._limit:
            text = f"{request.name!r} cannot be called now: too many calls are running. Try again later"
            raise ToolCallFailed(ToolProblem(ToolCode.REFUSED, text))
        self.running += 1
        try:
            return await service.call(request)
        finally:
            self.running -= 1


class ScenarioTools(Protocol):
    """The session's scenario, as far as function calls go. It answers with `ToolReturned` or `ToolFailed`."""

    def call_tool(self, call_id: str, name: str, arguments: str, deadline: float) -> None:
        """Hand the call over; `deadline` is monotonic seconds."""

    def cancel_tool(self, call_id: str) -> None:
        """Nobody waits for the result any more."""


class ToolCalls:
    """The calls of one session. `feed` takes `ToolReturned` and `ToolFailed`; `on_crash` counts errors of
    ours."""

    def __init__(
        self,
        key: SessionKey,
        services: ToolServices,
        clock: Clock,
        feed: Callable[[ev.Event], None],
        on_crash: Callable[[], None],
    ) -> None:
        self._key, self._services, self._clock = key, services, clock
        self._feed, self._on_crash = feed, on_crash
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.scenario: ScenarioTools | None = None
        """Set while the session has a scenario that listens."""

    def open(self, group: asyncio.TaskGroup) -> None:
        """Calls run as tasks of this group from here on."""
        self._group = group

    def start(self, call: CallTool) -> None:
        """Run a call; what comes of it is fed later, never from within."""
        if call.route.kind is ToolRouteKind.SCENARIO:
            if self.scenario is not None:
                self.scenario.call_tool(call.call_id, call.name, call.arguments, call.deadline)
            else:
                self._soon(ev.ToolFailed(call.call_id, unreachable(call.name)))
            return
        if self._group is None:
            self._soon(ev.ToolFailed(call.call_id, unreachable(call.name)))
            return
        wall = self._clock.wall() + call.deadline - self._clock.monotonic()
        request = ToolRequest(
            self._key, call.call_id, call.name, call.arguments, call.route, call.deadline, wall
        )
        task = self._group.create_task(self._run(request), name="tool call of a session")
        self._tasks[call.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call.call_id, None))

    def cancel(self, call_id: str) -> None:
        """End a call without a result."""
        task = self._tasks.get(call_id)
        if task is not None:
            task.cancel()
        elif self.scenario is not None:
            self.scenario.cancel_tool(call_id)

    def stop(self) -> None:
        """End all of them; no further call is taken."""
        self._group = None
        for task in self._tasks.values():
            task.cancel()

    def _soon(self, event: ev.Event) -> None:
        asyncio.get_running_loop().call_soon(self._feed, event)

    async def _run(self, request: ToolRequest) -> None:
        outcome: ev.Event
        try:
            outcome = ev.ToolReturned(request.call_id, await self._services.call(request))
        except ToolCallFailed as error:
            outcome = ev.ToolFailed(request.call_id, error.problem)
        except Exception as error:  # noqa: BLE001 - the border of a call: the session goes on
            # Without the text of the error, which may hold content.
            log.error("tool %s: %s inside", request.name, type(error).__name__)
            self._on_crash()
            problem = ToolProblem(ToolCode.FAILED, f"{request.name!r} failed")
            outcome = ev.ToolFailed(request.call_id, problem)
        self._feed(outcome)
