"""Pools: pods made, replaced, refused, and those that are none of theirs."""

from __future__ import annotations

from typing import Any

import pytest
from parley_operator.handlers.queue import Key
from parley_operator.ports import Refused
from reconcile_plane import HOSTS, POD, POOL, SECRET, Plane


@pytest.fixture
async def plane() -> Plane:
    return Plane()


async def pool(plane: Plane, **spec: Any) -> Any:
    return await plane.apply(POOL, "p", {**HOSTS, **spec}, "media")


async def look_at_pool(plane: Plane) -> float | None:
    body: Any = plane.store.peek(POOL, "media", "p")
    plane.reconciler.observe(POOL, body)
    return await plane.pools.reconcile(Key(POOL, "media", "p"))


async def pods(plane: Plane) -> list[Any]:
    return [b for b in await plane.store.list(POD) if b["metadata"]["namespace"] == "media"]  # type: ignore[index]


def condition(plane: Plane, kind: str) -> Any:
    body: Any = plane.store.peek(POOL, "media", "p")
    return next(c for c in body["status"]["conditions"] if c["type"] == kind)


async def set_phase(plane: Plane, pod: Any, phase: str, ready: bool = False) -> None:
    status = {"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}]}
    plane.reconciler.observe(POD, await plane.store.patch_status(POD, pod, status))


async def test_pods_that_fail_at_once_are_replaced_ever_more_slowly(plane: Plane) -> None:
    await pool(plane)
    made, begun = 0, plane.clock.at
    while plane.clock.at < begun + 600:
        await look_at_pool(plane)
        for body in await pods(plane):
            made += 1
            await set_phase(plane, body, "Failed")
        await look_at_pool(plane)
        plane.clock.at += 1
    assert 8 <= made <= 20
    # Once the pool is whole again, the next failure is mended at once.
    plane.clock.at += 60
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Running", ready=True)
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Failed")
    await look_at_pool(plane)
    assert len(await pods(plane)) == 1


async def test_a_refused_pod_is_told_once_and_tried_slowly(plane: Plane) -> None:
    await pool(plane)
    tried = 0

    def refuse(verb: str, kind: str) -> None:
        nonlocal tried
        if kind == POD:
            tried += 1
            raise Refused(f'pods "p-s{tried - 1}" is forbidden: exceeded quota')

    plane.store.before = refuse
    for _ in range(30):
        # Every status write comes back as an event, and makes the pool be looked at.
        again = await look_at_pool(plane)
        assert again is not None
        plane.clock.at += 1
    assert tried == 3
    degraded = condition(plane, "Degraded")
    assert degraded["reason"] == "PodsRefused"
    assert "exceeded quota" in degraded["message"]
    assert len(plane.store.status_writes) == 1
    plane.store.before = lambda verb, kind: None
    plane.clock.at += 10
    await look_at_pool(plane)
    assert len(await pods(plane)) == 1


async def test_the_certificate_is_looked_at_now_and_then(plane: Plane) -> None:
    await pool(plane)
    for _ in range(120):
        await look_at_pool(plane)
        plane.clock.at += 1
    assert 2 <= plane.store.reads.count("parley-pool-p-tls") <= 4


async def test_a_tls_secret_of_somebody_else_is_left_alone(plane: Plane) -> None:
    metadata = {"name": "parley-pool-p-tls", "namespace": "media"}
    theirs = await plane.store.create(
        SECRET, {"apiVersion": "v1", "kind": SECRET, "metadata": metadata, "data": {"tls.key": "AA=="}}
    )
    await pool(plane)
    await look_at_pool(plane)
    assert plane.store.peek(SECRET, "media", "parley-pool-p-tls") == theirs
    assert await pods(plane) == []
    assert "parley-pool-p-tls" in condition(plane, "Degraded")["message"]


def look_alike(namespace: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}-{name}",
            "labels": {"parley.dev/pool": "p"},
            **metadata,
        },
        "status": {"podIP": "10.6.6.6", "phase": "Running"},
    }


async def test_a_pod_that_only_looks_like_a_worker_is_neither_asked_nor_removed(plane: Plane) -> None:
    await pool(plane)
    await look_at_pool(plane)
    plane.reconciler.observe(POD, look_alike("media", "copy-of-a-worker"))
    await look_at_pool(plane)
    assert plane.links.targets == {}
    assert plane.links.drains == []
    assert len(await pods(plane)) == 1


async def test_pods_of_one_name_in_two_namespaces_are_two_workers(plane: Plane) -> None:
    await pool(plane)
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Running", ready=True)
    name = body["metadata"]["name"]
    owner = {"kind": POOL, "name": "p", "uid": "u", "controller": True}
    twin = look_alike("elsewhere", name, ownerReferences=[owner])
    plane.reconciler.observe(POD, twin)
    assert set(plane.links.targets) == {f"media/{name}", f"elsewhere/{name}"}
    plane.reconciler.observe(POD, twin, deleted=True)
    assert set(plane.links.targets) == {f"media/{name}"}
    assert plane.links.targets[f"media/{name}"].control_address.startswith("10.0.0.1:")


async def test_the_status_says_why_pods_wait(plane: Plane) -> None:
    await pool(plane, replicas=2)
    await look_at_pool(plane)
    first, second = await pods(plane)
    reason = {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}
    waiting = {"name": "worker", "image": "i:1", "state": reason, "restartCount": 0}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    for body, status in ((first, {"containerStatuses": [waiting]}), (second, {"conditions": [unscheduled]})):
        plane.reconciler.observe(
            POD, await plane.store.patch_status(POD, body, {"phase": "Pending", **status})
        )
    await look_at_pool(plane)
    assert len(await pods(plane)) == 2
    degraded = condition(plane, "Degraded")
    assert degraded["status"] == "True"
    assert degraded["message"] == (
        "ImagePull: image i:1: ImagePullBackOff: no such tag; Unschedulable: no node takes the pod"
    )
