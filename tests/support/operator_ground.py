"""A namespace of a real API server with an operator's pool in it, whose kubelet is test code: pods run
control
services with the certificates that the operator made."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from control_worker import ControlTls, ControlWorker
from parley_operator.kube.store import KubeStore

POD, POOL, SESSION, AGENT, SECRET = "Pod", "VoiceWorkerPool", "VoiceSession", "VoiceAgent", "Secret"
API = "parley.dev/v1alpha1"
AGENT_SPEC: dict[str, Any] = {"provider": {"type": "custom", "url": "ws://127.0.0.1:9/v1", "model": "m"}}
SPEC: dict[str, Any] = {"agent": AGENT_SPEC}
_hosts = itertools.count(random.randrange(1, 200) * 256)


async def until(check: Callable[[], Awaitable[Any]], what: str, timeout: float = 60.0) -> Any:
    """Raises `TimeoutError` naming `what`."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                found = await check()
                if found:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"did not happen: {what}") from None


class Ground:
    """`store` is the administrator's."""

    def __init__(self, store: KubeStore, namespace: str) -> None:
        self.store, self.namespace = store, namespace
        self.workers: dict[str, ControlWorker] = {}

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self.store._request("POST", path, body=body)
        assert answer.status in (200, 201), answer
        return answer.body

    async def create(self, kind: str, name: str, spec: dict[str, Any]) -> Any:
        metadata = {"name": name, "namespace": self.namespace}
        return await self.store.create(
            kind, {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}
        )

    async def pool(self, name: str = "default", **spec: Any) -> None:
        hosts = {"allowedHosts": ["127.0.0.1"]}
        await self.create(POOL, name, {"allowedNamespaces": ["*"], "provider": hosts, **spec})

    async def token(self, account: str, *verbs: str, audience: str = "") -> str:
        """Of a service account of the namespace that may do `verbs` with voicesessions in it."""
        space = f"/api/v1/namespaces/{self.namespace}"
        meta = {"name": account, "namespace": self.namespace}
        answer = await self.store._request(
            "POST",
            f"{space}/serviceaccounts",
            body={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        )
        if answer.status == 201 and verbs:
            rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}"
            group = "rbac.authorization.k8s.io"
            rules = [{"apiGroups": ["parley.dev"], "resources": ["voicesessions"], "verbs": list(verbs)}]
            head = {"apiVersion": f"{group}/v1", "metadata": meta}
            await self.post(f"{rbac}/roles", {**head, "kind": "Role", "rules": rules})
            reference = {"apiGroup": group, "kind": "Role", "name": account}
            subject = {"kind": "ServiceAccount", "name": account, "namespace": self.namespace}
            await self.post(
                f"{rbac}/rolebindings",
                {**head, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]},
            )
        spec = {"audiences": [audience] if audience else [], "expirationSeconds": 3600}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        found = await self.post(f"{space}/serviceaccounts/{account}/token", asked)
        return str(found["status"]["token"])

    # -- kubelet

    async def pods(self) -> list[Any]:
        """The workers' pods."""
        listed = await self.store.list(POD, "parley.dev/pool")
        found: list[Any] = [p for p in listed if _namespace(p) == self.namespace]
        return found

    async def run_workers(self, count: int, capacity: int = 4) -> list[ControlWorker]:
        """What kubelet and containers would do for `count` pods that the operator made."""

        async def made() -> Any:
            found = [p for p in await self.pods() if p["metadata"]["name"] not in self.workers]
            return found if len(found) >= count else None

        pods = await until(made, f"{count} pods are made")
        return [await self._run_pod(pod, capacity) for pod in pods[:count]]

    async def _run_pod(self, pod: Any, capacity: int) -> ControlWorker:
        name, number = pod["metadata"]["name"], next(_hosts)
        host = f"127.{1 + number // 65536 % 250}.{number // 256 % 256}.{2 + number % 250}"
        pool = pod["metadata"]["labels"]["parley.dev/pool"]
        secret: Any = await self.store.get(SECRET, self.namespace, f"parley-pool-{pool}-tls")
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        tls = ControlTls(data["ca.crt"], data["tls.crt"], data["tls.key"])
        worker = ControlWorker(name=name, host=host, port=50052, tls=tls, capacity=capacity)
        await worker.start()
        self.workers[name] = worker
        status = {
            "phase": "Running",
            "podIP": host,
            "hostIP": "10.0.0.9",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": "worker", "image": "i", "imageID": "", "ready": True, "restartCount": 0,
                 "state": {"running": {}}, "lastState": {}},
            ],
        }  # fmt: skip
        latest = await self.store.get(POD, self.namespace, name)
        assert latest is not None
        assert await self.store.patch_status(POD, latest, status) is not None
        return worker

    async def clean(self) -> None:
        """Delete what is in the namespace, and stop the workers."""
        for kind in (SESSION, POOL):
            for item in await self.store.list(kind):
                meta: Any = item["metadata"]
                if meta["namespace"] == self.namespace:
                    await self.store.delete(kind, self.namespace, meta["name"], "")
        for pod in await self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
            await self.store._request("DELETE", path, body={"gracePeriodSeconds": 0})
        await self.stop_workers()

    async def stop_workers(self) -> None:
        for worker in self.workers.values():
            await worker.stop()


@asynccontextmanager
async def ground(store: KubeStore) -> AsyncIterator[Ground]:
    """A namespace of its own."""
    made = Ground(store, f"test-{random.randrange(10**9)}")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.namespace}}
    await made.post("/api/v1/namespaces", body)
    try:
        yield made
    finally:
        await made.clean()


def _namespace(body: Any) -> str:
    return str(body["metadata"]["namespace"])
