"""The tasks of function calls: one each, bounded, ended with their session; no error of theirs spreads."""

from __future__ import annotations

import asyncio
import logging

import pytest
from parley_worker.clock import SystemClock
from parley_worker.core import events as ev
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.effects import CallTool
from parley_worker.core.model import SessionKey
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.runtime.tool_calls import ToolCalls, ToolServices
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest


class Service:
    """Does what the arguments say; counts what runs."""

    def __init__(self) -> None:
        self.requests: list[ToolRequest] = []
        self.running = 0
        self.go = asyncio.Event()

    async def call(self, request: ToolRequest) -> str:
        self.requests.append(request)
        self.running += 1
        try:
            if "wait" in request.arguments:
                await self.go.wait()
            if "crash" in request.arguments:
                raise KeyError("a secret of the caller")
            if "refuse" in request.arguments:
                raise ToolCallFailed(ToolProblem(ToolCode.REFUSED, "no"))
            return f"result of {request.call_id}"
        finally:
            self.running -= 1


class Scenario:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, float]] = []
        self.cancelled: list[str] = []

    def call_tool(self, call_id: str, name: str, arguments: str, deadline: float) -> None:
        self.calls.append((call_id, name, arguments, deadline))

    def cancel_tool(self, call_id: str) -> None:
        self.cancelled.append(call_id)


class Bench:
    """The calls of one session, and what they came to."""

    def __init__(self, limit: int = 256) -> None:
        self.service = Service()
        self.events: list[ev.Event] = []
        self.crashes = 0
        self.services = ToolServices({ToolRouteKind.WEBHOOK: self.service}, limit)
        self.calls = ToolCalls(
            SessionKey("ns", "n", "uid", 1), self.services, SystemClock(), self.events.append, self._crash
        )

    def _crash(self) -> None:
        self.crashes += 1

    def start(self, arguments: str, call_id: str = "c", kind: ToolRouteKind = ToolRouteKind.WEBHOOK) -> None:
        self.calls.start(CallTool(call_id, "f", arguments, ToolRoute("f", kind), 1000.0))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def codes(self) -> dict[str, str]:
        return {e.call_id: str(e.problem.code) for e in self.events if isinstance(e, ev.ToolFailed)}


async def test_results_and_refusals_are_fed() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as group:
        bench.calls.open(group)
        bench.start("{}", "c1")
        bench.start("refuse", "c2")
        assert bench.events == []
    assert ev.ToolReturned("c1", "result of c1") in bench.events
    assert bench.codes() == {"c2": "refused"}
    assert bench.service.requests[0].key == "uid.1.c1"


async def test_an_error_of_ours_costs_one_call_and_shows_no_content(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level(logging.DEBUG):
        async with asyncio.TaskGroup() as group:
            bench.calls.open(group)
            bench.start("crash", "c1")
            bench.start("{}", "c2")
    assert bench.codes() == {"c1": "failed"}
    assert ev.ToolReturned("c2", "result of c2") in bench.events
    assert bench.crashes == 1
    assert "secret" not in caplog.text


async def test_a_cancelled_call_ends_without_a_word_and_gives_its_place_back() -> None:
    bench = Bench(limit=1)
    async with asyncio.TaskGroup() as group:
        bench.calls.open(group)
        bench.start("wait", "c1")
        await bench.settle()
        bench.start("{}", "c2")
        await bench.settle()
        assert bench.codes() == {"c2": "refused"}
        bench.calls.cancel("c1")
        bench.calls.cancel("unknown")
        await bench.settle()
        assert (bench.service.running, bench.services.running) == (0, 0)
        bench.start("{}", "c3")
    assert [e.call_id for e in bench.events if isinstance(e, ev.ToolReturned)] == ["c3"]


async def test_the_end_of_the_session_ends_every_call() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as group:
        bench.calls.open(group)
        for n in range(5):
            bench.start("wait", f"c{n}")
        await bench.settle()
        assert bench.services.running == 5
        bench.calls.stop()
    assert bench.events == []
    assert bench.services.running == 0
    bench.start("{}", "late")
    await bench.settle()
    assert bench.codes() == {"late": "unavailable"}


async def test_a_route_that_the_worker_has_not_is_unavailable() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as group:
        bench.calls.open(group)
        bench.start("{}", "c1", ToolRouteKind.NATS)
    assert bench.codes() == {"c1": "unavailable"}


async def test_a_scenario_is_handed_its_calls() -> None:
    bench, scenario = Bench(), Scenario()
    bench.start("{}", "early", ToolRouteKind.SCENARIO)
    await bench.settle()
    assert bench.codes() == {"early": "unavailable"}
    bench.calls.scenario = scenario
    bench.start('{"a": 1}', "c1", ToolRouteKind.SCENARIO)
    bench.calls.cancel("c1")
    assert scenario.calls == [("c1", "f", '{"a": 1}', 1000.0)]
    assert scenario.cancelled == ["c1"]
