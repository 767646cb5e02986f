"""Leadership over a Lease in memory, in virtual time: taken, kept, lost, given up."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import virtual_time
from parley_operator.domain.merge import deep_merge
from parley_operator.handlers.leadership import LEASE_NAME, Leadership
from parley_operator.ports import Conflict, StoreError
from parley_operator.telemetry.metrics import Metrics


class LoopClock:
    """`rate` and `offset` make it another machine's."""

    def __init__(self, rate: float = 1.0, offset: float = 0.0) -> None:
        self._rate, self._offset = rate, offset

    def now(self) -> float:
        return 1_800_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return self._offset + asyncio.get_running_loop().time() * self._rate


@dataclass
class LeaseStore:
    """One Lease with versions. `down`: nothing answers; `deaf`: writes are carried out and never answered."""

    body: dict[str, Any] | None = None
    version: int = 0
    down: bool = False
    deaf: bool = False
    writes: list[tuple[float, str]] = field(default_factory=list)

    async def _network(self) -> None:
        await asyncio.sleep(0.02)
        if self.down:
            raise StoreError("no API server")

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        await self._network()
        return copy.deepcopy(self.body)

    async def create(self, kind: str, body: Mapping[str, object]) -> Any:
        await self._network()
        if self.body is not None:
            raise Conflict("there")
        return await self._put(dict(body))

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, object]) -> Any:
        await self._network()
        if self.body is None:
            return None
        wanted: Any = patch
        if wanted["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        return await self._put(deep_merge(self.body, patch))

    async def _put(self, body: dict[str, Any]) -> Any:
        self.version += 1
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self.version)}
        self.body = copy.deepcopy(body)
        self.writes.append((asyncio.get_running_loop().time(), body["spec"].get("holderIdentity", "")))
        if self.deaf:
            await asyncio.sleep(1000)
        return body


def make(store: LeaseStore, name: str, floor: int = 0, **clock: float) -> Leadership:
    async def known() -> int:
        return floor

    found: Any = store
    return Leadership(
        found, "ns", name, clock=LoopClock(**clock), metrics=Metrics(), floor=known, address=f"ip-{name}"
    )


async def start(leadership: Leadership, stop: asyncio.Event) -> asyncio.Task[str]:
    assert await leadership.campaign(stop)
    return asyncio.create_task(leadership.keep())


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_first_leads_and_the_second_follows_it() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one, two = make(store, "one"), make(store, "two", offset=5000.0)
        keeping = await start(one, stop)
        following = asyncio.create_task(two.campaign(stop))
        await asyncio.sleep(60)
        assert one.leading
        assert not two.leading
        assert (two.holder, two.address, two.epoch) == ("one", "ip-one", 1)
        assert (one.trouble, two.trouble) == ("", "")
        # A write a second keeps it.
        assert 50 <= len(store.writes) <= 61
        stop.set()
        assert await following is False
        await end(keeping)

    virtual_time.run(case())


def test_a_leader_that_died_is_followed_within_seven_seconds_with_a_higher_epoch() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one, two = make(store, "one"), make(store, "two")
        keeping = await start(one, stop)
        following = asyncio.create_task(two.campaign(stop))
        await asyncio.sleep(20.5)
        await end(keeping)
        died = asyncio.get_running_loop().time()
        assert await following
        assert 4.0 <= asyncio.get_running_loop().time() - died <= 7.0
        assert two.epoch == 2
        assert not one.leading

    virtual_time.run(case())


def test_a_leader_that_gives_up_is_followed_at_once() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one, two = make(store, "one"), make(store, "two")
        keeping = await start(one, stop)
        following = asyncio.create_task(two.campaign(stop))
        await asyncio.sleep(10)
        await one.release()
        left = asyncio.get_running_loop().time()
        assert not one.leading
        assert await following
        assert asyncio.get_running_loop().time() - left <= 1.2
        assert await keeping == "given up"

    virtual_time.run(case())


def test_a_leader_without_an_api_server_stops_before_another_could_begin() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one = make(store, "one")
        keeping = await start(one, stop)
        await asyncio.sleep(10)
        store.down = True
        last = store.writes[-1][0]
        assert "in time" in await keeping
        assert asyncio.get_running_loop().time() - last <= 3.1
        assert not one.leading
        # The same process leads again, under a higher epoch, once there is a server.
        again = asyncio.create_task(one.campaign(stop))
        await asyncio.sleep(30)
        assert "not read for" in one.trouble
        store.down = False
        assert await again
        assert one.epoch == 2

    virtual_time.run(case())


def test_a_write_whose_answer_was_lost_is_found_and_the_lease_kept() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one = make(store, "one")
        keeping = await start(one, stop)
        await asyncio.sleep(5)
        for _ in range(3):
            store.deaf = True
            await asyncio.sleep(1.1)
            store.deaf = False
            await asyncio.sleep(10)
            assert one.leading
        assert one.epoch == 1
        await end(keeping)

    virtual_time.run(case())


def test_a_deleted_lease_ends_the_term_and_is_made_anew_above_the_floor() -> None:
    async def case() -> None:
        store, stop = LeaseStore(), asyncio.Event()
        one = make(store, "one", floor=41)
        assert await one.campaign(stop)
        assert one.epoch == 42
        keeping = asyncio.create_task(one.keep())
        store.body = None
        assert "deleted" in await keeping
        lost = asyncio.get_running_loop().time()
        assert await one.campaign(stop)
        assert asyncio.get_running_loop().time() - lost >= 5.0

    virtual_time.run(case())


def test_what_the_lease_says_is_what_people_read() -> None:
    async def case() -> None:
        store = LeaseStore()
        await make(store, "one").campaign(asyncio.Event())
        assert store.body is not None
        assert store.body["metadata"]["name"] == LEASE_NAME
        assert store.body["metadata"]["annotations"] == {"parley.dev/leader-address": "ip-one"}
        spec = store.body["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (
            "one",
            5,
            1,
        )
        assert spec["acquireTime"] == spec["renewTime"]
        assert spec["renewTime"].startswith("2027-01-15T08:00:00.")

    virtual_time.run(case())
