"""Calls of a bench that are begun: what is left of them when a run is broken off, or when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from parley_client.bench.loadgen import CallFailed, LinePeer
from parley_client.bench.scenario import Scenario, Workload
from parley_client.bench.systems import Place, System, Variant


class Answering(System):
    """Calls that talk after `seconds`; the one with the number `fails` does not."""

    def __init__(self, seconds: float, fails: int = 0) -> None:
        scenario = Scenario(workload=Workload(calls_per_s=200))
        super().__init__(cast(Variant, None), cast(Place, SimpleNamespace(scenario=scenario)))
        self.seconds, self.fails = seconds, fails
        self.begun = self.over = 0
        self.some = asyncio.Event()

    @property
    def callers(self) -> LinePeer:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def command(self, sid: int) -> dict[str, Any]:
        raise NotImplementedError

    def worker_pids(self) -> Sequence[int]:
        return ()

    async def begin_call(self) -> int:
        self.begun += 1
        sid = self.begun
        if sid == 3:
            self.some.set()
        try:
            if sid == self.fails:
                raise CallFailed(sid, "UNAVAILABLE", "no")
            await asyncio.sleep(self.seconds)
            self._sids.append(sid)
        finally:
            self.over += 1
        return sid


async def test_a_run_that_is_broken_off_leaves_no_call_that_begins() -> None:
    system = Answering(3600)
    growing = asyncio.create_task(system.grow_to(1000))
    await system.some.wait()
    growing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await growing
    assert system.over == system.begun < 1000
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_after_a_call_that_fails_none_is_begun_and_the_others_talk() -> None:
    system = Answering(0.05, fails=3)
    with pytest.raises(CallFailed):
        await system.grow_to(20)
    assert system.begun < 20
    assert system.sids == tuple(number for number in range(1, system.begun + 1) if number != 3)
