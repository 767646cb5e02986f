"""VoiceWorkerPools: makes, replaces, scales and drains worker pods, and says in the status how it stands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from parley_operator.api.constants import LABEL_POOL, POD, POOL, Body
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import map_at, metadata_of, parse_pool_spec, spec_of, text_at
from parley_operator.domain.event_facts import condition_facts
from parley_operator.domain.manifests import WorkerDefaults, build_pod, owner_reference, spec_hash
from parley_operator.domain.pools.pauses import Hold, next_hold, refuse
from parley_operator.domain.pools.pods import WorkerPod
from parley_operator.domain.pools.rollout import AFTER_DEADLINE, PoolDecision, decide_pool
from parley_operator.domain.pools.scaling import Demand, Scaling, begin, step
from parley_operator.domain.pools.status import COUNTS, Fleet, invalid_status, pool_status
from parley_operator.domain.shards import free_ports, shard_count
from parley_operator.domain.subjects import PoolView
from parley_operator.ports import Conflict, Refused

from .authority import Authority
from .context import Context
from .draining import Drainer
from .pool_pods import PoolPods
from .queue import Key
from .shielding import Shield

log = logging.getLogger(__name__)
RESYNC = 60.0
STATUS_EVERY = 5.0
# Pools that scale by themselves are looked at so often, whatever happens.
SCALE_EVERY = 1.0
# And those with workers that drain: one may not have heard of it.
DRAIN_EVERY = 2.0


class PoolReconciler:
    """One pool at a time; pods and nodes are followed as they are seen."""

    pod_labels = LABEL_POOL

    def __init__(
        self, context: Context, authority: Authority, defaults: WorkerDefaults, new_suffix: Callable[[], str]
    ) -> None:
        self._context = context
        self._authority = authority
        self._defaults = defaults
        self._new_suffix = new_suffix
        self._pods = PoolPods(context, authority)
        self._drainer = Drainer(context, self._pods)
        self._shield = Shield(context)
        self._written: dict[Key, float] = {}
        self._holds: dict[Key, Hold] = {}
        self._secured: dict[Key, tuple[str, float]] = {}
        self._scalings: dict[Key, tuple[str, Scaling]] = {}

    def pod_seen(self, body: Body, deleted: bool) -> None:
        self._pods.pod_seen(body, deleted)

    def node_seen(self, body: Body, deleted: bool) -> None:
        self._pods.node_seen(body, deleted)

    async def watch_nodes(self) -> None:
        """Ask after the nodes of silent workers, until cancelled."""
        await self._pods.heartbeats.run()

    async def reconcile(self, key: Key) -> float | None:
        body = self._context.cache.get(POOL, key.namespace, key.name)
        if body is None or "deletionTimestamp" in metadata_of(body):
            self._forget(key)
            return None
        try:
            pool = PoolView(key.namespace, key.name, parse_pool_spec(spec_of(body)))
        except FieldError as error:
            await self._invalid(body, str(error))
            return None
        uid = text_at(body, "metadata", "uid")
        revision = spec_hash(pool, self._defaults)
        self._pods.follow(key)
        pods = self._pods.of(key, uid, pool, revision)
        desk = self._context.desk
        desk.wanted_revision((key.namespace, key.name), revision)
        queued = desk.waiting((key.namespace, key.name))
        wanted = self._wanted(key, pool, uid, pods)
        decision = decide_pool(wanted, pool.spec.strategy.surge.of(wanted), pods, self._context.clock.now())
        await self._act(key, pool, uid, pods, decision, wanted)
        pods = self._pods.of(key, uid, pool, revision)
        await self._drainer.keep_told(pool, pods)
        again = await self._shield.keep(key, pool, uid, pods)
        fleet = Fleet(pool, revision, wanted, pods, queued, self._holds[key])
        self._context.metrics.pool(key.namespace, key.name, wanted, fleet.ready, fleet.draining, queued)
        await self._write_status(key, body, fleet)
        return self._next_look(key, pool, pods, again)

    def _forget(self, key: Key) -> None:
        for known in (self._holds, self._written, self._secured, self._scalings):
            known.pop(key, None)
        self._shield.forget(key)
        self._drainer.forget(key.namespace, key.name)
        self._context.metrics.pool_gone(key.namespace, key.name)

    def _next_look(self, key: Key, pool: PoolView, pods: Sequence[WorkerPod], again: float | None) -> float:
        monotonic, now = self._context.clock.monotonic(), self._context.clock.now()
        waits = [RESYNC]
        if self._holds[key].until > monotonic:
            waits.append(self._holds[key].until - monotonic)
        if again is not None:
            waits.append(again)
        if pool.spec.autoscaling is not None:
            waits.append(SCALE_EVERY)
        if any(pod.draining and not pod.over for pod in pods):
            waits.append(DRAIN_EVERY)
        # The marks of a pod whose time is over change at the deadline, the pod itself goes a little later.
        waits += [
            moment - now
            for pod in pods
            if pod.draining and pod.deadline
            for moment in (pod.deadline, pod.deadline + AFTER_DEADLINE)
            if moment > now
        ]
        return max(0.1, min(waits))

    # -- how many

    def _wanted(self, key: Key, pool: PoolView, uid: str, pods: Sequence[WorkerPod]) -> int:
        spec = pool.spec.autoscaling
        if spec is None:
            self._scalings.pop(key, None)
            return pool.spec.replicas
        now = self._context.clock.monotonic()
        known, scaling = self._scalings.get(key, ("", None))
        if scaling is None or known != uid:
            scaling = begin(spec, sum(pod.serves for pod in pods), now)
        lacking = self._context.desk.lacking((key.namespace, key.name))
        demand = Demand(
            sum(pod.sessions for pod in pods if not pod.over),
            lacking,
            all(pod.certain for pod in pods if pod.serves and pod.ready),
        )
        after = step(spec, pool.spec.sessions_per_worker, demand, scaling, now)
        if after.wanted != scaling.wanted:
            log.info(
                "pool %s/%s: %d workers for %d sessions and %d that wait",
                *(key.namespace, key.name, after.wanted, demand.sessions, demand.waiting),
            )
        self._scalings[key] = (uid, after)
        return after.wanted

    # -- pods

    async def _act(
        self,
        key: Key,
        pool: PoolView,
        uid: str,
        pods: Sequence[WorkerPod],
        decision: PoolDecision,
        wanted: int,
    ) -> None:
        now = self._context.clock.monotonic()
        whole = bool(pods) and sum(pod.ready for pod in pods if pod.serves) >= wanted
        hold = next_hold(self._holds.get(key, Hold()), whole=whole, failed=_failures(pods, decision), now=now)
        self._holds[key] = hold
        held = now < hold.until
        if not held:
            try:
                await self._secure(key, pool, uid, pressing=decision.create > 0)
            except (Refused, Conflict) as error:
                self._refused(key, str(error))
                held = True
        await self._let_go(key, pool, pods, decision)
        for _ in range(0 if held else decision.create):
            suffix = self._new_suffix()
            try:
                await self._create(key, pool, uid, suffix)
            except (Refused, Conflict) as error:
                # Without the name, which is another one at every attempt: the status would change each time.
                self._refused(key, str(error).replace(f"-{suffix}", "-"))
                return

    async def _let_go(
        self, key: Key, pool: PoolView, pods: Sequence[WorkerPod], decision: PoolDecision
    ) -> None:
        uids = {pod.name: pod.uid for pod in pods}
        for name in decision.remove:
            await self._context.store.delete(POD, key.namespace, name, uids[name])
            body = self._context.cache.get(POD, key.namespace, name)
            if body is not None:
                # Counted and dealt with, however long the object stays.
                self._context.cache.drop(POD, body)
        for name, reason in decision.drain:
            await self._drainer.mark(pool, name, reason)
        for name in decision.delete:
            log.info("pool %s/%s: worker %s goes", key.namespace, key.name, name)
            await self._context.store.delete(POD, key.namespace, name, uids[name])

    async def _secure(self, key: Key, pool: PoolView, uid: str, *, pressing: bool) -> None:
        """See to the pool's certificate, now and then and whenever a pod is going to need it."""
        now = self._context.clock.monotonic()
        known, until = self._secured.get(key, ("", 0.0))
        if pressing or known != uid or now >= until:
            owner = owner_reference(pool, uid)
            await self._authority.ensure_pool_secret(self._context.store, pool, owner)
            self._secured[key] = (uid, now + RESYNC)

    def _refused(self, key: Key, words: str) -> None:
        log.warning("pool %s/%s: no pod: %s", key.namespace, key.name, words)
        self._holds[key] = refuse(self._holds[key], words, self._context.clock.monotonic())

    async def _create(self, key: Key, pool: PoolView, uid: str, suffix: str) -> None:
        port: int | None = None
        exposure = pool.spec.exposure
        if exposure.host_port:
            count = shard_count(pool.spec)
            port = free_ports(exposure.least_port, exposure.most_port, self._pods.ports_taken(), count)
            if port is None:
                wanted = "every port of the range is" if count == 1 else f"no {count} ports in a row are"
                words = "taken" if count == 1 else "free"
                raise Conflict(f"spec.exposure.hostPortRange: {wanted} {words}; widen it")
        manifest = build_pod(pool, uid, self._defaults, suffix, port)
        body = await self._context.store.create(POD, manifest)
        # Known from now on, so that a slow watch makes nobody create twice.
        self._context.cache.put(POD, body)
        log.info("pool %s/%s: worker %s made", key.namespace, key.name, text_at(body, "metadata", "name"))

    # -- status

    async def _write_status(self, key: Key, body: Body, fleet: Fleet) -> None:
        now = self._context.clock.now()
        previous = map_at(body, "status")
        patch = pool_status(fleet, _generation(body), previous, now)
        if not patch:
            return
        waited = now - self._written.get(key, 0.0)
        # A clock that was set back makes nobody wait longer.
        if set(patch) <= COUNTS and 0 <= waited < STATUS_EVERY:
            self._context.queue.add_after(key, STATUS_EVERY - waited)
            return
        self._written[key] = now
        fresh = await self._context.store.patch_status(POOL, body, patch)
        if fresh is not None:
            self._context.cache.put(POOL, fresh)
            facts = condition_facts(previous, map_at(fresh, "status"), "Scale")
            self._context.events.tell(POOL, fresh, facts)

    async def _invalid(self, body: Body, message: str) -> None:
        now = self._context.clock.now()
        patch = invalid_status(message, _generation(body), map_at(body, "status"), now)
        if patch:
            await self._context.store.patch_status(POOL, body, patch)


def _failures(pods: Sequence[WorkerPod], decision: PoolDecision) -> str | None:
    """Why pods are over, in a few words; `None` when none is."""
    if not decision.remove:
        return None
    found = {pod.trouble.words for pod in pods if pod.name in decision.remove and pod.trouble}
    return "; ".join(sorted(found)[:2]) or "they ended by themselves"


def _generation(body: Body) -> int:
    generation = metadata_of(body).get("generation")
    return generation if isinstance(generation, int) else 1
