"""Leadership: the Lease of the operator's namespace, taken, kept and given up.

What leads and for how long is decided in `domain.election`; here are the requests. They go through a store of
their own, so that no other traffic can delay them, and each ends well before the time that it is about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from parley_operator.api.constants import ANNOTATION_LEADER_ADDRESS, LEASE, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.clock import Clock
from parley_operator.domain.election import Claim, Elector, LeaseRecord, LeaseTimes, Standing
from parley_operator.ports import Conflict, Store, StoreError
from parley_operator.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
LEASE_NAME = "parley-operator"
# Without a word from the API server for this many durations a follower says that it cannot take over.
_DEAF_AFTER = 3
# Seconds after an attempt that failed: the deadline is near.
_AGAIN = 0.1
Floor = Callable[[], Awaitable[int]]


class Leadership:
    """Who leads, and whether it is this process. One for the life of the process.

    What it does runs on one event loop; what others ask may be asked from any thread."""

    def __init__(
        self,
        store: Store,
        namespace: str,
        name: str,
        *,
        clock: Clock,
        metrics: Metrics,
        floor: Floor,
        address: str = "",
        times: LeaseTimes | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """`alive` says whether what leads still moves: if not, the lease is not renewed."""
        self._store = store
        self._namespace = namespace
        self._clock = clock
        self._metrics = metrics
        self._floor = floor
        self._own_address = address
        self._alive = alive
        self._elector = Elector(name, times or LeaseTimes())
        self._heard = clock.monotonic()
        self._ever_heard = False
        # Of those who write over the same record: the one that keeps the lease and the one that gives it up.
        self._writing = asyncio.Lock()

    @property
    def _patience(self) -> float:
        """Seconds for one request: a lost answer leaves time for another."""
        return self._elector.times.renew / 2

    # -- what others ask

    @property
    def name(self) -> str:
        return self._elector.name

    @property
    def leading(self) -> bool:
        """Whether this process may write at this very moment; read it right before every write."""
        return self._elector.leads(self._clock.monotonic())

    @property
    def holder(self) -> str:
        """Name of the leader as last heard; empty when there is none."""
        return self._elector.seen.holder if self._elector.seen is not None else ""

    @property
    def address(self) -> str:
        """Where the leader is reached (an IP address), as it says itself; empty when it does not."""
        return self._elector.seen.address if self._elector.seen is not None else ""

    @property
    def epoch(self) -> int:
        """Of this process's term where it leads, else that of the leader as last heard."""
        if self._elector.standing is Standing.LEADING:
            return self._elector.epoch
        return self._elector.seen.epoch if self._elector.seen is not None else 0

    @property
    def trouble(self) -> str:
        """Why this process could not take over now; empty when it could."""
        silence = self._clock.monotonic() - self._heard
        if not self._ever_heard:
            return "the lease was never read"
        if silence > self._elector.times.duration * _DEAF_AFTER:
            return f"the lease was not read for {silence:.0f} s"
        return ""

    # -- one term after the other

    async def campaign(self, stop: asyncio.Event) -> bool:
        """Follow until the lease is taken: true; or until `stop`: false."""
        retry = self._elector.times.retry
        while not stop.is_set():
            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._patience):
                    await self._compete()
            except (StoreError, TimeoutError) as error:
                log.warning("lease %s: %s", LEASE_NAME, str(error) or "no answer in time")
            if self.leading:
                self._metrics.lease("acquired", self.epoch)
                log.info("leading with epoch %d", self.epoch)
                return True
            self._elector.step_down()
            await _pause(stop, begun + retry - self._clock.monotonic())
        return False

    async def _compete(self) -> None:
        await self._read()
        # The floor is looked up only where it matters.
        if self._elector.seen is not None and self._elector.claim(self._clock.monotonic(), 0) is None:
            return
        claim = self._elector.claim(self._clock.monotonic(), await self._floor())
        if claim is not None:
            try:
                await self._write(claim)
            except Conflict:
                log.info("lease %s: another was faster", LEASE_NAME)

    async def keep(self) -> str:
        """Renew until the lease is lost; returns how it was lost."""
        pause = self._elector.times.retry
        while True:
            now = self._clock.monotonic()
            if self._elector.expire(now):
                return self._lost("it could not be renewed in time")
            if self._elector.standing is Standing.RESIGNED:
                return "given up"
            await asyncio.sleep(min(pause, self._elector.left(now)))
            pause = await self._renewed()
            if self._elector.standing is Standing.FOLLOWING:
                return self._lost(f"held by {self.holder}" if self.holder else "it was deleted or given up")

    async def _renewed(self) -> float:
        """One attempt, within the time that is left; returns seconds until the next."""
        async with self._writing:
            left = self._elector.left(self._clock.monotonic())
            if left <= 0:
                # Frozen for longer than that: not even the lease is written any more.
                return 0.0
            if not self._alive():
                log.error("lease %s: not renewed: the event loop stands still", LEASE_NAME)
                return self._elector.times.retry
            try:
                async with asyncio.timeout(min(left, self._patience)):
                    return self._elector.times.retry if await self._renew() else _AGAIN
            except (StoreError, TimeoutError) as error:
                log.warning("lease %s: not renewed: %s", LEASE_NAME, str(error) or "no answer in time")
                return _AGAIN

    async def _renew(self) -> bool:
        claim = self._elector.claim(self._clock.monotonic(), 0)
        if claim is None:
            return False
        try:
            if await self._write(claim):
                return True
            self._elector.read(None, self._clock.monotonic())
        except Conflict:
            # Somebody wrote: another leader, a curious person, or this process, whose answer was lost.
            await self._read()
        return False

    def _lost(self, why: str) -> str:
        self._elector.step_down()
        self._metrics.lease("lost", 0)
        log.error("lease %s: lost: %s", LEASE_NAME, why)
        return why

    def step_down(self, why: str) -> None:
        """Lead no more from now on; the lease runs out by itself."""
        if self._elector.standing is Standing.LEADING:
            self._lost(why)

    async def release(self) -> None:
        """Lead no more, for good, and let another take over at once. All writing must have ended."""
        async with self._writing:
            leading = self.leading
            claim = self._elector.resign()
            if claim is None or not leading:
                return
            self._metrics.lease("released", 0)
            try:
                async with asyncio.timeout(self._patience):
                    patch = {"metadata": {"resourceVersion": claim.version}, "spec": {"holderIdentity": ""}}
                    await self._store.patch(LEASE, self._namespace, LEASE_NAME, patch)
            except (StoreError, TimeoutError) as error:
                log.warning("lease %s: not given up: %s", LEASE_NAME, str(error) or "no answer in time")

    # -- requests

    async def _read(self) -> None:
        body = await self._store.get(LEASE, self._namespace, LEASE_NAME)
        self._heard, self._ever_heard = self._clock.monotonic(), True
        self._elector.read(None if body is None else _record(body), self._heard)

    async def _write(self, claim: Claim) -> bool:
        """False when the Lease is gone. Raises `Conflict` when it changed."""
        begun = self._clock.monotonic()
        spec: Body = {"renewTime": _micro(self._clock.now())}
        metadata: Body = {}
        if claim.taking:
            metadata["annotations"] = {ANNOTATION_LEADER_ADDRESS: self._own_address}
            spec |= {
                "holderIdentity": self.name,
                "leaseDurationSeconds": max(1, round(self._elector.times.duration)),
                "acquireTime": spec["renewTime"],
                "leaseTransitions": claim.epoch,
            }
        if claim.version:
            metadata["resourceVersion"] = claim.version
            patch = {"metadata": metadata, "spec": spec}
            body = await self._store.patch(LEASE, self._namespace, LEASE_NAME, patch)
        else:
            metadata |= {"name": LEASE_NAME, "namespace": self._namespace}
            api = "coordination.k8s.io/v1"
            fresh: Body = {"apiVersion": api, "kind": LEASE, "metadata": metadata, "spec": spec}
            body = await self._store.create(LEASE, fresh)
        if body is None:
            return False
        self._heard = self._clock.monotonic()
        self._elector.written(claim, _record(body), begun)
        return True


def _record(body: Body) -> LeaseRecord:
    spec = map_at(body, "spec")
    epoch, duration = spec.get("leaseTransitions"), spec.get("leaseDurationSeconds")
    return LeaseRecord(
        version=text_at(body, "metadata", "resourceVersion"),
        holder=text_at(spec, "holderIdentity"),
        epoch=epoch if isinstance(epoch, int) else 0,
        duration=float(duration) if isinstance(duration, int) else 0.0,
        address=text_at(body, "metadata", "annotations", ANNOTATION_LEADER_ADDRESS),
    )


def _micro(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()
    except TimeoutError:
        pass
