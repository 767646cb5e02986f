"""Controllers of a real kube-controller-manager for a test's API server, and nodes that are objects only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apiserver import ApiServer, _process
from parley_operator.kube.store import KubeStore

BINARY = "kube-controller-manager"


@contextlib.contextmanager
def run_controllers(server: ApiServer, folder: Path, *names: str) -> Iterator[None]:
    """Run just the controllers named until the end of the block; the log is in `folder`."""
    manager = _process(
        folder, BINARY, f"--kubeconfig={server.kubeconfig}", f"--controllers={','.join(names)}",
        "--leader-elect=false", "--secure-port=0",
    )  # fmt: skip
    with manager:
        yield


async def make_node(store: KubeStore, name: str, zone: str = "z1") -> None:
    labels = {"topology.kubernetes.io/zone": zone}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    answer = await store._request("POST", "/api/v1/nodes", body=body)
    assert answer.status == 201, answer


async def change_node(store: KubeStore, name: str, spec: dict[str, Any]) -> None:
    media = "application/merge-patch+json"
    answer = await store._request("PATCH", f"/api/v1/nodes/{name}", body={"spec": spec}, media=media)
    assert answer.status == 200, answer


async def bind(store: KubeStore, pod: Any, node: str) -> None:
    """What the scheduler does."""
    metadata = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
    answer = await store._request("POST", path, body=body)
    assert answer.status == 201, answer


async def evict(store: KubeStore, namespace: str, name: str) -> int:
    """What `kubectl drain` and autoscalers do; returns the HTTP status: 429 while a budget forbids it."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    single = store._attempts
    try:
        # The store repeats a 429 by itself: here it is an answer.
        store._attempts = 1
        return (await store._request("POST", path, body=body)).status
    finally:
        store._attempts = single
