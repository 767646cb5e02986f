"""VoiceWorkerPools: makes and replaces worker pods, follows them, and links the operator with their
workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from parley_operator.api.constants import (
    ANNOTATION_MEDIA_PORT,
    ANNOTATION_SPEC_HASH,
    CONTROL_PORT,
    LABEL_POOL,
    MEDIA_PORT,
    POD,
    POOL,
    Body,
)
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import map_at, metadata_of, parse_pool_spec, spec_of, text_at
from parley_operator.domain.manifests import WorkerDefaults, build_pod, owner_reference, spec_hash
from parley_operator.domain.model import worker_id
from parley_operator.domain.pools import PoolDecision, WorkerPod, decide_pool, pool_status
from parley_operator.domain.shards import CONTAINER, free_ports, shard_count
from parley_operator.domain.status import condition, difference, merge_conditions
from parley_operator.domain.subjects import PoolView
from parley_operator.ports import Conflict, Refused, WorkerTarget

from .authority import Authority
from .context import Context
from .queue import Key

log = logging.getLogger(__name__)
RESYNC = 60.0
STATUS_EVERY = 5.0
# After the API server refused a pod.
REFUSED_PAUSE = 10.0
# The longest pause between pods that fail.
FAILED_MOST = 60.0


@dataclass(frozen=True, slots=True)
class _Hold:
    """No pods are made before `until` (monotonic); `failures` pods went without the pool ever being whole."""

    until: float = 0.0
    failures: int = 0
    trouble: str = ""


class PoolReconciler:
    """One pool at a time; pods are followed as they are seen."""

    pod_labels = LABEL_POOL

    def __init__(
        self, context: Context, authority: Authority, defaults: WorkerDefaults, new_suffix: Callable[[], str]
    ) -> None:
        self._context = context
        self._authority = authority
        self._defaults = defaults
        self._new_suffix = new_suffix
        self._written: dict[Key, float] = {}
        self._holds: dict[Key, _Hold] = {}
        self._secured: dict[Key, tuple[str, float]] = {}

    # -- pods

    def pod_seen(self, body: Body, deleted: bool) -> None:
        """Follow a worker pod: link with it while it has an address, let go when it is deleted."""
        name, pool = text_at(body, "metadata", "name"), text_at(body, "metadata", "labels", LABEL_POOL)
        namespace = text_at(body, "metadata", "namespace")
        if not pool or not _controller(body, pool):
            return
        key, worker = Key(POOL, namespace, pool), worker_id(namespace, name)
        view = _pod(body)
        if deleted or view.over:
            self._context.links.remove(worker)
            self._context.ledger.forget_worker(worker)
        elif text_at(body, "status", "podIP"):
            self._context.links.set_target(self._target(body, pool, namespace))
        self._context.queue.add(key)

    def _target(self, body: Body, pool: str, namespace: str) -> WorkerTarget:
        address = text_at(body, "status", "podIP")
        host_port = text_at(body, "metadata", "annotations", ANNOTATION_MEDIA_PORT)
        host = text_at(body, "status", "hostIP") if host_port else address
        return WorkerTarget(
            name=worker_id(namespace, text_at(body, "metadata", "name")),
            control_address=f"{_bracketed(address)}:{CONTROL_PORT}",
            tls=self._authority.tls_for(pool, namespace),
            pool=pool,
            namespace=namespace,
            node=text_at(body, "spec", "nodeName"),
            pod_uid=text_at(body, "metadata", "uid"),
            media_endpoint=f"{_bracketed(host)}:{host_port or MEDIA_PORT}",
            dead=_container_down(_worker_container(body)),
            restarts=_restarts(_worker_container(body)),
        )

    # -- the pool

    async def reconcile(self, key: Key) -> float | None:
        body = self._context.cache.get(POOL, key.namespace, key.name)
        if body is None or "deletionTimestamp" in metadata_of(body):
            for known in (self._holds, self._written, self._secured):
                known.pop(key, None)
            return None
        try:
            pool = PoolView(key.namespace, key.name, parse_pool_spec(spec_of(body)))
        except FieldError as error:
            await self._invalid(key, body, str(error))
            return None
        uid = text_at(body, "metadata", "uid")
        self._follow(key)
        pods = self._pods(key, uid)
        decision = decide_pool(pool.spec.replicas, spec_hash(pool, self._defaults), pods)
        hold = self._hold(key, pool, pods, decision)
        trouble = hold.trouble
        if self._context.clock.monotonic() >= hold.until:
            try:
                await self._secure(key, pool, uid, pressing=decision.create > 0)
            except (Refused, Conflict) as error:
                trouble = self._refuse(key, str(error))
                decision = replace(decision, create=0)
        else:
            decision = replace(decision, create=0)
        trouble = await self._carry_out(key, pool, uid, decision) or trouble
        await self._write_status(key, pool, body, pods, trouble)
        left = self._holds[key].until - self._context.clock.monotonic()
        return min(RESYNC, left) if left > 0 else RESYNC

    async def _secure(self, key: Key, pool: PoolView, uid: str, *, pressing: bool) -> None:
        """See to the pool's certificate, now and then and whenever a pod is going to need it."""
        now = self._context.clock.monotonic()
        known, until = self._secured.get(key, ("", 0.0))
        if pressing or known != uid or now >= until:
            owner = owner_reference(pool, uid)
            await self._authority.ensure_pool_secret(self._context.store, pool, owner)
            self._secured[key] = (uid, now + RESYNC)

    def _hold(self, key: Key, pool: PoolView, pods: list[WorkerPod], decision: PoolDecision) -> _Hold:
        """Pods that fail one after the other are replaced ever more slowly, the first one at once."""
        hold = self._holds.get(key, _Hold())
        if pods and sum(pod.ready for pod in pods) >= pool.spec.replicas:
            hold = _Hold()
        if decision.remove:
            pause = min(FAILED_MOST, 2.0**hold.failures) if hold.failures else 0.0
            until = self._context.clock.monotonic() + pause
            hold = _Hold(max(hold.until, until), hold.failures + 1, hold.trouble)
        if hold.trouble and self._context.clock.monotonic() >= hold.until:
            hold = replace(hold, trouble="")
        self._holds[key] = hold
        return hold

    def _refuse(self, key: Key, words: str) -> str:
        log.warning("pool %s/%s: no pod: %s", key.namespace, key.name, words)
        until = self._context.clock.monotonic() + REFUSED_PAUSE
        self._holds[key] = replace(self._holds[key], until=until, trouble=words)
        return words

    def _follow(self, key: Key) -> None:
        """Pass a renewed client certificate on to the links of the pool."""
        for pod_key, body in self._context.cache.of_kind(POD):
            mine = pod_key.namespace == key.namespace
            if mine and _controller(body, key.name) and text_at(body, "status", "podIP"):
                view = self._context.links.view(worker_id(pod_key.namespace, pod_key.name))
                if view is not None:
                    self._context.links.set_target(self._target(body, key.name, key.namespace))

    def _pods(self, key: Key, uid: str) -> list[WorkerPod]:
        found = []
        for pod_key, body in self._context.cache.of_kind(POD):
            if pod_key.namespace != key.namespace or _controller(body, key.name) != uid:
                continue
            view = self._context.links.view(worker_id(pod_key.namespace, pod_key.name))
            sessions = len(view.live_uids) if view else 0
            found.append(_pod(body, sessions, view.capacity if view and view.answers else 0))
        return found

    async def _carry_out(self, key: Key, pool: PoolView, uid: str, decision: PoolDecision) -> str:
        """Returns what the API server objected to; empty when all went well."""
        store = self._context.store
        for name in decision.remove:
            await store.delete(POD, key.namespace, name, "")
            body = self._context.cache.get(POD, key.namespace, name)
            if body is not None:
                # Counted and dealt with, however long the object stays.
                self._context.cache.drop(POD, body)
        for name in decision.retire:
            log.info("pool %s/%s: worker %s drains and goes", key.namespace, key.name, name)
            # Best effort: the pod's own SIGTERM drains it as well.
            await self._context.links.drain(worker_id(key.namespace, name), pool.spec.drain_timeout)
            await store.delete(POD, key.namespace, name, "")
        for _ in range(decision.create):
            suffix = self._new_suffix()
            try:
                await self._create(key, pool, uid, suffix)
            except (Refused, Conflict) as error:
                # Without the name, which is another one at every attempt: the status would change each time.
                return self._refuse(key, str(error).replace(f"-{suffix}", "-"))
        return ""

    async def _create(self, key: Key, pool: PoolView, uid: str, suffix: str) -> None:
        port: int | None = None
        exposure = pool.spec.exposure
        if exposure.host_port:
            count = shard_count(pool.spec)
            port = free_ports(exposure.least_port, exposure.most_port, self._ports_taken(), count)
            if port is None:
                wanted = "every port of the range is" if count == 1 else f"no {count} ports in a row are"
                words = "taken" if count == 1 else "free"
                raise Conflict(f"spec.exposure.hostPortRange: {wanted} {words}; widen it")
        manifest = build_pod(pool, uid, self._defaults, suffix, port)
        body = await self._context.store.create(POD, manifest)
        # Known from now on, so that a slow watch makes nobody create twice.
        self._context.cache.put(POD, body)
        log.info("pool %s/%s: worker %s made", key.namespace, key.name, text_at(body, "metadata", "name"))

    def _ports_taken(self) -> list[int]:
        return [port for _, body in self._context.cache.of_kind(POD) for port in _pod(body).host_ports]

    async def _write_status(
        self, key: Key, pool: PoolView, body: Body, pods: list[WorkerPod], trouble: str
    ) -> None:
        now = self._context.clock.now()
        generation = metadata_of(body).get("generation")
        previous = map_at(body, "status")
        patch = pool_status(
            pool, generation if isinstance(generation, int) else 1, previous, pods, now, trouble
        )
        if not patch:
            return
        waited = now - self._written.get(key, 0.0)
        if set(patch) == {"sessions"} and waited < STATUS_EVERY:
            self._context.queue.add_after(key, STATUS_EVERY - waited)
            return
        self._written[key] = now
        fresh = await self._context.store.patch_status(POOL, body, patch)
        if fresh is not None:
            self._context.cache.put(POOL, fresh)

    async def _invalid(self, key: Key, body: Body, message: str) -> None:
        previous = map_at(body, "status")
        generation = metadata_of(body).get("generation")
        number = generation if isinstance(generation, int) else 1
        refused = condition("Available", False, "InvalidSpec", message, number)
        merged = merge_conditions(previous.get("conditions"), [refused], self._context.clock.now())
        patch = difference(previous, {"conditions": merged})
        if patch:
            await self._context.store.patch_status(POOL, body, patch)


def _controller(body: Body, pool: str) -> str:
    """Uid of the pool of this name that owns the pod; empty for a pod that only looks like a worker."""
    owners = metadata_of(body).get("ownerReferences")
    for owner in owners if isinstance(owners, list) else []:
        if isinstance(owner, Mapping) and (owner.get("kind"), owner.get("name")) == (POOL, pool):
            return str(owner.get("uid", "")) if owner.get("controller") else ""
    return ""


def _pod(body: Body, sessions: int = 0, capacity: int = 0) -> WorkerPod:
    metadata = metadata_of(body)
    conditions = map_at(body, "status").get("conditions")
    ready = isinstance(conditions, list) and any(
        isinstance(c, Mapping) and c.get("type") == "Ready" and c.get("status") == "True" for c in conditions
    )
    return WorkerPod(
        name=str(metadata.get("name", "")),
        uid=str(metadata.get("uid", "")),
        hash=text_at(body, "metadata", "annotations", ANNOTATION_SPEC_HASH),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        over=text_at(body, "status", "phase") in ("Failed", "Succeeded"),
        sessions=sessions,
        capacity=capacity,
        host_ports=_host_ports(body),
        trouble=_trouble(body),
    )


def _host_ports(body: Body) -> tuple[int, ...]:
    """Ports of its node that the pod has."""
    containers = map_at(body, "spec").get("containers")
    found = []
    for container in containers if isinstance(containers, list) else []:
        ports = container.get("ports") if isinstance(container, Mapping) else None
        for port in ports if isinstance(ports, list) else []:
            number = port.get("hostPort") if isinstance(port, Mapping) else None
            if isinstance(number, int):
                found.append(number)
    return tuple(found)


def _worker_container(body: Body) -> Mapping[str, object]:
    """The status of the worker's container, empty before it has one."""
    statuses = map_at(body, "status").get("containerStatuses")
    for status in statuses if isinstance(statuses, list) else []:
        if isinstance(status, Mapping) and status.get("name") == CONTAINER:
            return status
    return {}


def _container_down(status: Mapping[str, object]) -> bool:
    """It is known not to run: terminated, or waiting after it ran before."""
    state = map_at(status, "state")
    return bool(state) and "running" not in state and ("terminated" in state or _restarts(status) > 0)


def _restarts(status: Mapping[str, object]) -> int:
    count = status.get("restartCount")
    return count if isinstance(count, int) else 0


def _trouble(body: Body) -> str:
    """Why the pod does not get going, as the scheduler or the kubelet says it; empty when it does."""
    waiting = text_at(_worker_container(body), "state", "waiting", "reason")
    if waiting and waiting not in ("ContainerCreating", "PodInitializing"):
        return waiting
    conditions = map_at(body, "status").get("conditions")
    for found in conditions if isinstance(conditions, list) else []:
        if isinstance(found, Mapping) and (found.get("type"), found.get("status")) == (
            "PodScheduled",
            "False",
        ):
            return str(found.get("reason", ""))
    return ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
