"""The worker pods of all pools as they are seen: linked with while they have an address, and told from
pods that only look like workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parley_operator.api.constants import (
    ANNOTATION_MEDIA_PORT,
    CONTROL_PORT,
    LABEL_BUSY,
    LABEL_DRAINING,
    LABEL_POOL,
    MEDIA_PORT,
    POD,
    POOL,
    Body,
)
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.model import worker_id
from parley_operator.domain.pools.aging import why_replace
from parley_operator.domain.pools.nodes import NodeView, leaving, node_of
from parley_operator.domain.pools.pods import (
    WorkerPod,
    container_down,
    controller_of,
    node_lost,
    read_pod,
    restarts_of,
    revision_of,
    vouched,
    with_worker,
)
from parley_operator.domain.subjects import PoolView
from parley_operator.ports import WorkerTarget

from .authority import Authority
from .context import Context
from .heartbeats import NodeHeartbeats
from .queue import Key


class PoolPods:
    """Pods in the cache, with what their nodes and workers say."""

    def __init__(self, context: Context, authority: Authority) -> None:
        self._context = context
        self._authority = authority
        self._nodes: dict[str, NodeView] = {}
        self.heartbeats = NodeHeartbeats(context, self._pods_of_node)

    # -- what is seen

    def pod_seen(self, body: Body, deleted: bool) -> None:
        """Link with a worker while its pod has an address, let go when it is deleted."""
        name, pool = text_at(body, "metadata", "name"), text_at(body, "metadata", "labels", LABEL_POOL)
        namespace = text_at(body, "metadata", "namespace")
        if not pool or not controller_of(body, pool):
            return
        worker = worker_id(namespace, name)
        if deleted or read_pod(body).over:
            self._context.links.remove(worker)
            self._context.ledger.forget_worker(worker)
        elif text_at(body, "status", "podIP"):
            self._context.links.set_target(self._target(body, pool, namespace))
        self._context.queue.add(Key(POOL, namespace, pool))

    def node_seen(self, body: Body, deleted: bool) -> None:
        """A node that is about to go is left by its pods in good time."""
        name = text_at(body, "metadata", "name")
        view = None if deleted else node_of(body)
        if self._nodes.get(name) == view:
            return
        if view is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = view
        self._pods_of_node(name)

    def _pods_of_node(self, name: str) -> None:
        for _, pod in self._context.cache.of_kind(POD):
            if text_at(pod, "spec", "nodeName") == name:
                self.pod_seen(pod, deleted=False)

    def follow(self, key: Key) -> None:
        """Pass a renewed client certificate on to the links of the pool."""
        for body in self._bodies(key, ""):
            view = self._context.links.view(worker_id(key.namespace, text_at(body, "metadata", "name")))
            if view is not None and text_at(body, "status", "podIP"):
                self._context.links.set_target(self._target(body, key.name, key.namespace))

    def _target(self, body: Body, pool: str, namespace: str) -> WorkerTarget:
        address = text_at(body, "status", "podIP")
        host_port = text_at(body, "metadata", "annotations", ANNOTATION_MEDIA_PORT)
        host = text_at(body, "status", "hostIP") if host_port else address
        node = text_at(body, "spec", "nodeName")
        pod, labels = read_pod(body), map_at(body, "metadata", "labels")
        found = self._nodes.get(node)
        return WorkerTarget(
            name=worker_id(namespace, pod.name),
            control_address=f"{_bracketed(address)}:{CONTROL_PORT}",
            tls=self._authority.tls_for(pool, namespace),
            pool=pool,
            namespace=namespace,
            node=node,
            pod_uid=pod.uid,
            media_endpoint=f"{_bracketed(host)}:{host_port or MEDIA_PORT}",
            dead=container_down(body),
            restarts=restarts_of(body),
            vouched=vouched(body),
            unreachable=node_lost(body) or self.heartbeats.lost(node),
            revision=revision_of(body),
            zone=found.zone if found else "",
            labels={k: str(v) for k, v in labels.items() if k not in (LABEL_BUSY, LABEL_DRAINING)},
            draining=pod.draining or pod.terminating,
            drain_deadline=pod.deadline or pod.killed_at,
            parting=bool(leaving(found, body)),
        )

    # -- what is asked

    def of(self, key: Key, uid: str, pool: PoolView, revision: str) -> list[WorkerPod]:
        """Every pod of the pool, those that end or have ended among them."""
        now = self._context.clock.now()
        found = []
        for body in self._bodies(key, uid):
            pod = read_pod(body)
            pod = with_worker(pod, self._context.links.view(worker_id(key.namespace, pod.name)))
            node = self._nodes.get(pod.node)
            why = why_replace(pod, revision, pool.spec.recycle, bool(leaving(node, body)), now)
            found.append(replace(pod, outdated=why, parting=node is not None and node.parting))
        return found

    def ports_taken(self) -> list[int]:
        """Ports of nodes that pods of any pool have."""
        return [port for _, body in self._context.cache.of_kind(POD) for port in read_pod(body).host_ports]

    def _bodies(self, key: Key, uid: str) -> Iterator[Body]:
        """Pods that the pool of this uid owns; of any uid when it is empty."""
        for pod_key, body in self._context.cache.of_kind(POD):
            owner = controller_of(body, key.name) if pod_key.namespace == key.namespace else ""
            if owner and uid in ("", owner):
                yield body


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
