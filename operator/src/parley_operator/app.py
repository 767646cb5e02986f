"""The composition root: settings become a store, links, a reconciler and kopf's watches, run until told to
stop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import yaml

from .api.constants import API_VERSION, CONFIG_MAP, POOL, Body
from .api.v1alpha1 import map_at, text_at
from .clock import SystemClock
from .config import Settings
from .domain.manifests import WorkerDefaults
from .handlers.authority import Authority, load_authority
from .handlers.context import Context, ReconcilerSettings
from .handlers.http import serve_admin
from .handlers.kopf_app import run_kopf
from .handlers.pools import PoolReconciler
from .handlers.reconciler import Reconciler
from .kube.login import Login
from .kube.reviews import KubeReviews
from .kube.store import KubeStore
from .ports import Store, StoreError
from .serving.sessions import AlwaysLeads, certificate, make_desks, publish, serving
from .telemetry.metrics import Metrics
from .workers.link import LinkSet

log = logging.getLogger(__name__)
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class Operator:
    """One running operator. `run` returns after `stop()`, a signal, or when a part of it fails."""

    def __init__(self, settings: Settings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self.metrics = Metrics()
        self.port = 0
        self.sessions_port = 0
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._wrong = "starting"

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        settings = self._settings
        admin = serve_admin(
            settings.http_host, settings.http_port, self.metrics, lambda: "", lambda: self._wrong
        )
        store = KubeStore(self._login, on_error=self.metrics.api_error)
        async with admin as self.port, store:
            authority = await self._authority(store)
            if authority is not None:
                await self._serve(store, authority)

    async def _authority(self, store: Store) -> Authority | None:
        """The CA and the epoch; `None` when told to stop before the API server answered."""
        while not self._stop.is_set():
            try:
                return await load_authority(store, self._settings.namespace, SystemClock())
            except StoreError as error:
                log.error("cannot load the control CA: %s", error)
                self._wrong = "no control CA"
                await self._pause(3.0)
        return None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    async def _serve(self, store: KubeStore, authority: Authority) -> None:
        settings, clock = self._settings, SystemClock()
        links = LinkSet(epoch=authority.epoch, clock=clock)
        context = Context(
            store=store,
            links=links,
            clock=clock,
            metrics=self.metrics,
            settings=ReconcilerSettings(
                default_pool_namespace=settings.default_pool_namespace,
                worker_lost_after=settings.worker_lost_after,
                concurrency=settings.concurrency,
            ),
            new_ticket=lambda: secrets.token_urlsafe(32),
            control_ca=lambda: authority.ca.certificate,
        )
        defaults = WorkerDefaults(
            settings.worker_image, settings.worker_image_pull_policy, settings.nats_url, settings.worker_env
        )
        pools = PoolReconciler(context, authority, defaults, _suffix)
        reconciler = Reconciler(context, pools)
        links.on_change = reconciler.worker_changed
        tasks = [
            asyncio.create_task(reconciler.run(), name="reconciler"),
            asyncio.create_task(self._default_pool(store), name="default pool"),
            asyncio.create_task(self._watch(reconciler), name="watches"),
        ]
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        working, applying, watching = tasks
        lasting = {working, watching, stopping}
        if settings.sessions.address:
            answering = self._sessions(store, context, reconciler, authority)
            tasks.append(asyncio.create_task(answering, name="session service"))
            lasting.add(tasks[-1])
        try:
            await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    raise RuntimeError(f"{task.get_name()} failed") from task.exception()
        finally:
            self._wrong = "stopping"
            self._stop.set()
            for task in (working, applying, *tasks[3:]):
                task.cancel()
            if not reconciler.started.is_set():
                watching.cancel()
            # The watches end by themselves: kopf is to take its leave of the API server.
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await links.close()

    async def _sessions(
        self, store: KubeStore, context: Context, reconciler: Reconciler, authority: Authority
    ) -> None:
        """Serve the session service until cancelled; it answers once the reconciler places."""
        settings = self._settings.sessions
        pair = certificate(settings, lambda: authority.ca, context.clock)
        async with serving(settings, pair, AlwaysLeads(), self.metrics) as server:
            self.sessions_port = server.port
            await reconciler.started.wait()
            reviews = KubeReviews(store, settings.audiences)
            await server.lead(make_desks(context, reconciler, reviews, authority.ca, _suffix))
            await publish(store, settings, self._settings.namespace, authority.ca.certificate)
            try:
                await self._stop.wait()
            finally:
                context.notices.close()

    async def _watch(self, reconciler: Reconciler) -> None:
        def observe(kind: str, body: Body, deleted: bool) -> None:
            reconciler.observe(kind, body, deleted=deleted)

        await reconciler.started.wait()
        kopf_ready = asyncio.Event()
        marking = asyncio.create_task(self._mark_ready(kopf_ready), name="ready")
        try:
            await run_kopf(observe, self._login, self._stop, kopf_ready)
        finally:
            marking.cancel()
            await asyncio.gather(marking, return_exceptions=True)

    async def _mark_ready(self, kopf_ready: asyncio.Event) -> None:
        await kopf_ready.wait()
        self._wrong = ""
        self.ready.set()

    async def _default_pool(self, store: Store) -> None:
        file = self._settings.default_pool_file
        while file is not None:
            try:
                pool = _read_pool(file, self._settings.namespace)
                await self._own(store, pool)
                await store.apply(POOL, pool)
            except (StoreError, ValueError) as error:
                log.error("default pool: %s", error)
                await asyncio.sleep(5.0)
            else:
                log.info("default pool %s applied", text_at(pool, "metadata", "name"))
                return

    async def _own(self, store: Store, pool: Body) -> None:
        name = self._settings.default_pool_owner
        if not name:
            return
        owner = await store.get(CONFIG_MAP, self._settings.namespace, name)
        if owner is None:
            raise ValueError(f"its owner, ConfigMap {name}, is not there")
        metadata = map_at(pool, "metadata")
        reference = {"apiVersion": "v1", "kind": CONFIG_MAP, "name": name}
        metadata["ownerReferences"] = [{**reference, "uid": text_at(owner, "metadata", "uid")}]
        pool["metadata"] = metadata


def _read_pool(file: Path, namespace: str) -> Body:
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(body, dict) or body.get("kind") != POOL or body.get("apiVersion") != API_VERSION:
        raise ValueError(f"{file}: holds no VoiceWorkerPool of {API_VERSION}")
    metadata = map_at(body, "metadata")
    metadata.setdefault("namespace", namespace)
    return {**body, "metadata": metadata}


def _suffix() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


def handle_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def run(settings: Settings, login: Login) -> None:
    operator = Operator(settings, login)
    handle_signals(operator.stop)
    await operator.run()
