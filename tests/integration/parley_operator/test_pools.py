"""Pools on a real API server: scaled, drained, shielded from evictions, moved off nodes, refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, find_binary
from control_worker import ControlWorker
from controllers import BINARY, bind, change_node, evict, make_node, run_controllers
from operator_ground import POD, POOL, SESSION, SPEC, Ground, ground, until
from parley.control.v1 import control_pb2 as pb
from parley_operator.app import Operator
from parley_operator.config import load_settings
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore

pytestmark = pytest.mark.timeout(240)
DRAIN = {"updateStrategy": {"drainTimeout": "60s"}, "sessionsPerWorker": 4}
BUSY, SAFE = "parley.dev/busy", "cluster-autoscaler.kubernetes.io/safe-to-evict"


@pytest.fixture
async def here(apiserver: ApiServer) -> AsyncIterator[Ground]:
    async with KubeStore(from_kubeconfig(apiserver.kubeconfig)) as store, ground(store) as made:
        yield made


@asynccontextmanager
async def operating(here: Ground, apiserver: ApiServer) -> AsyncIterator[Operator]:
    values = {
        "NAMESPACE": here.namespace,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "WORKER_IMAGE": "w:1",
    }
    settings = load_settings({f"PARLEY_OPERATOR_{key}": value for key, value in values.items()})
    operator = Operator(settings, from_kubeconfig(apiserver.kubeconfig))
    task = asyncio.create_task(operator.run())
    try:
        async with asyncio.timeout(60):
            await operator.ready.wait()
        yield operator
    finally:
        operator.stop()
        await asyncio.wait_for(task, 60)


def kubectl(apiserver: ApiServer, *arguments: str) -> str:
    binary = find_binary("kubectl")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("kubectl not found; `make cluster-up` builds it")
        pytest.skip("kubectl not found; `make cluster-up` builds it")
    command = [binary, "--kubeconfig", str(apiserver.kubeconfig), *arguments]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout


async def pod(here: Ground, name: str) -> Any:
    return await here.store.get(POD, here.namespace, name)


async def status(here: Ground, **wanted: Any) -> Any:
    """The pool's status once it says what is wanted."""

    async def said() -> Any:
        body: Any = await here.store.get(POOL, here.namespace, "default")
        found = body.get("status", {})
        return found if wanted.items() <= found.items() else None

    return await until(said, f"the pool's status says {wanted}")


async def condition(here: Ground, kind: str, reason: str) -> Any:
    async def said() -> Any:
        body: Any = await here.store.get(POOL, here.namespace, "default")
        found = body.get("status", {}).get("conditions", [])
        return next((c for c in found if (c["type"], c["reason"]) == (kind, reason)), None)

    return await until(said, f"the pool is {kind} for {reason}")


async def call(here: Ground, name: str) -> tuple[ControlWorker, str]:
    """A session that is made and placed: its worker and uid."""
    await here.create(SESSION, name, {**SPEC, "limits": {"queueTimeout": "60s"}})
    return await placed(here, name)


async def placed(here: Ground, name: str) -> tuple[ControlWorker, str]:
    async def checked() -> Any:
        found: Any = await here.store.get(SESSION, here.namespace, name)
        return found if found.get("status", {}).get("phase") == "Ready" else None

    body = await until(checked, f"{name} is Ready")
    return here.workers[body["status"]["worker"]["name"]], body["metadata"]["uid"]


async def gone(here: Ground, name: str) -> None:
    async def checked() -> bool:
        found = await pod(here, name)
        return found is None or "deletionTimestamp" in found["metadata"]

    await until(checked, f"pod {name} goes")


async def test_whoever_scales_the_pool_scales_its_workers(here: Ground, apiserver: ApiServer) -> None:
    """kubectl, a HorizontalPodAutoscaler and KEDA all use the scale subresource."""
    async with operating(here, apiserver):
        await here.pool(**DRAIN, replicas=1)
        await here.run_workers(1)
        await status(here, readyReplicas=1)
        kubectl(apiserver, "-n", here.namespace, "scale", "vwp/default", "--replicas=2")
        await here.run_workers(1)
        await status(here, readyReplicas=2, replicas=2, desiredReplicas=2)
        busy, uid = await call(here, "call")
        path = f"/apis/parley.dev/v1alpha1/namespaces/{here.namespace}/voiceworkerpools/default/scale"
        scale: Any = (await here.store._request("GET", path)).body
        assert scale["status"]["replicas"] == 2
        kubectl(apiserver, "-n", here.namespace, "scale", "vwp/default", "--replicas=0")
        idle = next(name for name in here.workers if name != busy.name)
        await gone(here, idle)
        # The one with the call drains, and counts no more.
        await status(here, replicas=0, drainingReplicas=1)
        scale = (await here.store._request("GET", path)).body
        assert scale["status"]["replicas"] == 0
        selected = kubectl(
            apiserver, "-n", here.namespace, "get", "pods", "-o", "name", "-l", scale["status"]["selector"]
        )
        assert busy.name not in selected
        [asked] = busy.drains
        assert 55 < asked.timeout.ToTimedelta().total_seconds() <= 60
        assert (await pod(here, busy.name))["metadata"]["annotations"][
            "parley.dev/drain-reason"
        ] == "ScaleDown"
        busy.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
        await gone(here, busy.name)
        shown = kubectl(apiserver, "-n", here.namespace, "get", "vwp")
        for column in ("DESIRED", "READY", "UPDATED", "DRAINING", "SESSIONS", "CAPACITY", "QUEUE", "AGE"):
            assert column in shown


async def test_a_busy_worker_cannot_be_evicted_and_an_idle_one_can(
    here: Ground, apiserver: ApiServer, tmp_path: Path
) -> None:
    if find_binary(BINARY) is None:
        pytest.skip(f"{BINARY} not found; `make cluster-up` builds it")
    with run_controllers(apiserver, tmp_path, "disruption-controller"):
        async with operating(here, apiserver):
            await here.pool(**DRAIN, replicas=2)
            await here.run_workers(2)
            await status(here, readyReplicas=2)
            busy, uid = await call(here, "call")
            idle = next(name for name in here.workers if name != busy.name)

            async def shielded() -> bool:
                metadata = (await pod(here, busy.name))["metadata"]
                marks = (metadata["labels"][BUSY], metadata["annotations"][SAFE])
                budget: Any = await here.store.get(
                    "PodDisruptionBudget", here.namespace, "parley-pool-default-busy"
                )
                seen = budget and budget.get("status", {}).get("expectedPods") == 1
                return marks == ("true", "false") and bool(seen)

            await until(shielded, "the busy pod is marked and covered")
            metadata = (await pod(here, idle))["metadata"]
            assert (metadata["labels"][BUSY], metadata["annotations"][SAFE]) == ("false", "true")
            assert await evict(here.store, here.namespace, busy.name) == 429
            assert await evict(here.store, here.namespace, idle) == 201
            await gone(here, idle)
            # Fewer wanted than busy: a budget by the pool's scale would let the call be cut.
            await here.store.patch(POOL, here.namespace, "default", {"spec": {"replicas": 0}})
            await status(here, replicas=0, drainingReplicas=1)
            await asyncio.sleep(1)
            assert await evict(here.store, here.namespace, busy.name) == 429
            busy.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
            await gone(here, busy.name)


async def test_a_cordoned_node_is_left_with_the_replacement_made_first(
    here: Ground, apiserver: ApiServer
) -> None:
    node = f"n-{here.namespace}"
    await make_node(here.store, node)
    async with operating(here, apiserver):
        await here.pool(**DRAIN, replicas=1)
        [worker] = await here.run_workers(1)
        await bind(here.store, await pod(here, worker.name), node)
        await status(here, readyReplicas=1)
        _, uid = await call(here, "call")
        await change_node(here.store, node, {"unschedulable": True})
        [new] = await here.run_workers(1)
        assert worker.drains == []

        async def drained() -> bool:
            return bool(worker.drains)

        await until(drained, "the worker on the cordoned node drains")
        assert (await pod(here, worker.name))["metadata"]["annotations"]["parley.dev/drain-reason"] == "Node"
        other, _ = await call(here, "next")
        assert other.name == new.name
        worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
        await gone(here, worker.name)
    await here.store._request("DELETE", f"/api/v1/nodes/{node}")


async def test_a_worker_is_told_how_much_time_its_deletion_leaves(here: Ground, apiserver: ApiServer) -> None:
    node = f"n-{here.namespace}"
    await make_node(here.store, node)
    async with operating(here, apiserver):
        await here.pool(**DRAIN, replicas=1)
        [worker] = await here.run_workers(1)
        await bind(here.store, await pod(here, worker.name), node)
        await call(here, "call")
        path = f"/api/v1/namespaces/{here.namespace}/pods/{worker.name}"
        await here.store._request("DELETE", path, body={"gracePeriodSeconds": 25})
        worker.set_state(pb.WORKER_STATE_DRAINING)

        async def told() -> Any:
            return worker.drains

        [*_, asked] = await until(told, "the worker learns the deadline")
        assert asked.exactly
        assert 5 <= asked.timeout.seconds <= 12
        # Its place is taken at once.
        await here.run_workers(1)
    await here.store._request("DELETE", f"/api/v1/nodes/{node}")


async def test_a_quota_that_refuses_pods_is_told(here: Ground, apiserver: ApiServer) -> None:
    quotas = f"/api/v1/namespaces/{here.namespace}/resourcequotas"
    hard = {"hard": {"pods": "0"}}
    made = await here.post(
        quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": hard}
    )
    # The controller that counts does not run.
    made["status"] = {**hard, "used": {"pods": "0"}}
    answer = await here.store._request("PUT", f"{quotas}/none/status", body=made)
    assert answer.status == 200
    async with operating(here, apiserver):
        await here.pool(replicas=1)
        found = await condition(here, "Degraded", "PodsRefused")
        assert "exceeded quota" in found["message"]


async def test_what_keeps_pods_from_running_is_told(here: Ground, apiserver: ApiServer) -> None:
    async with operating(here, apiserver):
        await here.pool(replicas=1)

        async def made() -> Any:
            return await here.pods()

        [body] = await until(made, "a pod is made")
        waiting = {"reason": "ErrImagePull", "message": "manifest for w:1 not found"}
        container = {
            "name": "worker", "image": "w:1", "imageID": "", "ready": False, "restartCount": 0,
            "state": {"waiting": waiting}, "lastState": {},
        }  # fmt: skip
        await here.store.patch_status(POD, body, {"phase": "Pending", "containerStatuses": [container]})
        found = await condition(here, "Degraded", "ImagePull")
        assert found["message"] == "ImagePull: image w:1: ErrImagePull: manifest for w:1 not found"
        assert found["observedGeneration"] == 1
        shown = kubectl(apiserver, "-n", here.namespace, "get", "vwp", "-o", "wide")
        assert "ImagePull" in shown


async def test_a_pool_that_scales_by_itself_follows_its_queue(here: Ground, apiserver: ApiServer) -> None:
    scaling = {"min": 0, "max": 2, "bufferSessions": 0, "stabilization": "2s"}
    async with operating(here, apiserver):
        await here.pool(sessionsPerWorker=1, updateStrategy={"drainTimeout": "60s"}, autoscaling=scaling)
        await status(here, desiredReplicas=0, replicas=0)
        await here.create(SESSION, "call", {**SPEC, "limits": {"queueTimeout": "60s"}})
        [worker] = await here.run_workers(1, capacity=1)
        _, uid = await placed(here, "call")
        worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
        await gone(here, worker.name)
        await status(here, desiredReplicas=0, queued=0)
