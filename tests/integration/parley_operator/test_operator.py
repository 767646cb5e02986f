"""The whole operator, kopf included, on a real API server.

The test plays the kubelet: it gives pods addresses, and serves real control services with the certificates
that the
operator made.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from apiserver import PLAIN_USER, ROOT, ApiServer, find_binary
from control_worker import ControlTls, ControlWorker
from operator_ground import until
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc
from parley_operator.app import Operator
from parley_operator.config import load_settings
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore
from parley_operator.ports import Conflict, Refused
from prometheus_client.parser import text_string_to_metric_families

POD, POOL, SESSION, AGENT, SECRET = "Pod", "VoiceWorkerPool", "VoiceSession", "VoiceAgent", "Secret"
MERGE = {"apiVersion": "parley.dev/v1alpha1"}
pytestmark = pytest.mark.timeout(240)


class Cluster:
    """A namespace of its own, the operator's store, and a kubelet made of test code."""

    def __init__(self, server: ApiServer, store: KubeStore, namespace: str) -> None:
        self.server, self.store, self.namespace = server, store, namespace
        self.workers: dict[str, ControlWorker] = {}

    async def apply(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": self.namespace}
        return await self.store.create(kind, {**MERGE, "kind": kind, "metadata": metadata, "spec": spec})

    async def get(self, kind: str, name: str) -> Any:
        return await self.store.get(kind, self.namespace, name)

    async def pods(self) -> list[Any]:
        return [p for p in await self.store.list(POD) if p["metadata"]["namespace"] == self.namespace]

    async def run_pod(self, pod: Any) -> ControlWorker:
        """What kubelet and container would do."""
        name = pod["metadata"]["name"]
        secret = await self.get(SECRET, "parley-pool-default-tls")
        data = {k: base64.b64decode(v) for k, v in secret["data"].items()}
        host = f"127.{random.randrange(1, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}"
        tls = ControlTls(data["ca.crt"], data["tls.crt"], data["tls.key"])
        worker = ControlWorker(name=name, host=host, port=50052, tls=tls, capacity=2)
        await worker.start()
        self.workers[name] = worker
        await self.set_pod(pod, host, running=True, restarts=0)
        return worker

    async def set_pod(self, pod: Any, host: str, *, running: bool, restarts: int) -> None:
        state = {"running": {}} if running else {"terminated": {"exitCode": 137}}
        container = {
            "name": "worker",
            "image": "i",
            "imageID": "",
            "ready": running,
            "restartCount": restarts,
            "state": state,
            "lastState": {},
        }
        status = {
            "phase": "Running",
            "podIP": host,
            "hostIP": "10.0.0.9",
            "conditions": [{"type": "Ready", "status": str(running)}],
            "containerStatuses": [container],
        }
        latest = await self.get(POD, pod["metadata"]["name"])
        found = await self.store.patch_status(POD, latest, status)
        assert found is not None

    async def force_delete(self, name: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        answer = await self.store._request("DELETE", path, body={"gracePeriodSeconds": 0})
        assert answer.status == 200

    async def first_worker(self) -> ControlWorker:
        async def new() -> Any:
            return [p for p in await self.pods() if p["metadata"]["name"] not in self.workers]

        return await self.run_pod((await until(new, "a pod is made"))[0])

    async def looked_after(self) -> None:
        """The default pool has a status: the operator watches. To stop while it begins to takes seconds."""

        async def reported() -> bool:
            return bool((await self.get(POOL, "default")).get("status"))

        await until(reported, "the pool has a status")

    async def phase(self, name: str, *phases: str) -> Any:
        async def reached() -> Any:
            body = await self.get(SESSION, name)
            return body if body and body.get("status", {}).get("phase") in phases else None

        return await until(reached, f"{name} is {' or '.join(phases)}")


@asynccontextmanager
async def running(
    cluster: Cluster, kubeconfig: Path | None = None, **environ: str
) -> AsyncIterator[Operator]:
    prefix = "PARLEY_OPERATOR_"
    values = {
        "NAMESPACE": cluster.namespace,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "WORKER_IMAGE": "parley-worker:test",
        **environ,
    }
    settings = load_settings({prefix + k: v for k, v in values.items()})
    operator = Operator(settings, from_kubeconfig(kubeconfig or cluster.server.kubeconfig))
    task = asyncio.create_task(operator.run())
    try:
        async with asyncio.timeout(60):
            await operator.ready.wait()
        yield operator
    finally:
        operator.stop()
        await asyncio.wait_for(task, 60)


@pytest.fixture
async def cluster(apiserver: ApiServer) -> AsyncIterator[Cluster]:
    namespace = f"test-{random.randrange(10**9)}"
    async with KubeStore(from_kubeconfig(apiserver.kubeconfig)) as store:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        answer = await store._request("POST", "/api/v1/namespaces", body=body)
        assert answer.status == 201
        made = Cluster(apiserver, store, namespace)
        yield made
        for kind in (SESSION, POOL):
            for item in await store.list(kind):
                meta: Any = item["metadata"]
                await store.delete(kind, meta["namespace"], meta["name"], "")
        for pod in await made.pods():
            await made.force_delete(pod["metadata"]["name"])
        for worker in made.workers.values():
            await worker.stop()


AGENT_SPEC: dict[str, Any] = {"provider": {"type": "custom", "url": "ws://127.0.0.1:9/v1", "model": "m"}}
POOL_SPEC: dict[str, Any] = {
    "sessionsPerWorker": 2,
    "provider": {"allowedHosts": ["127.0.0.1"]},
    "updateStrategy": {"drainTimeout": "30s"},
}


async def test_from_a_pool_to_a_completed_call(cluster: Cluster) -> None:
    async with running(cluster) as operator:
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        [pod] = await cluster.pods()
        assert pod["spec"]["terminationGracePeriodSeconds"] > 30
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        body = await cluster.phase("call", "Ready")
        assert body["status"]["worker"]["name"] == worker.name
        assert "finalizers" not in body["metadata"]
        assert "annotations" not in body["metadata"]
        ticket = await cluster.get(SECRET, "call-ticket")
        assert set(ticket["data"]) == {"ticket", "endpoint", "tlsServerName", "telephonyEndpoint", "ca.crt"}
        assert ticket["metadata"]["ownerReferences"][0]["uid"] == body["metadata"]["uid"]
        uid = body["metadata"]["uid"]
        worker.report(uid, pb.SESSION_STATE_ACTIVE)
        await cluster.phase("call", "Active")
        worker.report(uid, pb.SESSION_STATE_ENDED, "AgentHangup", usage=pb.Usage(output_tokens=3))
        done = await cluster.phase("call", "Completed")
        assert done["status"]["usage"]["outputTokens"] == 3

        async def counted() -> Any:
            pool = await cluster.get(POOL, "default")
            status = pool.get("status", {})
            return (status.get("readyReplicas"), status.get("capacity")) == (1, 2)

        await until(counted, "the pool's status counts its worker")
        metrics = operator.metrics.render().decode()
        assert 'parley_operator_sessions_ended_total{reason="AgentHangup"} 1.0' in metrics
        assert 'parley_operator_admits_total{result="Admitted"} 1.0' in metrics


async def test_a_force_deleted_pod_loses_its_sessions_and_is_replaced(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("call", "Ready")
        await worker.stop()
        await cluster.force_delete(worker.name)
        body = await cluster.phase("call", "Failed")
        assert body["status"]["endReason"] == "WorkerLost"
        await cluster.first_worker()
        await cluster.apply(SESSION, "next", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("next", "Ready")


@pytest.mark.parametrize(("is_running", "restarts"), [(False, 0), (True, 1)])
async def test_a_killed_container_loses_its_sessions(
    cluster: Cluster, is_running: bool, restarts: int
) -> None:
    """Also when the kubelet had the next one running before it told, and that one has not spoken yet."""
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("call", "Ready")
        [pod] = await cluster.pods()
        await worker.stop()
        await cluster.set_pod(pod, worker.host, running=is_running, restarts=restarts)
        body = await cluster.phase("call", "Failed")
        assert body["status"]["endReason"] == "WorkerLost"


async def test_a_deleted_session_is_terminated(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("call", "Ready")
        await cluster.store.delete(SESSION, cluster.namespace, "call", "")

        async def over() -> bool:
            return not worker.live

        await until(over, "the call ends")
        assert worker.terminates[0].reason == "Terminated"


async def test_a_call_ends_though_a_finalizer_holds_its_object(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("call", "Ready")
        held: Any = {"metadata": {"finalizers": ["example.com/archive"]}}
        await cluster.store.patch(SESSION, cluster.namespace, "call", held)
        await cluster.store.delete(SESSION, cluster.namespace, "call", "")
        body = await cluster.phase("call", "Cancelled")
        assert body["status"]["endReason"] == "Terminated"
        assert not worker.live
        held["metadata"]["finalizers"] = None
        await cluster.store.patch(SESSION, cluster.namespace, "call", held)


class Wire:
    """A TCP connection to the API server that can be cut."""

    def __init__(self, url: str) -> None:
        self._host, port = url.removeprefix("https://").split(":")
        self._port, self.port = int(port), 0
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        while self._open:  # noqa: ASYNC110 - the ends of both copies are waited for
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        ends = {writer, far_writer}
        self._open |= ends
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        self._open -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_an_outage_of_the_api_server_costs_no_call(cluster: Cluster, tmp_path: Path) -> None:
    wire = Wire(cluster.server.url)
    await wire.join()
    config = yaml.safe_load(cluster.server.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    async with running(cluster, kubeconfig) as operator:
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        for name in ("ends", "stays"):
            await cluster.apply(SESSION, name, {"agentRef": {"name": "receptionist"}})
        ends = await cluster.phase("ends", "Ready")
        await cluster.phase("stays", "Ready")
        await wire.cut()
        # What happens now is told to nobody, and the operator cannot write.
        worker.report(ends["metadata"]["uid"], pb.SESSION_STATE_ENDED, "CallerHangup")
        await cluster.apply(SESSION, "new", {"agentRef": {"name": "receptionist"}})

        async def tried() -> bool:
            return 'api_errors_total{code="0",verb="PATCH"}' in operator.metrics.render().decode()

        await until(tried, "the operator tries to write")
        await wire.join()
        body = await cluster.phase("ends", "Completed")
        assert body["status"]["endReason"] == "CallerHangup"
        await cluster.phase("new", "Ready")
        assert (await cluster.get(SESSION, "stays"))["status"]["phase"] == "Ready"
        assert worker.terminates == []
    await wire.cut()


async def test_the_next_operator_takes_over_with_a_higher_epoch(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "one", {"agentRef": {"name": "receptionist"}})
        await cluster.phase("one", "Ready")
    # While nobody leads, the call goes on, another is asked for and one is deleted.
    await cluster.apply(SESSION, "two", {"agentRef": {"name": "receptionist"}})
    async with running(cluster):
        await cluster.phase("two", "Ready")
        assert len(worker.live) == 2
        assert len(worker.admits) == 2
        epochs = [admit.fence.leader_epoch for admit in worker.admits]
        assert epochs[1] > epochs[0]
        assert len(await cluster.pods()) == 1


async def test_a_changed_pool_gets_new_pods_first(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        first = await cluster.first_worker()
        template = {"spec": {"containers": [{"name": "worker", "image": "other:1"}]}}
        await cluster.store.patch(POOL, cluster.namespace, "default", {"spec": {"podTemplate": template}})
        second = await cluster.first_worker()
        pods = {p["metadata"]["name"]: p for p in await cluster.pods()}
        assert pods[second.name]["spec"]["containers"][0]["image"] == "other:1"

        async def gone() -> bool:
            left = {p["metadata"]["name"]: p for p in await cluster.pods()}
            return first.name not in left or "deletionTimestamp" in left[first.name]["metadata"]

        await until(gone, "the old pod goes")
        assert first.drains


async def test_the_default_pool_is_applied_from_its_file_and_may_be_scaled(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Another leader sets the number of workers again only where the file asks for another one."""
    file = tmp_path / "pool.yaml"

    def write(replicas: int, capacity: int) -> None:
        spec = {**POOL_SPEC, "replicas": replicas, "sessionsPerWorker": capacity}
        body = {**MERGE, "kind": POOL, "metadata": {"name": "default"}, "spec": spec}
        file.write_text(yaml.safe_dump(body))

    async def sizes(replicas: int, capacity: int) -> None:
        async def there() -> bool:
            body = await cluster.get(POOL, "default")
            found = body["spec"] if body is not None else {}
            return (found.get("replicas"), found.get("sessionsPerWorker")) == (replicas, capacity)

        await until(there, f"{replicas} workers of {capacity} places")

    write(0, 2)
    async with running(cluster, DEFAULT_POOL_FILE=str(file)):
        await sizes(0, 2)
        await cluster.looked_after()
    await cluster.store.patch(POOL, cluster.namespace, "default", {"spec": {"replicas": 1}})
    write(0, 3)
    async with running(cluster, DEFAULT_POOL_FILE=str(file)):
        await sizes(1, 3)
    write(2, 3)
    async with running(cluster, DEFAULT_POOL_FILE=str(file)):
        await sizes(2, 3)


async def test_another_certificate_cannot_control_a_worker(cluster: Cluster) -> None:
    async with running(cluster):
        await cluster.apply(POOL, "default", POOL_SPEC)
        worker = await cluster.first_worker()
    secret = await cluster.get(SECRET, "parley-pool-default-tls")
    ca = base64.b64decode(secret["data"]["ca.crt"])
    options = [("grpc.ssl_target_name_override", f"default.{cluster.namespace}.parley.internal")]
    credentials = grpc.ssl_channel_credentials(ca)
    address = f"{worker.host}:{worker.port}"
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        stub = control_pb2_grpc.WorkerControlServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Terminate(pb.TerminateRequest(), timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_store_tells_conflicts_refusals_and_absence_apart(cluster: Cluster) -> None:
    made = await cluster.apply(AGENT, "a", AGENT_SPEC)
    with pytest.raises(Conflict):
        await cluster.apply(AGENT, "a", AGENT_SPEC)
    with pytest.raises(Refused, match=r"spec\.provider\.url"):
        await cluster.apply(AGENT, "b", {"provider": {"type": "custom"}})
    assert await cluster.get(AGENT, "missing") is None
    space = cluster.namespace
    status = {"conditions": [{"type": "X", "status": "True"}]}
    assert await cluster.store.patch_status(AGENT, made, status) is not None
    with pytest.raises(Conflict):
        await cluster.store.patch_status(AGENT, made, status)
    metadata: Any = made["metadata"]
    stranger = {**made, "metadata": {**metadata, "uid": "another-uid"}}
    assert await cluster.store.patch_status(AGENT, stranger, status) is None
    await cluster.store.delete(AGENT, space, "a", "another-uid")
    assert await cluster.get(AGENT, "a") is not None
    await cluster.store.delete(AGENT, space, "a", metadata["uid"])
    assert await cluster.get(AGENT, "a") is None


def chart_rules(namespace: str) -> list[Any]:
    helm = find_binary("helm")
    if helm is None:
        pytest.skip("helm not found; `make cluster-up` builds it")
    arguments = ["template", "parley", "charts/parley", "--namespace", namespace, "-s", "templates/rbac.yaml"]
    text = subprocess.run([helm, *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    return [body for body in yaml.safe_load_all(text) if body]


async def test_the_charts_rights_are_enough(cluster: Cluster, tmp_path: Path) -> None:
    """Everything the operator does, as a user that has just what the chart grants."""
    for body in chart_rules(cluster.namespace):
        if body["kind"].endswith("Binding"):
            body["subjects"] = [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": PLAIN_USER}]
        space = body["metadata"].get("namespace", "")
        where = f"/namespaces/{space}" if space else ""
        path = f"/apis/rbac.authorization.k8s.io/v1{where}/{body['kind'].lower()}s"
        answer = await cluster.store._request("POST", path, body=body)
        assert answer.status == 201, answer.body
    file = tmp_path / "pool.yaml"
    rules = {"scenarios": {"allowSource": True, "entryPoints": ["*"]}}
    pool = {**MERGE, "kind": POOL, "metadata": {"name": "default"}, "spec": {**POOL_SPEC, **rules}}
    file.write_text(yaml.safe_dump(pool))
    await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
    source = {"metadata": {"name": "survey", "namespace": cluster.namespace}, "data": {"survey.py": "x = 1"}}
    await cluster.store.create("ConfigMap", {"apiVersion": "v1", "kind": "ConfigMap", **source})
    plain = cluster.server.plain_kubeconfig
    async with running(cluster, plain, DEFAULT_POOL_FILE=str(file)) as operator:
        worker = await cluster.first_worker()
        scenario = {"configMapRef": {"name": "survey", "key": "survey.py"}}
        spec = {"agentRef": {"name": "receptionist"}, "ttlSecondsAfterFinished": 0, "scenario": scenario}
        await cluster.apply(SESSION, "call", spec)
        body = await cluster.phase("call", "Ready")
        assert worker.admits[0].config.scenario.source == "x = 1"
        worker.report(body["metadata"]["uid"], pb.SESSION_STATE_ENDED, "AgentHangup")

        async def deleted() -> bool:
            return await cluster.get(SESSION, "call") is None

        await until(deleted, "the finished session is deleted")
        await cluster.store.patch(POOL, cluster.namespace, "default", {"spec": {"replicas": 0}})

        async def retired() -> bool:
            return all("deletionTimestamp" in pod["metadata"] for pod in await cluster.pods())

        await until(retired, "the worker goes")
        text = operator.metrics.render().decode()
        assert 'code="403"' not in text
        assert 'parley_operator_events_total{result="posted"}' in text
        agent = await cluster.get(AGENT, "receptionist")
        assert [c["type"] for c in agent["status"]["conditions"]] == ["Accepted"]
        assert await cluster.get("ControllerRevision", agent["status"]["revision"]) is not None


async def test_health_and_metrics_are_served(cluster: Cluster) -> None:
    async with running(cluster) as operator, aiohttp.ClientSession() as http:
        answers = {}
        for path in ("healthz", "readyz", "metrics"):
            async with http.get(f"http://127.0.0.1:{operator.port}/{path}") as answer:
                answers[path] = (answer.status, await answer.text())
        assert answers["healthz"] == (200, "ok\n")
        assert answers["readyz"] == (200, "ok\n")
        families = {family.name for family in text_string_to_metric_families(answers["metrics"][1])}
        assert {
            "parley_operator_admits",
            "parley_operator_sessions",
            "parley_operator_queue_depth",
        } <= families
        assert all(name.startswith("parley_operator_") for name in families)
        await cluster.apply(POOL, "default", {**POOL_SPEC, "replicas": 0})
        await cluster.looked_after()


async def test_promtool_finds_nothing_wrong_with_the_metrics(cluster: Cluster) -> None:
    promtool = find_binary("promtool")
    if promtool is None:
        words = "promtool not found; `make cluster-up` builds it"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    async with running(cluster) as operator:
        await cluster.apply(POOL, "default", POOL_SPEC)
        await cluster.apply(AGENT, "receptionist", AGENT_SPEC)
        worker = await cluster.first_worker()
        await cluster.apply(SESSION, "call", {"agentRef": {"name": "receptionist"}})
        body = await cluster.phase("call", "Ready")
        worker.report(body["metadata"]["uid"], pb.SESSION_STATE_ENDED, "AgentHangup")
        await cluster.phase("call", "Completed")
        text = operator.metrics.render()
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(text), 60)
    assert (process.returncode, output.decode()) == (0, "")
