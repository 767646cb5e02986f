"""Nodes that are lost are told from networks that are cut, earlier than the cluster says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.pools.heartbeats import STANDS_STILL, Heartbeats
from parley_operator.handlers.heartbeats import NodeHeartbeats
from parley_operator.ports import StoreError
from reconcile_plane import Plane


def test_a_lease_that_stands_still_is_a_node_that_stopped() -> None:
    beats = Heartbeats()
    beats.saw("n", "12:00:00", 100.0)
    beats.saw("m", "09:00:00", 100.0)
    assert beats.stopped(100.0 + STANDS_STILL - 0.1) == frozenset()
    # Whatever the node's clock says: also one that was put back counts as a renewal.
    beats.saw("m", "08:00:00", 110.0)
    beats.saw("n", "12:00:00", 110.0)
    assert beats.stopped(100.0 + STANDS_STILL) == {"n"}
    beats.saw("n", "12:00:30", 120.0)
    assert beats.stopped(121.0) == frozenset()


def test_time_in_which_nobody_could_ask_does_not_count() -> None:
    beats = Heartbeats()
    beats.saw("n", "12:00:00", 100.0)
    beats.unseen("n")
    beats.saw("n", "12:00:00", 130.0)
    assert beats.stopped(131.0) == frozenset()
    beats.only(["other"])
    assert beats.stopped(1000.0) == frozenset()


class Nodes:
    """A plane with the worker `w` on node `n`, whose Lease tests renew by hand."""

    def __init__(self) -> None:
        self.plane = Plane()
        self.renewed: str | StoreError | None = "12:00:00"
        self.asked: list[str] = []
        self.told: list[str] = []
        self.plane.store.get = self.get  # type: ignore[method-assign]
        self.beats = NodeHeartbeats(self.plane.context, self.told.append)
        self.plane.links.add("w", node="n", connected=False, silent_for=6.0)

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        assert (kind, namespace) == ("Lease", "kube-node-lease")
        self.asked.append(name)
        if isinstance(self.renewed, StoreError):
            raise self.renewed
        return {"spec": {"renewTime": self.renewed}} if self.renewed else None

    async def after(self, seconds: float) -> bool:
        self.plane.clock.at += seconds
        await self.beats.look()
        return self.beats.lost("n")

    def worker(self, **facts: Any) -> None:
        self.plane.links.workers["w"] = replace(self.plane.links.workers["w"], **facts)


async def test_a_node_is_lost_when_its_workers_are_silent_and_its_lease_stands_still() -> None:
    nodes = Nodes()
    assert not await nodes.after(0)
    assert not await nodes.after(STANDS_STILL - 1)
    assert await nodes.after(1)
    assert await nodes.after(30)
    assert nodes.told == ["n"]
    # It was only slow after all.
    nodes.renewed = "12:01:00"
    assert not await nodes.after(1)
    assert nodes.told == ["n", "n"]


async def test_nobody_is_asked_while_workers_are_heard_and_a_cut_network_is_no_lost_node() -> None:
    nodes = Nodes()
    nodes.worker(connected=True, silent_for=0.0)
    assert not await nodes.after(60)
    nodes.worker(connected=False, silent_for=4.0)
    assert not await nodes.after(1)
    assert nodes.asked == []
    nodes.worker(silent_for=100.0)
    for second in range(40):
        # The kubelet renews every ten seconds.
        nodes.renewed = f"12:00:{second // 10}0"
        assert not await nodes.after(1)
    # It is heard again, and asked about no more.
    nodes.worker(connected=True, silent_for=0.0)
    asked = len(nodes.asked)
    assert not await nodes.after(1)
    assert len(nodes.asked) == asked


@pytest.mark.parametrize("answer", [None, StoreError("HTTP 403", code=403), StoreError("no answer")])
async def test_a_lease_that_cannot_be_had_says_nothing(answer: StoreError | None) -> None:
    nodes = Nodes()
    assert not await nodes.after(0)
    nodes.renewed = answer
    assert not await nodes.after(60)
    nodes.renewed = "12:00:00"
    assert not await nodes.after(0)
    assert not await nodes.after(STANDS_STILL - 1)
    assert await nodes.after(1)
