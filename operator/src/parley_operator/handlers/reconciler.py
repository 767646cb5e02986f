"""The level-triggered heart: events and reports become keys, keys are looked at by a fixed number of tasks.

Start: list everything, connect with the workers, wait a bounded time for their snapshots, and only then
place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from parley_operator.api.constants import AGENT, CONFIG_MAP, NODE, POD, POOL, SECRET, SESSION, Body
from parley_operator.api.v1alpha1 import map_at, metadata_of, text_at
from parley_operator.domain.model import SessionReport
from parley_operator.domain.pools.nodes import slim_node
from parley_operator.domain.subjects import subject_of
from parley_operator.ports import StoreError

from .agents import AgentReconciler
from .context import Context
from .event_posting import EventLevel
from .pools import PoolReconciler
from .queue import DOOM, MIGRATE, SERVE, Key
from .sessions import SessionReconciler
from .strays import StraySweep

log = logging.getLogger(__name__)

_REMEMBERED_DELETIONS = 20_000
_BREATH = 50
# Fields of a pool's spec that say nothing about who may use it and how.
_NO_RULES = frozenset({"replicas", "autoscaling", "updateStrategy", "recycle", "placement", "quotas"})
_RETRY_FIRST, _RETRY_MOST = 0.2, 30.0


class Reconciler:
    """`observe` objects, `worker_changed` reports, `run` until cancelled. `started` is set once placing
    begins."""

    def __init__(self, context: Context, pools: PoolReconciler | None = None) -> None:
        self._context = context
        self._pools = pools
        self.sessions = SessionReconciler(context)
        self.agents = AgentReconciler(context)
        self.started = asyncio.Event()
        self._deleted: dict[str, None] = {}
        self._failures: Counter[Key] = Counter()
        self._strays = StraySweep(context, self._is_deleted, self._stray_found)
        self._handlers: dict[str, Callable[[Key], Awaitable[float | None]]] = {
            SESSION: self.sessions.reconcile,
            AGENT: self.agents.reconcile,
            DOOM: self._doom,
            SERVE: self.sessions.line.served,
            MIGRATE: self.sessions.migrator.migrate,
        }
        if pools is not None:
            self._handlers[POOL] = pools.reconcile

    @property
    def context(self) -> Context:
        return self._context

    # -- what comes in

    def observe(self, kind: str, body: Body, *, deleted: bool = False) -> None:
        """An object was added, changed or deleted. Old news is recognised and does no harm."""
        cache = self._context.cache
        key = cache.key(kind, body)
        before = cache.get(kind, key.namespace, key.name)
        if not deleted and cache.gone(text_at(body, "metadata", "uid")):
            return
        if kind == NODE:
            body = slim_node(body)
        if deleted:
            cache.drop(kind, body)
        else:
            cache.put(kind, body)
        self._context.metrics.heard(self._context.clock.now())
        if kind == SESSION:
            self._session_seen(key, body, before, deleted)
        elif kind in (AGENT, POOL):
            if deleted or before is None or _rules_changed(kind, before, body):
                self._wake_pending()
            if kind == POOL:
                self.sessions.line.pool_seen(key, body, deleted)
                self._context.queue.add(key)
            else:
                self._agents_of(key.namespace)
        elif kind in (SECRET, CONFIG_MAP):
            self._wake_pending(key.namespace)
        elif kind == POD and self._pools is not None:
            self._pools.pod_seen(body, deleted)
        elif kind == NODE and self._pools is not None:
            self._pools.node_seen(body, deleted)

    def _agents_of(self, namespace: str) -> None:
        """Each may be another's canary."""
        for key, _ in self._context.cache.of_kind(AGENT):
            if key.namespace == namespace:
                self._context.queue.add(key)

    def _session_seen(self, key: Key, body: Body, before: Body | None, deleted: bool) -> None:
        uid = text_at(body, "metadata", "uid")
        replaced = text_at(before, "metadata", "uid") if before else ""
        if deleted:
            self._session_gone(body)
        elif before is not None and replaced and replaced != uid:
            self._session_gone(before)
        if not deleted and not self.sessions.own_write(uid, text_at(body, "metadata", "resourceVersion")):
            self._context.queue.add(key)

    def _session_gone(self, body: Body) -> None:
        subject, _ = subject_of(body)
        self.sessions.fence.last_words.deleted(subject)
        self._mark_deleted(subject.uid)

    def _is_deleted(self, uid: str) -> bool:
        return uid in self._deleted

    def _stray_found(self, uid: str, body: Body | None) -> None:
        """A session on a worker was asked about: it has an object after all, or is to be ended."""
        if body is None:
            self._mark_deleted(uid)
        else:
            self.observe(SESSION, body)

    def _mark_deleted(self, uid: str) -> None:
        self._deleted[uid] = None
        while len(self._deleted) > _REMEMBERED_DELETIONS:
            self._deleted.pop(next(iter(self._deleted)))
        self._context.queue.add(Key(DOOM, "", uid))

    def _wake_pending(self, namespace: str = "") -> None:
        self.sessions.check_anew()
        for key, body in self._context.cache.of_kind(SESSION):
            waiting = text_at(body, "status", "phase") in ("", "Pending", "Recovering")
            if waiting and namespace in ("", key.namespace):
                self._context.queue.add(key)

    def worker_changed(self, worker: str, report: SessionReport | None, *, felt: bool = True) -> None:
        """A worker said something about a session, or changed itself; `felt`: its sessions notice."""
        queue = self._context.queue
        self.sessions.line.worker_seen(worker, report)
        if report is not None:
            if not report.live:
                self.sessions.book.ended(worker, report)
            if not self.sessions.book.foreseen(worker, report):
                queue.add(Key(SESSION, report.namespace, report.name))
            if report.live and report.uid in self._deleted:
                queue.add(Key(DOOM, "", report.uid))
        elif felt:
            for key in self.sessions.book.keys_on(worker):
                queue.add(key)
        view = self._context.links.view(worker)
        if self._pools is not None and view is not None and (report is None or not report.live):
            queue.add_after(Key(POOL, view.namespace, view.pool), 0.2)

    # -- running

    async def seed(self) -> None:
        """Read every object and every snapshot. Raises `StoreError` when the lists cannot be had."""
        for kind in self._kinds():
            # The oldest first: those who wait get their places in that order.
            listed = sorted(await self._context.store.list(kind, self._labels(kind)), key=_created)
            for number, body in enumerate(listed):
                self.observe(kind, body)
                await _breathe(number)
        silent = await self._context.links.wait_snapshots(self._context.settings.snapshot_wait)
        if silent:
            log.warning("no snapshot of workers %s: they count as full", ", ".join(silent))
        for number, _ in enumerate(self.sessions.book.restore()):
            await _breathe(number)
        self.sessions.line.look_again()

    async def run(self) -> None:
        """Seed, then work until cancelled."""
        delay = 0.5
        while True:
            try:
                await self.seed()
                break
            except StoreError as error:
                log.error("cannot list objects: %s; next attempt in %.1f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 15.0)
        self.started.set()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._context.settings.concurrency):
                    group.create_task(self._work())
                group.create_task(self._tick())
                group.create_task(self._context.reaper.run())
                if self._pools is not None and self._context.settings.nodes:
                    group.create_task(self._pools.watch_nodes())
                if self._context.event_level is not EventLevel.NONE:
                    group.create_task(self._context.events.run())
        finally:
            self._context.queue.close()

    async def _work(self) -> None:
        queue, metrics, clock = self._context.queue, self._context.metrics, self._context.clock
        while True:
            key = await queue.get()
            begun = clock.monotonic()
            outcome = "done"
            try:
                again = await self._handle(key)
                self._failures.pop(key, None)
            except StoreError as error:
                outcome, again = "retry", self._backoff(key)
                log.warning("%s %s/%s: %s; again in %.1f s", *key, error, again)
            except Exception:
                outcome, again = "error", self._backoff(key)
                log.exception("%s %s/%s: unexpected; again in %.1f s", *key, again)
            finally:
                queue.done(key)
            self.sessions.line.serve()
            metrics.reconciled(key.kind, outcome, clock.monotonic() - begun)
            if again is not None:
                queue.add_after(key, again)

    async def _handle(self, key: Key) -> float | None:
        handler = self._handlers.get(key.kind)
        return await handler(key) if handler is not None else None

    def _backoff(self, key: Key) -> float:
        self._failures[key] += 1
        return float(min(_RETRY_MOST, _RETRY_FIRST * 2 ** min(self._failures[key], 10)))

    async def _doom(self, key: Key) -> float | None:
        if not await self.sessions.terminate(key.name, "the VoiceSession was deleted"):
            return 1.0
        lost = self.sessions.book.is_lost(key.name)
        self.sessions.forget(key.name)
        return await self.sessions.fence.last_words.look_at_deleted(key.name, lost)

    # -- now and then

    async def _tick(self) -> None:
        settings, clock = self._context.settings, self._context.clock
        resync_at = clock.monotonic() + settings.resync_every
        while True:
            try:
                self._gauges()
                self.agents.count()
                self.sessions.line.look_again()
                await self._strays.sweep()
                if clock.monotonic() >= resync_at:
                    resync_at = clock.monotonic() + settings.resync_every
                    await self.resync()
            except StoreError as error:
                log.warning("cannot look after lost objects: %s", error)
            except Exception:
                # One object that is odd must not end the term, and the next one, and the next.
                log.exception("cannot look after lost objects")
            await asyncio.sleep(settings.sweep_every)

    async def resync(self) -> None:
        """Find what a broken watch did not tell: objects that are new, changed, or gone."""
        context = self._context
        for kind in self._kinds():
            before = dict(context.cache.of_kind(kind))
            present = {
                text_at(b, "metadata", "uid"): b for b in await context.store.list(kind, self._labels(kind))
            }
            for number, body in enumerate(present.values()):
                self.observe(kind, body)
                await _breathe(number)
            for key, body in before.items():
                if text_at(body, "metadata", "uid") in present:
                    continue
                # Nodes may be listed and not asked for.
                asked = kind != NODE
                fresh = await context.store.get(kind, key.namespace, key.name) if asked else None
                if fresh is None or text_at(fresh, "metadata", "uid") != text_at(body, "metadata", "uid"):
                    log.warning("%s %s/%s went unnoticed", *key)
                    self.observe(kind, body, deleted=True)

    def _kinds(self) -> tuple[str, ...]:
        if self._pools is None:
            return (SESSION, AGENT, POOL)
        nodes = (NODE,) if self._context.settings.nodes else ()
        return (*nodes, SESSION, AGENT, POOL, POD)

    def _labels(self, kind: str) -> str:
        return self._pools.pod_labels if kind == POD and self._pools is not None else ""

    def _gauges(self) -> None:
        context = self._context
        phases = Counter(
            text_at(body, "status", "phase") or "Pending" for _, body in context.cache.of_kind(SESSION)
        )
        context.metrics.sessions(phases)
        views = context.links.views()
        states = Counter(view.state.value if view.answers else "silent" for view in views)
        capacity = sum(view.capacity for view in views if view.answers)
        context.metrics.workers(states, capacity, max((view.silent_for for view in views), default=0.0))
        context.metrics.queue_depth(len(context.queue))
        context.metrics.reservations(context.ledger.reservations)
        self.sessions.line.gauges()


def _created(body: Body) -> str:
    return text_at(body, "metadata", "creationTimestamp")


def _rules_changed(kind: str, before: Body, body: Body) -> bool:
    """Whether those who wait must be checked again.

    How large a pool is and who goes first is no such matter: whoever scales a pool up because many wait
    would have all of them read their Secrets.
    """
    if _generation(before) == _generation(body):
        return False
    return kind != POOL or _rules(before) != _rules(body)


def _rules(pool: Body) -> dict[str, object]:
    return {key: value for key, value in map_at(pool, "spec").items() if key not in _NO_RULES}


def _generation(body: Body) -> object:
    return metadata_of(body).get("generation")


async def _breathe(number: int) -> None:
    """Thousands of objects in a row would keep the event loop from the lease, and the lease would be lost."""
    if number % _BREATH == _BREATH - 1:
        await asyncio.sleep(0)
