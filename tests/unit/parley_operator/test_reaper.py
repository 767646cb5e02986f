"""Finished sessions go in batches, and make way for those who wait. The gate of the store's requests."""

from __future__ import annotations

import asyncio
from typing import Any

import virtual_time
from parley_operator.handlers.queue import Key
from parley_operator.handlers.reaper import BATCH, Reaper
from parley_operator.kube.gate import Gate
from parley_operator.ports import StoreError


class Deletions:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.uids: list[str] = []
        self.refused: set[str] = set()

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        assert (kind, namespace) == ("VoiceSession", "default")
        if uid in self.refused:
            raise StoreError("HTTP 500")
        self.times.append(asyncio.get_running_loop().time())
        self.uids.append(uid)


async def reap(count: int, store: Deletions, busy: bool, seconds: float) -> Reaper:
    found: Any = store
    reaper = Reaper(found, lambda: busy)
    for number in range(count):
        reaper.add(Key("VoiceSession", "default", f"s{number}"), f"u{number}")
        reaper.add(Key("VoiceSession", "default", f"s{number}"), f"u{number}")
    running = asyncio.create_task(reaper.run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return reaper


def test_thousands_are_deleted_at_a_steady_rate_each_once() -> None:
    async def case() -> None:
        store = Deletions()
        reaper = await reap(1000, store, False, 60)
        assert store.uids == [f"u{number}" for number in range(1000)]
        assert len(reaper) == 0
        most = max(sum(at <= t < at + 1.0 for t in store.times) for at in store.times)
        assert most <= 30
        assert store.times[-1] < 45

    virtual_time.run(case())


def test_others_come_first_but_it_never_stops() -> None:
    async def case() -> None:
        store = Deletions()
        await reap(1000, store, True, 8.1)
        assert 0 < len(store.uids) <= 11 * BATCH

    virtual_time.run(case())


def test_one_that_cannot_be_deleted_stops_nobody_and_is_tried_again() -> None:
    async def case() -> None:
        store = Deletions()
        store.refused = {"u0"}
        reaper = await reap(20, store, False, 10)
        assert sorted(store.uids) == sorted(f"u{number}" for number in range(1, 20))
        assert len(reaper) == 1
        store.refused.clear()
        assert await reaper.step() is False
        assert len(reaper) == 0

    virtual_time.run(case())


def test_the_gate_lets_so_many_write_at_once_and_nobody_during_a_pause() -> None:
    async def case() -> None:
        gate, under_way, most = Gate(3), 0, 0
        loop = asyncio.get_running_loop()
        begun: list[float] = []

        async def request(writes: bool) -> None:
            nonlocal under_way, most
            async with gate.turn(writes=writes):
                begun.append(loop.time())
                under_way += writes
                most = max(most, under_way)
                await asyncio.sleep(0.1)
                under_way -= writes

        await asyncio.gather(*(request(True) for _ in range(10)))
        assert most == 3
        gate.pause(5.0)
        gate.pause(1.0)
        paused = loop.time()
        begun.clear()
        await asyncio.gather(*(request(number % 2 == 0) for number in range(6)))
        assert all(5.0 <= at - paused <= 7.0 for at in begun)
        assert len(set(begun)) > 1

    virtual_time.run(case())
