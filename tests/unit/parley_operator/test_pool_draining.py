"""Pools over objects in memory: pods drain before they go, busy ones are shielded, fleets follow demand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.constants import BUDGET
from parley_operator.domain.model import SessionReport, SessionState, WorkerState
from parley_operator.domain.placement.demand import Choice, Request
from parley_operator.domain.status import timestamp
from parley_operator.handlers.queue import Key
from parley_operator.ports import StoreError
from reconcile_plane import HOSTS, POD, POOL, Plane

KEY = Key(POOL, "media", "p")
BUSY, SAFE = "parley.dev/busy", "cluster-autoscaler.kubernetes.io/safe-to-evict"
DRAIN = {"updateStrategy": {"drainTimeout": "60s"}}


class Pool:
    """A pool, whose kubelet and workers are played by the test."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    async def apply(self, **spec: Any) -> None:
        await self.plane.apply(POOL, "p", {**HOSTS, **DRAIN, **spec}, "media")
        await self.look()

    async def look(self, seconds: float = 0.0) -> float | None:
        self.plane.clock.at += seconds
        body: Any = self.plane.store.peek(POOL, "media", "p")
        self.plane.reconciler.observe(POOL, body)
        return await self.plane.pools.reconcile(KEY)

    async def pods(self) -> dict[str, Any]:
        found = await self.plane.store.list(POD)
        return {body["metadata"]["name"]: body for body in found}  # type: ignore[index]

    async def see(self) -> None:
        """What the watch tells: every pod as it is, and those that are gone."""
        present = await self.pods()
        for key, body in self.plane.context.cache.of_kind(POD):
            if key.name not in present:
                self.plane.reconciler.observe(POD, body, deleted=True)
        for body in present.values():
            self.plane.reconciler.observe(POD, body)

    async def run(self) -> list[str]:
        """Have the kubelet run every pod that does not run yet, with a worker that answers."""
        started = []
        for name, body in (await self.pods()).items():
            if "status" in body:
                continue
            status = {
                "phase": "Running",
                "podIP": f"10.0.0.{len(started) + 1}",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "worker", "state": {"running": {}}, "restartCount": 0}],
            }
            await self.plane.store.patch_status(POD, body, status)
            started.append(name)
        await self.see()
        for name in started:
            self.worker(name, instance_id=f"{name}-1", state=WorkerState.READY, capacity=20, connected=True)
        return started

    def worker(self, name: str, **facts: Any) -> None:
        view = self.plane.links.workers[f"media/{name}"]
        self.plane.links.workers[f"media/{name}"] = replace(view, **facts)

    def busy(self, name: str, *uids: str) -> None:
        sessions = {uid: SessionReport(uid, 1, "default", uid, SessionState.ACTIVE) for uid in uids}
        self.worker(name, sessions=sessions, occupied=len(uids))

    @property
    def status(self) -> Any:
        body: Any = self.plane.store.peek(POOL, "media", "p")
        return body["status"]


@pytest.fixture
async def pool() -> Pool:
    return Pool(Plane())


async def test_scaling_down_drains_and_deletes_when_the_last_session_is_over(pool: Pool) -> None:
    await pool.apply(replicas=2)
    first, second = await pool.run()
    pool.busy(first, "one", "two")
    pool.busy(second, "three")
    await pool.apply(replicas=1)
    marked = (await pool.pods())[second]["metadata"]
    assert marked["labels"]["parley.dev/draining"] == "true"
    assert marked["annotations"]["parley.dev/drain-reason"] == "ScaleDown"
    assert pool.plane.links.deadlines == [(f"media/{second}", 60.0, False)]
    assert pool.plane.links.targets[f"media/{second}"].draining
    pool.worker(second, state=WorkerState.DRAINING)
    assert pool.status["drainingReplicas"] == 1
    await pool.look(55)
    assert set(await pool.pods()) == {first, second}
    pool.busy(second)
    await pool.look()
    assert set(await pool.pods()) == {first}
    assert pool.plane.links.deadlines == [(f"media/{second}", 60.0, False)], "it was told once"


async def test_a_worker_that_did_not_hear_is_told_again(pool: Pool) -> None:
    await pool.apply(replicas=1)
    [name] = await pool.run()
    pool.busy(name, "one")
    await pool.apply(replicas=0)
    again = await pool.look(2)
    assert again == 2
    await pool.look(2)
    told = pool.plane.links.deadlines
    assert [worker for worker, _, _ in told] == [f"media/{name}"] * 3
    assert [round(left) for _, left, _ in told] == [60, 59, 57]


async def test_a_worker_is_deleted_only_after_its_deadline(pool: Pool) -> None:
    await pool.apply(replicas=1)
    [name] = await pool.run()
    pool.busy(name, "one")
    await pool.apply(replicas=0)
    pool.worker(name, state=WorkerState.DRAINING)
    again = await pool.look(1)
    assert again is not None
    assert again <= 60
    await pool.look(60)
    assert set(await pool.pods()) == {name}
    # Nobody is kept from taking the pod away any more.
    await pool.look(1)
    assert (await pool.pods())[name]["metadata"]["labels"][BUSY] == "false"
    await pool.look(10)
    assert await pool.pods() == {}


async def test_a_new_operator_goes_on_with_the_drain(pool: Pool) -> None:
    await pool.apply(replicas=1)
    [name] = await pool.run()
    pool.busy(name, "one")
    await pool.apply(replicas=0)
    await pool.plane.restart()
    pool.plane.suffixes = iter(["later"])
    # The worker has started anew and knows of no drain: it is told what is left.
    pool.plane.links.deadlines.clear()
    pool.busy(name, "one")
    await pool.look(20)
    [(worker, left, exactly)] = pool.plane.links.deadlines
    assert (worker, exactly) == (f"media/{name}", False)
    assert 39 <= left <= 42
    # Scaling up again makes a new pod, and leaves the draining one alone.
    await pool.apply(replicas=1)
    assert len(await pool.pods()) == 2
    pool.worker(name, state=WorkerState.DRAINING)
    pool.busy(name)
    await pool.look()
    assert name not in await pool.pods()


async def test_a_rollout_waits_for_the_new_pod(pool: Pool) -> None:
    await pool.apply(replicas=1)
    [old] = await pool.run()
    pool.busy(old, "one")
    await pool.apply(replicas=1, sessionsPerWorker=7)
    assert len(await pool.pods()) == 2
    assert pool.plane.links.drains == []
    assert (pool.status["updatedReplicas"], pool.status["replicas"]) == (1, 2)
    [new] = await pool.run()
    await pool.look()
    assert pool.plane.links.drains == [f"media/{old}"]
    pool.worker(old, state=WorkerState.DRAINING)
    await pool.look(30)
    assert set(await pool.pods()) == {old, new}
    pool.busy(old)
    await pool.look()
    assert set(await pool.pods()) == {new}


async def test_marks_follow_the_sessions_without_hurry(pool: Pool) -> None:
    await pool.apply(replicas=1)
    [name] = await pool.run()
    await pool.look()

    async def marks() -> tuple[str, str]:
        metadata = (await pool.pods())[name]["metadata"]
        return metadata["labels"][BUSY], metadata["annotations"][SAFE]

    assert await marks() == ("false", "true")
    pool.busy(name, "one")
    await pool.look()
    assert await marks() == ("true", "false")
    writes = []
    pool.plane.store.before = lambda verb, kind: writes.append(verb) if kind == POD else None
    for _ in range(20):
        # A session ends and the next one comes a second later.
        pool.busy(name)
        again = await pool.look(1)
        assert again is not None
        assert again <= 10
        pool.busy(name, "next")
        await pool.look(1)
    assert writes == []
    pool.busy(name)
    await pool.look(1)
    await pool.look(10)
    assert await marks() == ("false", "true")
    assert writes == ["patch"]


async def test_the_budget_is_made_once(pool: Pool) -> None:
    await pool.apply(replicas=0)
    budget: Any = pool.plane.store.peek("PodDisruptionBudget", "media", "parley-pool-p-busy")
    assert budget["metadata"]["ownerReferences"][0]["kind"] == POOL
    version = budget["metadata"]["resourceVersion"]
    await pool.look(1)
    await pool.look(700)
    budget = pool.plane.store.peek("PodDisruptionBudget", "media", "parley-pool-p-busy")
    assert budget["metadata"]["resourceVersion"] == version


async def test_a_budget_that_was_not_written_is_written_at_the_next_look(pool: Pool) -> None:
    store, failures = pool.plane.store, iter([StoreError("no answer")])
    apply = store.apply

    async def fails_once(kind: str, body: Any) -> Any:
        for error in failures if kind == BUDGET else ():
            raise error
        return await apply(kind, body)

    store.apply = fails_once  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await pool.apply(replicas=0)
    await pool.look(1)
    assert store.peek(BUDGET, "media", "parley-pool-p-busy") is not None


def node(name: str, **spec: Any) -> dict[str, Any]:
    labels = {"topology.kubernetes.io/zone": "z1"}
    return {"metadata": {"name": name, "uid": name, "labels": labels}, "spec": spec}


async def test_a_cordoned_node_is_left_by_its_pods_one_after_the_other(pool: Pool) -> None:
    plane = pool.plane
    plane.reconciler.observe("Node", node("n1"))
    await pool.apply(replicas=2)
    for name in await pool.pods():
        await plane.store.patch(POD, "media", name, {"spec": {"nodeName": "n1"}})
    first, second = await pool.run()
    await pool.look()
    assert {t.zone for t in plane.links.targets.values()} == {"z1"}
    plane.reconciler.observe("Node", node("n1", unschedulable=True))
    await pool.look()
    assert len(await pool.pods()) == 3, "the replacement comes first"
    assert plane.links.drains == []
    assert {name for name, t in plane.links.targets.items() if t.parting} == {
        f"media/{first}",
        f"media/{second}",
    }
    [new] = await pool.run()
    await pool.look()
    assert plane.links.drains == [f"media/{first}"]
    assert (await pool.pods())[first]["metadata"]["annotations"]["parley.dev/drain-reason"] == "Node"
    pool.worker(first, state=WorkerState.DRAINING)
    await pool.look()
    await pool.see()
    await pool.look()
    await pool.run()
    await pool.look()
    assert plane.links.drains == [f"media/{first}", f"media/{second}"]
    assert f"media/{new}" not in plane.links.drains


async def test_a_pod_that_somebody_deletes_is_replaced_and_told_its_time(pool: Pool) -> None:
    plane = pool.plane
    await pool.apply(replicas=1)
    [name] = await pool.run()
    pool.busy(name, "one")
    killed = {"deletionTimestamp": timestamp(plane.clock.at + 30), "deletionGracePeriodSeconds": 30}
    await plane.store.patch(POD, "media", name, {"metadata": killed})
    await pool.see()
    # It guesses the full drain timeout, which its machine does not give.
    pool.worker(name, state=WorkerState.DRAINING, drain_deadline=plane.clock.at + 60)
    await pool.look()
    assert plane.links.deadlines == [(f"media/{name}", 17.0, True)]
    assert len(await pool.pods()) == 2
    pool.worker(name, drain_deadline=plane.clock.at + 17)
    await pool.look()
    assert len(plane.links.deadlines) == 1


async def test_a_clock_that_leaps_ends_no_session(pool: Pool) -> None:
    plane = pool.plane
    await pool.apply(replicas=2)
    first, second = await pool.run()
    pool.busy(first, "one")
    pool.busy(second, "two")
    clock = plane.clock
    monotonic = clock.at
    clock.monotonic = lambda: monotonic  # type: ignore[method-assign]
    await pool.apply(replicas=1)
    killed = {"deletionTimestamp": timestamp(clock.at + 75), "deletionGracePeriodSeconds": 75}
    await plane.store.patch(POD, "media", second, {"metadata": killed})
    await pool.see()
    for leap in (3600, -7200):
        plane.links.deadlines.clear()
        await pool.look(leap)
        assert {worker for worker, _, _ in plane.links.deadlines} == {f"media/{first}", f"media/{second}"}
        assert min(left for _, left, _ in plane.links.deadlines) >= 60


async def test_a_worker_that_was_told_to_end_is_replaced_at_once(pool: Pool) -> None:
    """As when a machine of the spot market is taken away: the API server knows of nothing yet."""
    await pool.apply(replicas=1)
    [name] = await pool.run()
    pool.busy(name, "one")
    pool.worker(name, state=WorkerState.DRAINING, drain_deadline=pool.plane.clock.at + 12)
    await pool.look()
    assert len(await pool.pods()) == 2
    assert pool.plane.links.drains == []


async def test_recycling_makes_the_new_worker_first(pool: Pool) -> None:
    await pool.apply(replicas=1, recycle={"maxSessions": 100})
    [name] = await pool.run()
    pool.worker(name, sessions_total=99)
    await pool.look()
    assert len(await pool.pods()) == 1
    pool.worker(name, sessions_total=100)
    await pool.look()
    assert len(await pool.pods()) == 2
    await pool.run()
    await pool.look()
    metadata = (await pool.pods())[name]["metadata"]
    assert metadata["annotations"]["parley.dev/drain-reason"] == "MaxSessions"


async def test_a_fleet_follows_its_sessions_and_those_that_wait(pool: Pool) -> None:
    scaling = {"min": 1, "max": 4, "bufferSessions": 0, "stabilization": "60s"}
    await pool.apply(replicas=9, sessionsPerWorker=20, autoscaling=scaling)
    [first] = await pool.run()
    assert (await pool.look()) == 1.0
    pool.busy(first, *(f"s{n}" for n in range(20)))
    desk, choices = pool.plane.context.desk, (Choice(("media", "p")),)
    for n in range(25):
        desk.want(Request(f"w{n}", "default", f"w{n}", n, choices))
    await pool.look()
    assert len(await pool.pods()) == 3
    assert (pool.status["desiredReplicas"], pool.status["queued"]) == (3, 25)
    await pool.run()
    for n in range(25):
        desk.forget(f"w{n}")
    await pool.look(59)
    assert pool.plane.links.drains == []
    await pool.look(2)
    assert len(pool.plane.links.drains) == 2
    assert f"media/{first}" not in pool.plane.links.drains


async def test_numbers_of_a_pool_go_with_it(pool: Pool) -> None:
    await pool.apply(replicas=1)
    text = pool.plane.context.metrics.render().decode()
    assert 'parley_operator_pool_workers{namespace="media",pool="p",state="desired"} 1.0' in text
    body: Any = pool.plane.store.peek(POOL, "media", "p")
    pool.plane.reconciler.observe(POOL, body, deleted=True)
    await pool.plane.pools.reconcile(KEY)
    assert 'pool="p"' not in pool.plane.context.metrics.render().decode()
