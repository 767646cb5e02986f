"""Two operator processes on a real API server: the leader is killed, told to go, frozen and woken."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_proxy import ApiProxy, api_proxy
from apiserver import ApiServer
from control_worker import ControlWorker
from operator_ground import SESSION, SPEC, Ground, ground, until
from operator_process import OperatorProcess, operator_process
from parley.control.v1 import control_pb2 as pb
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore

pytestmark = pytest.mark.timeout(240)
LEASE, POD = "Lease", "Pod"


@dataclass
class Pair:
    """Two operators, each with a way of its own to the API server, and one worker with three calls on it."""

    ground: Ground
    proxies: dict[str, ApiProxy]
    operators: dict[str, OperatorProcess]
    worker: ControlWorker
    before: dict[str, Any]

    @property
    def store(self) -> KubeStore:
        return self.ground.store

    async def lease(self) -> Any:
        body = await self.store.get(LEASE, self.ground.namespace, "parley-operator")
        assert body is not None
        return body["spec"]

    async def leader(self) -> OperatorProcess:
        name = (await self.lease())["holderIdentity"].partition("_")[0]
        return self.operators[name]

    def other(self, one: OperatorProcess) -> OperatorProcess:
        return next(each for each in self.operators.values() if each is not one)

    async def call(self, name: str) -> None:
        await self.ground.create(SESSION, name, SPEC)

    async def get(self, name: str) -> Any:
        return await self.store.get(SESSION, self.ground.namespace, name)

    async def phase(self, name: str, phase: str, timeout: float = 30) -> Any:
        async def reached() -> Any:
            body = await self.get(name)
            return body if body and body.get("status", {}).get("phase") == phase else None

        return await until(reached, f"{name} is {phase}", timeout)

    async def labelled(self) -> list[str]:
        pods = await self.store.list(POD, "parley.dev/leader=true")
        found: list[Any] = [p["metadata"] for p in pods]
        return [meta["name"] for meta in found if meta["namespace"] == self.ground.namespace]

    async def untouched(self) -> None:
        """Nobody asked the worker about the three calls again, nobody wrote their objects."""
        for name, body in self.before.items():
            assert version(await self.get(name)) == version(body)
        uids = [admit.session.session_uid for admit in self.worker.admits]
        assert all(uids.count(body["metadata"]["uid"]) == 1 for body in self.before.values())
        assert self.worker.terminates == []
        assert {body["metadata"]["uid"] for body in self.before.values()} <= {
            report.session.session_uid for report in self.worker.live
        }


def version(body: Any) -> str:
    return str(body["metadata"]["resourceVersion"])


def operators_pod(name: str, namespace: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "operator", "image": "i"}]}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": POD, "metadata": metadata, "spec": spec}


@pytest.fixture
async def pair(apiserver: ApiServer, tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(KubeStore(from_kubeconfig(apiserver.kubeconfig)))
        made = await stack.enter_async_context(ground(store))
        proxies, operators = {}, {}
        for name in ("operator-a", "operator-b"):
            await store.create(POD, operators_pod(name, made.namespace))
            proxies[name] = await stack.enter_async_context(api_proxy(apiserver.url))
            config = proxies[name].kubeconfig(tmp_path / f"{name}.kubeconfig")
            process = operator_process(name, made.namespace, config, tmp_path, POD_IP=f"ip-of-{name}")
            operators[name] = await stack.enter_async_context(process)

        async def led() -> bool:
            return any([await each.leads() for each in operators.values()])

        await until(led, "one leads")

        async def ready() -> bool:
            return all([(await each.ask("readyz"))[0] == 200 for each in operators.values()])

        await until(ready, "both are ready")
        await made.pool(sessionsPerWorker=20)
        [worker] = await made.run_workers(1, capacity=20)
        pair = Pair(made, proxies, operators, worker, {})
        for name in ("one", "two", "three"):
            await pair.call(name)
        pair.before = {name: await pair.phase(name, "Ready") for name in ("one", "two", "three")}
        yield pair
        for name in operators:
            path = f"/api/v1/namespaces/{made.namespace}/pods/{name}"
            await store._request("DELETE", path, body={"gracePeriodSeconds": 0})


async def settle(pair: Pair) -> None:
    """Whatever the leader writes of the calls is written, and nothing since."""
    await asyncio.sleep(1.0)
    pair.before = {name: await pair.get(name) for name in pair.before}


async def test_a_killed_leader_is_followed_within_ten_seconds_and_no_call_is_touched(pair: Pair) -> None:
    leader = await pair.leader()
    follower, epoch = pair.other(leader), (await pair.lease())["leaseTransitions"]
    assert await follower.metric("leading") == 0
    assert await follower.metric("sessions") == 0
    assert await pair.labelled() == [leader.name]
    await settle(pair)
    loop = asyncio.get_running_loop()
    await leader.end(signal.SIGKILL)
    killed = loop.time()
    await pair.call("next")
    await pair.phase("next", "Ready", timeout=20)
    took = loop.time() - killed
    print(f"killed leader: next placement after {took:.2f} s")
    assert took < 10
    lease = await pair.lease()
    assert lease["holderIdentity"].startswith(follower.name)
    assert lease["leaseTransitions"] == epoch + 1
    assert pair.worker.admits[-1].fence.leader_epoch == epoch + 1
    await until(follower.leads, "the follower watches")
    await pair.untouched()
    assert await follower.metric("admits_total") == 1
    assert await follower.metric("terminates_total") == 0

    async def marked() -> bool:
        return await pair.labelled() == [follower.name]

    await until(marked, "the label moves")


async def test_a_leader_that_is_told_to_go_hands_over_at_once(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    await settle(pair)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ending = asyncio.create_task(leader.end(signal.SIGTERM))
    await pair.call("next")
    await pair.phase("next", "Ready", timeout=20)
    took = loop.time() - begun
    print(f"leader told to go: next placement after {took:.2f} s")
    assert took < 5
    assert await ending == 0
    await until(follower.leads, "the follower watches")
    await pair.untouched()
    assert await pair.labelled() == [follower.name]


async def test_a_frozen_leader_writes_nothing_when_it_wakes(pair: Pair) -> None:
    leader = await pair.leader()
    follower, proxy = pair.other(leader), pair.proxies[leader.name]
    await settle(pair)
    epoch = (await pair.lease())["leaseTransitions"]
    leader.send(signal.SIGSTOP)
    frozen = asyncio.get_running_loop().time()
    # The frozen one finds all of this in its sockets when it wakes: two to be placed, one that ended, one to
    # be ended.
    for name in ("four", "five"):
        await pair.call(name)
    ended = pair.before.pop("three")
    pair.worker.report(ended["metadata"]["uid"], pb.SESSION_STATE_ENDED, "CallerHangup")
    deleted = pair.before.pop("two")
    await pair.store.delete(SESSION, pair.ground.namespace, "two", deleted["metadata"]["uid"])
    await pair.phase("four", "Ready", timeout=20)
    await pair.phase("five", "Ready", timeout=20)
    await pair.phase("three", "Completed", timeout=20)
    await asyncio.sleep(max(0.0, frozen + 15 - asyncio.get_running_loop().time()))

    async def told() -> bool:
        return len(pair.worker.terminates) == 1

    await until(told, "the deleted call ends")
    admits = len(pair.worker.admits)
    woken = asyncio.get_running_loop().time()
    leader.send(signal.SIGCONT)

    async def follows() -> bool:
        return await leader.metric("leading") == 0

    async def ready() -> bool:
        assert (await leader.ask("healthz"))[0] == 200
        return (await leader.ask("readyz"))[0] == 200

    await until(follows, "the woken one follows")
    # It says so at once; it can take over again when all that it had begun is ended, watches of kopf too.
    await until(ready, "the woken one could take over")
    print(f"frozen leader: could take over {asyncio.get_running_loop().time() - woken:.2f} s after it woke")
    await asyncio.sleep(max(0.0, woken + 4 - asyncio.get_running_loop().time()))
    assert [request for request in proxy.since(woken) if request.verb != "GET"] == []
    assert len(pair.worker.admits) == admits
    assert len(pair.worker.terminates) == 1
    assert {admit.fence.leader_epoch for admit in pair.worker.admits[-2:]} == {epoch + 1}
    assert await follower.leads()
    assert await ready()

    # And it is as good a follower as any.
    await follower.end(signal.SIGKILL)
    await pair.call("six")
    await pair.phase("six", "Ready", timeout=20)
    assert pair.worker.admits[-1].fence.leader_epoch == epoch + 2
    for name, body in pair.before.items():
        assert version(await pair.get(name)) == version(body)
