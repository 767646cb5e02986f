"""VoiceWorkerPools: makes and replaces worker pods, follows them, and links the operator with their
workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from parley_operator.api.constants import (
    ANNOTATION_MEDIA_PORT,
    ANNOTATION_SPEC_HASH,
    API_VERSION,
    CONTROL_PORT,
    LABEL_POOL,
    MEDIA_PORT,
    POD,
    POOL,
    Body,
)
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import map_at, metadata_of, parse_pool_spec, spec_of, text_at
from parley_operator.domain.manifests import CONTAINER, WorkerDefaults, build_pod, spec_hash
from parley_operator.domain.pools import PoolDecision, WorkerPod, decide_pool, free_port, pool_status
from parley_operator.domain.status import condition, difference, merge_conditions
from parley_operator.domain.subjects import PoolView
from parley_operator.ports import Conflict, Refused, WorkerTarget

from .authority import Authority
from .context import Context
from .queue import Key

log = logging.getLogger(__name__)
RESYNC = 60.0
STATUS_EVERY = 5.0


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
        self._written: dict[str, float] = {}
        # Pods made and not yet seen, so that a slow watch makes nobody create twice.
        self._expected: dict[Key, dict[str, float]] = {}

    # -- pods

    def pod_seen(self, body: Body, deleted: bool) -> None:
        """Follow a worker pod: link with it while it has an address, let go when it is deleted."""
        name, pool = text_at(body, "metadata", "name"), text_at(body, "metadata", "labels", LABEL_POOL)
        namespace = text_at(body, "metadata", "namespace")
        if not pool:
            return
        key = Key(POOL, namespace, pool)
        if not deleted:
            self._expected.get(key, {}).pop(name, None)
        view = _pod(body)
        if deleted or view.over:
            self._context.links.remove(name)
            self._context.ledger.forget_worker(name)
        elif text_at(body, "status", "podIP"):
            self._context.links.set_target(self._target(body, pool, namespace))
        self._context.queue.add(key)

    def _target(self, body: Body, pool: str, namespace: str) -> WorkerTarget:
        address = text_at(body, "status", "podIP")
        host_port = text_at(body, "metadata", "annotations", ANNOTATION_MEDIA_PORT)
        host = text_at(body, "status", "hostIP") if host_port else address
        return WorkerTarget(
            name=text_at(body, "metadata", "name"),
            control_address=f"{_bracketed(address)}:{CONTROL_PORT}",
            tls=self._authority.tls_for(pool, namespace),
            pool=pool,
            namespace=namespace,
            node=text_at(body, "spec", "nodeName"),
            pod_uid=text_at(body, "metadata", "uid"),
            media_endpoint=f"{_bracketed(host)}:{host_port or MEDIA_PORT}",
            dead=_container_down(body),
        )

    # -- the pool

    async def reconcile(self, key: Key) -> float | None:
        body = self._context.cache.get(POOL, key.namespace, key.name)
        if body is None or "deletionTimestamp" in metadata_of(body):
            self._expected.pop(key, None)
            return None
        try:
            pool = PoolView(key.namespace, key.name, parse_pool_spec(spec_of(body)))
        except FieldError as error:
            await self._invalid(key, body, str(error))
            return None
        uid = text_at(body, "metadata", "uid")
        await self._authority.ensure_pool_secret(self._context.store, pool, _owner(pool, uid))
        self._follow(key)
        pods = self._pods(key)
        expected = self._still_expected(key)
        wanted = spec_hash(pool, self._defaults)
        awaited = [WorkerPod(name, "", wanted) for name in expected]
        decision = decide_pool(pool.spec.replicas, wanted, [*pods, *awaited])
        trouble = await self._carry_out(key, pool, uid, decision)
        await self._write_status(key, pool, body, pods, trouble)
        return 10.0 if trouble else RESYNC if not expected else 5.0

    def _follow(self, key: Key) -> None:
        """Pass a renewed client certificate on to the links of the pool."""
        for pod_key, body in self._context.cache.of_kind(POD):
            mine = pod_key.namespace == key.namespace
            if mine and text_at(body, "metadata", "labels", LABEL_POOL) == key.name:
                view = self._context.links.view(pod_key.name)
                if view is not None:
                    self._context.links.set_target(self._target(body, key.name, key.namespace))

    def _still_expected(self, key: Key) -> list[str]:
        now = self._context.clock.monotonic()
        fresh = {name: until for name, until in self._expected.get(key, {}).items() if until > now}
        self._expected[key] = fresh
        return list(fresh)

    def _pods(self, key: Key) -> list[WorkerPod]:
        found = []
        for pod_key, body in self._context.cache.of_kind(POD):
            if pod_key.namespace != key.namespace:
                continue
            if text_at(body, "metadata", "labels", LABEL_POOL) != key.name:
                continue
            view = self._context.links.view(pod_key.name)
            sessions = len(view.live_uids) if view else 0
            found.append(_pod(body, sessions, view.capacity if view and view.answers else 0))
        return found

    async def _carry_out(self, key: Key, pool: PoolView, uid: str, decision: PoolDecision) -> str:
        """Returns what the API server objected to; empty when all went well."""
        store = self._context.store
        for name in decision.remove:
            await store.delete(POD, key.namespace, name, "")
        for name in decision.retire:
            log.info("pool %s/%s: worker %s drains and goes", key.namespace, key.name, name)
            # Best effort: the pod's own SIGTERM drains it as well.
            await self._context.links.drain(name, pool.spec.drain_timeout)
            await store.delete(POD, key.namespace, name, "")
        for _ in range(decision.create):
            try:
                await self._create(key, pool, uid)
            except (Refused, Conflict) as error:
                log.warning("pool %s/%s: no pod: %s", key.namespace, key.name, error)
                return str(error)
        return ""

    async def _create(self, key: Key, pool: PoolView, uid: str) -> None:
        port: int | None = None
        exposure = pool.spec.exposure
        if exposure.host_port:
            port = free_port(exposure.least_port, exposure.most_port, self._ports_taken())
            if port is None:
                raise Conflict("spec.exposure.hostPortRange: every port of the range is taken; widen it")
        manifest = build_pod(pool, uid, self._defaults, self._new_suffix(), port)
        body = await self._context.store.create(POD, manifest)
        name = text_at(body, "metadata", "name")
        self._expected.setdefault(key, {})[name] = self._context.clock.monotonic() + 30.0
        self._context.cache.put(POD, body)
        self._expected[key].pop(name, None)
        log.info("pool %s/%s: worker %s made", key.namespace, key.name, name)

    def _ports_taken(self) -> list[int]:
        return [_pod(body).host_port for _, body in self._context.cache.of_kind(POD)]

    async def _write_status(
        self, key: Key, pool: PoolView, body: Body, pods: list[WorkerPod], trouble: str
    ) -> None:
        now = self._context.clock.now()
        uid = text_at(body, "metadata", "uid")
        generation = metadata_of(body).get("generation")
        previous = map_at(body, "status")
        patch = pool_status(
            pool, generation if isinstance(generation, int) else 1, previous, pods, now, trouble
        )
        if not patch:
            return
        waited = now - self._written.get(uid, 0.0)
        if set(patch) == {"sessions"} and waited < STATUS_EVERY:
            self._context.queue.add_after(key, STATUS_EVERY - waited)
            return
        self._written[uid] = now
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


def _owner(pool: PoolView, uid: str) -> Body:
    return {
        "apiVersion": API_VERSION,
        "kind": POOL,
        "name": pool.name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _pod(body: Body, sessions: int = 0, capacity: int = 0) -> WorkerPod:
    metadata = metadata_of(body)
    conditions = map_at(body, "status").get("conditions")
    ready = isinstance(conditions, list) and any(
        isinstance(c, Mapping) and c.get("type") == "Ready" and c.get("status") == "True" for c in conditions
    )
    port = text_at(body, "metadata", "annotations", ANNOTATION_MEDIA_PORT)
    return WorkerPod(
        name=str(metadata.get("name", "")),
        uid=str(metadata.get("uid", "")),
        hash=text_at(body, "metadata", "annotations", ANNOTATION_SPEC_HASH),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        over=text_at(body, "status", "phase") in ("Failed", "Succeeded"),
        sessions=sessions,
        capacity=capacity,
        host_port=int(port) if port.isdigit() else 0,
    )


def _container_down(body: Body) -> bool:
    """The worker's container is known not to run: terminated, or waiting after it ran before."""
    statuses = map_at(body, "status").get("containerStatuses")
    for status in statuses if isinstance(statuses, list) else []:
        if isinstance(status, Mapping) and status.get("name") == CONTAINER:
            return "running" not in map_at(dict(status), "state") and bool(
                "terminated" in map_at(dict(status), "state") or status.get("restartCount")
            )
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
