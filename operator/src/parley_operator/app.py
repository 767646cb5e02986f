"""The composition root. The process competes for the Lease; each time that it leads, settings become links, a
reconciler and kopf's watches, a term, of which nothing is left when the lease is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from . import pki
from .api.constants import Body
from .clock import SystemClock
from .config import Settings
from .domain.manifests import WorkerDefaults
from .handlers.authority import Authority, StaleEpoch, epoch_floor, load_authority, load_ca
from .handlers.context import Context, ReconcilerSettings
from .handlers.default_pool import apply_default_pool
from .handlers.event_posting import EventLevel
from .handlers.http import serve_admin
from .handlers.kopf_app import KopfStuck, run_kopf
from .handlers.leader_mark import LeaderMark
from .handlers.leadership import Leadership
from .handlers.lease_thread import LeaseThread
from .handlers.pools import PoolReconciler
from .handlers.reconciler import Reconciler
from .handlers.watch_keeper import WatchKeeper
from .kube.login import Login
from .kube.reviews import KubeReviews
from .kube.store import KubeStore
from .ports import StoreError
from .serving.session_server import SessionServer
from .serving.sessions import certificate, make_desks, publish, serving
from .telemetry.metrics import Metrics
from .workers.link import LinkSet

log = logging.getLogger(__name__)
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
# A worker that does not answer costs a takeover no more than this: it counts as full, and the others go on.
SNAPSHOT_WAIT = 2.0


class Operator:
    """One running operator. `run` returns after `stop()`, a signal, or when a part of it fails.

    A lost lease ends the term, not the process: an outage of the API server takes the lease from everybody,
    and restarts would only add the kubelet's back-off to it. What cannot be ended within the process ends it.
    """

    def __init__(self, settings: Settings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self._clock = SystemClock()
        self.metrics = Metrics()
        self.port = 0
        self.sessions_port = 0
        # Set once this process leads and watches; cleared when its term is over.
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._wrong = "starting"
        self._broken = ""
        self._context: Context | None = None
        self._keeper: WatchKeeper | None = None
        self._ca: pki.KeyPair | None = None
        self._server: asyncio.Future[SessionServer] = asyncio.get_running_loop().create_future()
        self._store = KubeStore(
            login,
            on_error=self.metrics.api_error,
            may_write=lambda: self.leadership.leading,
            on_written=self._written,
        )
        self._elect = LeaseThread()
        # Apart from all other traffic, on a loop of its own, and never repeated behind the elector's back.
        times = settings.lease
        self._lease_store = KubeStore(
            login, timeout=times.renew / 2, attempts=1, on_error=self.metrics.api_error
        )
        name = settings.pod_name or socket.gethostname()
        self.leadership = Leadership(
            self._lease_store,
            settings.namespace,
            f"{name}_{secrets.token_hex(4)}",
            clock=self._clock,
            metrics=self.metrics,
            floor=lambda: epoch_floor(self._lease_store, settings.namespace),
            address=settings.pod_ip,
            times=times,
            alive=self._elect.alive,
        )

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        settings = self._settings
        admin = serve_admin(
            settings.http_host, settings.http_port, self.metrics, self._unhealthy, self._unready
        )
        async with admin as self.port, self._store, self._elect, self._lease():
            front = asyncio.create_task(self._front(), name="session service")
            front.add_done_callback(lambda _: self._stop.set())
            try:
                while await self._follow():
                    await self._lead()
            finally:
                # Nothing writes any more, however it came to this.
                await self._elect.run(self.leadership.release())
                front.cancel()
                await asyncio.gather(front, return_exceptions=True)
            if not front.cancelled() and front.exception() is not None:
                raise RuntimeError("the session service failed") from front.exception()

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        """The lease's store, open on the lease's loop."""
        await self._elect.run(self._lease_store.__aenter__())
        try:
            yield
        finally:
            await self._elect.run(self._lease_store.__aexit__(None, None, None))
            # Its connections close a little later.
            await self._elect.run(asyncio.sleep(0.1))

    async def _follow(self) -> bool:
        """Until this process leads; false when told to stop."""
        self._wrong = ""
        stop = asyncio.Event()
        campaign = asyncio.create_task(self._elect.run(self.leadership.campaign(stop)), name="campaign")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({campaign, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self._elect.soon(stop.set)
            return await campaign
        finally:
            for task in (campaign, stopping):
                task.cancel()
            await asyncio.gather(campaign, stopping, return_exceptions=True)

    def _unhealthy(self) -> str:
        context = self._context
        if self._broken or context is None or not self.leadership.leading:
            return self._broken
        kind, age = context.watches.oldest(self._clock.monotonic())
        if age < self._settings.watch_stale_after:
            return ""
        return f"the watch of {kind} owes a change since {age:.0f} s"

    def _unready(self) -> str:
        """Ready is who leads and places, and who could take over."""
        return self._wrong or ("" if self.leadership.leading else self.leadership.trouble)

    def _written(self, kind: str, version: str) -> None:
        if self._keeper is not None:
            self._keeper.written(kind, version)

    # -- the session service, which every replica has and the leader answers

    async def _front(self) -> None:
        """Until cancelled; from when there is a CA to be known by."""
        settings = self._settings.sessions
        if not settings.address:
            await self._stop.wait()
            return
        while self._ca is None:
            try:
                self._ca = await load_ca(self._store, self._settings.namespace)
            except StoreError as error:
                log.warning("the session service waits for the control CA: %s", error)
            if self._ca is None:
                await asyncio.sleep(1.0)
        pair = certificate(settings, self._newest_ca, self._clock)
        async with serving(settings, pair, self.leadership, self.metrics) as server:
            self.sessions_port = server.port
            self._server.set_result(server)
            await self._stop.wait()

    def _newest_ca(self) -> pki.KeyPair:
        if self._ca is None:
            raise ValueError("there is no control CA yet")
        return self._ca

    async def _answer(self, context: Context, reconciler: Reconciler, ca: pki.KeyPair) -> None:
        """Have the session service answer, once the reconciler places, until the term is over."""
        settings = self._settings.sessions
        if not settings.address:
            await asyncio.Event().wait()
        await reconciler.started.wait()
        server = await asyncio.shield(self._server)
        reviews = KubeReviews(self._store, settings.audiences)
        try:
            await server.lead(make_desks(context, reconciler, reviews, ca, _suffix))
            await publish(self._store, settings, self._settings.namespace, ca.certificate)
            await asyncio.Event().wait()
        finally:
            await server.step_down()
            context.notices.close()

    # -- one term

    async def _lead(self) -> None:
        """Until the lease is lost, the process is to stop, or a part of the term fails."""
        over = asyncio.Event()
        keeping = asyncio.create_task(self._elect.run(self.leadership.keep()), name="lease")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        term = asyncio.create_task(self._term(over), name="term")
        try:
            await asyncio.wait({keeping, stopping, term}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ready.clear()
            self._wrong = "stopping" if self._stop.is_set() else "the lease was lost"
            over.set()
            try:
                await term
            finally:
                self._context = self._keeper = None
                self.metrics.idle()
                for task in (keeping, stopping):
                    task.cancel()
                await asyncio.gather(keeping, stopping, return_exceptions=True)
                self._elect.soon(self.leadership.step_down, "the term is over")

    async def _term(self, over: asyncio.Event) -> None:
        self._wrong = "taking over"
        authority = await self._authority(over)
        if authority is not None:
            self._ca = authority.ca
            await self._serve(authority, over)

    async def _authority(self, over: asyncio.Event) -> Authority | None:
        """The CA, marked with this term's epoch; `None` when the term was over before that."""
        namespace, epoch = self._settings.namespace, self.leadership.epoch
        while not over.is_set():
            try:
                return await load_authority(self._store, namespace, self._clock, epoch)
            except StaleEpoch as error:
                self._elect.soon(self.leadership.step_down, str(error))
                return None
            except StoreError as error:
                log.error("cannot load the control CA: %s", error)
                self._wrong = "no control CA"
                await _wait(over, 1.0)
        return None

    async def _serve(self, authority: Authority, over: asyncio.Event) -> None:
        settings = self._settings
        links = LinkSet(epoch=authority.epoch, clock=self._clock, may_act=lambda: self.leadership.leading)
        context = Context(
            store=self._store,
            links=links,
            clock=self._clock,
            metrics=self.metrics,
            settings=ReconcilerSettings(
                default_pool_namespace=settings.default_pool_namespace,
                worker_lost_after=settings.worker_lost_after,
                concurrency=settings.concurrency,
                snapshot_wait=SNAPSHOT_WAIT,
                # A watch that is behind is helped out well before the kubelet is asked to restart.
                count_every=settings.watch_stale_after / 4,
                relist_after=settings.watch_stale_after / 3,
                nodes=settings.watch_nodes,
            ),
            new_ticket=lambda: secrets.token_urlsafe(32),
            control_ca=lambda: authority.ca.certificate,
            event_level=EventLevel(settings.events),
        )
        defaults = WorkerDefaults(
            settings.worker_image, settings.worker_image_pull_policy, settings.nats_url, settings.worker_env
        )
        pools = PoolReconciler(context, authority, defaults, _suffix)
        reconciler = Reconciler(context, pools)
        links.on_change = reconciler.worker_changed
        keeper = WatchKeeper(context, self._store.count, reconciler.resync)
        mark = LeaderMark(self._store, settings.namespace, settings.pod_name)
        self._context, self._keeper = context, keeper
        writing = [
            asyncio.create_task(reconciler.run(), name="reconciler"),
            asyncio.create_task(self._default_pool(), name="default pool"),
            asyncio.create_task(self._mark(reconciler, mark), name="leader mark"),
            asyncio.create_task(self._answer(context, reconciler, authority.ca), name="session desk"),
            asyncio.create_task(keeper.run(reconciler.started), name="watch keeper"),
        ]
        watching = asyncio.create_task(self._watch(reconciler, keeper, over), name="watches")
        ending = asyncio.create_task(over.wait(), name="end of term")
        try:
            parts = {writing[0], *writing[-2:], watching}
            await asyncio.wait({*parts, ending}, return_when=asyncio.FIRST_COMPLETED)
            for task in parts:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    raise RuntimeError(f"{task.get_name()} failed") from task.exception()
        finally:
            over.set()
            for task in writing:
                task.cancel()
            if not reconciler.started.is_set():
                watching.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
            if self._stop.is_set() and self.leadership.leading:
                # Nobody writes any more: another may lead while kopf takes its leave of the API server.
                await mark.drop()
                await self._elect.run(self.leadership.release())
            await asyncio.gather(links.close(), ending, return_exceptions=True)
            await self._ended(watching)

    async def _ended(self, watching: asyncio.Task[None]) -> None:
        try:
            await watching
        except asyncio.CancelledError:
            if not watching.cancelled():
                raise
        except KopfStuck as error:
            # Watches without a term would go on for ever: the kubelet is to restart the process.
            self._broken = str(error)
            self._stop.set()
            log.error("%s: the process ends", error)

    async def _mark(self, reconciler: Reconciler, mark: LeaderMark) -> None:
        await reconciler.started.wait()
        await mark.take()

    async def _watch(self, reconciler: Reconciler, keeper: WatchKeeper, over: asyncio.Event) -> None:
        context = reconciler.context

        def observe(kind: str, body: Body, deleted: bool, repeated: bool) -> None:
            if over.is_set():
                # Too late: the links are closed, and none may be made.
                return
            keeper.heard(kind, body)
            if repeated and context.cache.knows(kind, body):
                context.metrics.heard(self._clock.now())
            else:
                reconciler.observe(kind, body, deleted=deleted)

        await reconciler.started.wait()
        # Thousands of sessions were read: they are not to be looked through again and again.
        gc.freeze()
        kopf_ready = asyncio.Event()
        marking = asyncio.create_task(self._mark_ready(kopf_ready), name="ready")
        try:
            await run_kopf(
                observe,
                self._login,
                over,
                kopf_ready,
                nodes=self._settings.watch_nodes,
            )
        finally:
            marking.cancel()
            await asyncio.gather(marking, return_exceptions=True)

    async def _default_pool(self) -> None:
        settings = self._settings
        await apply_default_pool(
            self._store, settings.default_pool_file, settings.namespace, settings.default_pool_owner
        )

    async def _mark_ready(self, kopf_ready: asyncio.Event) -> None:
        await kopf_ready.wait()
        self._wrong = ""
        self.ready.set()


def _suffix() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def handle_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def run(settings: Settings, login: Login) -> None:
    operator = Operator(settings, login)
    handle_signals(operator.stop)
    await operator.run()
