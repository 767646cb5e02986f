"""One connection with one media worker: a Watch that never rests, and the calls.

Silence rule: a worker sends something every 2 seconds; after `silence` seconds without a word the stream
is taken
for dead and opened anew. What was known of the worker stays visible meanwhile, marked as not connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Protocol

import grpc
import grpc.aio
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc

from parley_operator.clock import Clock
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    LastWord,
    MigrateOutcome,
    Placement,
    SessionReport,
    UpdateRequest,
    WorkerState,
    WorkerView,
)
from parley_operator.ports import WorkerTarget

from . import codec
from .admits import Admits
from .reports import Reports

log = logging.getLogger(__name__)
# How old, in seconds, the silence of a view may be.
VIEW_AGE = 0.02

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # In spite of its name this is how long a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.enable_http_proxy", 0),
]
# How long after the news of a restart a broken stream is its effect.
_RESTART_NEWS = 3.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Seconds."""

    call_timeout: float = 5.0
    silence: float = 5.0
    retry_first: float = 0.05
    retry_most: float = 1.0
    # A worker without a pod, whom no kubelet tells of, is gone when its address refused for so long.
    refused: float = 1.0


async def refuses(address: str, timeout: float) -> bool:
    """Whether the machine is there and says that nobody listens at `address` (host:port)."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return False
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False


class Changed(Protocol):
    """Told of every session report and, with `None`, whenever the worker itself changed; `felt` is false when
    only those who count places and pods need to know, and none of its sessions."""

    def __call__(self, worker: str, report: SessionReport | None, *, felt: bool = True) -> None: ...


def make_channel(target: WorkerTarget) -> grpc.aio.Channel:
    """Mutual TLS; plaintext only to loopback. Raises `ValueError` otherwise."""
    if target.tls is None:
        host = target.control_address.rpartition(":")[0].strip("[]")
        if not target.control_address.startswith("unix:") and not _loopback(host):
            raise ValueError(f"worker {target.name}: control at {target.control_address} needs TLS")
        return grpc.aio.insecure_channel(target.control_address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(target.tls.ca, target.tls.key, target.tls.certificate)
    options = [
        *_OPTIONS,
        ("grpc.ssl_target_name_override", target.tls.server_name),
        ("grpc.default_authority", target.tls.server_name),
    ]
    return grpc.aio.secure_channel(target.control_address, credentials, options=options)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WorkerLink:
    """The link with one worker. `changed` is called as its type says."""

    def __init__(
        self,
        target: WorkerTarget,
        epoch: int,
        clock: Clock,
        changed: Changed,
        settings: LinkSettings,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self.target = target
        self._epoch = epoch
        self._clock = clock
        self._changed = changed
        self._settings = settings
        self._channel = make_channel(target)
        self._stub = control_pb2_grpc.WorkerControlServiceStub(self._channel)
        self._admits = Admits(self._stub, settings.call_timeout, may_act)
        self._heard = clock.monotonic()
        self._heard_of = Reports()
        self._state = WorkerView(
            target.name,
            target.namespace,
            target.pool,
            node=target.node,
            media_endpoint=target.media_endpoint,
            tls_server_name=target.tls.server_name if target.tls else "",
        )
        self.snapshot_seen = asyncio.Event()
        # The process of the last snapshot is known to be gone, the next one has not spoken yet.
        self._lost = False
        self._restarted_at = float("-inf")
        self._refused_since: float | None = None
        self._view = self._state
        self._view_of: tuple[object, ...] = (None, None, None)
        self._view_until = 0.0

    def succeed(self, link: WorkerLink) -> None:
        """Begin with what another link with the same worker knew, until the worker speaks on this one."""
        own = self._state
        self._state = replace(
            link._state,
            connected=False,
            node=own.node,
            media_endpoint=own.media_endpoint,
            tls_server_name=own.tls_server_name,
        )
        self._heard, self._heard_of = link._heard, link._heard_of
        self._lost, self._restarted_at = link._lost, link._restarted_at
        self._refused_since = link._refused_since

    def follow(self, target: WorkerTarget) -> None:
        """Take over what pod and node say."""
        before = self.view()
        if target.restarts > self.target.restarts:
            self._restarted_at = self._clock.monotonic()
            # The kubelet may be faster than the news of the broken connection, see `_broken`.
            self._lost = self._lost or not self._state.connected
        self.target = target
        after = self.view()
        felt = _felt(after) != _felt(before)
        if felt or _standing(after) != _standing(before):
            self._changed(target.name, None, felt=felt)

    def view(self) -> WorkerView:
        now, target = self._clock.monotonic(), self.target
        known = (self._state, target, self._lost)
        # Asked for by every look at a session; only the silence changes by itself.
        if now < self._view_until and all(a is b for a, b in zip(known, self._view_of, strict=True)):
            return self._view
        self._view = replace(
            self._state,
            silent_for=max(0.0, now - self._heard),
            dead=target.dead or self._lost,
            vouched=target.vouched,
            unreachable=target.unreachable,
            revision=target.revision or self._state.revision,
            zone=target.zone,
            labels=target.labels,
            parting=target.parting,
            draining=target.draining or self._state.state is WorkerState.DRAINING,
            drain_deadline=self._state.drain_deadline or target.drain_deadline,
        )
        self._view_of, self._view_until = known, now + VIEW_AGE
        return self._view

    async def run(self) -> None:
        """Watch until cancelled."""
        delay = self._settings.retry_first
        while True:
            try:
                await self._watch()
                delay = self._settings.retry_first
            except grpc.aio.AioRpcError as error:
                log.info(
                    "worker %s: watch ended: %s %s", self.target.name, error.code().name, error.details()
                )
            except TimeoutError:
                log.warning("worker %s: silent for %.0f s", self.target.name, self._settings.silence)
            except Exception:
                # The link must not end: a worker that is not watched would look healthy for ever.
                log.exception("worker %s: its report cannot be used", self.target.name)
            if self._state.connected:
                delay = self._settings.retry_first
                self._broken()
            elif not self.target.pod_uid and not self._lost:
                await self._knock()
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.retry_most)

    def _broken(self) -> None:
        """The stream ended: by the death of the process where the kubelet said so just now."""
        self._state = replace(self._state, connected=False)
        self._refused_since = None
        if self._clock.monotonic() - self._restarted_at <= _RESTART_NEWS:
            self._lost = True
        self._changed(self.target.name, None)

    async def _knock(self) -> None:
        """Nobody but the address itself tells whether a worker without a pod still runs."""
        now = self._clock.monotonic()
        if not await refuses(self.target.control_address, self._settings.call_timeout):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= self._settings.refused:
            self._lost = True
            self._changed(self.target.name, None)

    async def close(self) -> None:
        await self._admits.close()
        await self._channel.close()

    async def _watch(self) -> None:
        call = self._stub.Watch(pb.WatchRequest(fence=self._fence(""), together=True))
        expected = 1
        try:
            while True:
                async with asyncio.timeout(self._settings.silence):
                    message = await call.read()
                if not isinstance(message, pb.WatchResponse):
                    return
                if message.sequence != expected:
                    log.warning("worker %s: report %d missing", self.target.name, expected)
                    return
                expected += 1
                self._heard = self._clock.monotonic()
                self._take(message)
        finally:
            call.cancel()

    def _take(self, message: pb.WatchResponse) -> None:
        kind = message.WhichOneof("report")
        if kind == "snapshot":
            self._lost = False
            self._restarted_at = float("-inf")
            snapshot = message.snapshot
            self._heard_of = Reports(codec.session_report(r) for r in snapshot.sessions)
            self._state = replace(
                self._with_worker(snapshot.worker),
                instance_id=message.worker_instance_id,
                sessions=self._heard_of.by_uid,
                connected=True,
            )
            self.snapshot_seen.set()
            self._changed(self.target.name, None)
            for report in list(self._heard_of.by_uid.values()):
                self._changed(self.target.name, report)
        elif kind in ("session", "sessions"):
            for each in (message.session,) if kind == "session" else message.sessions.reports:
                report = codec.session_report(each)
                self._heard_of.take(report)
                self._changed(self.target.name, report)
        elif kind == "worker":
            before, after = self._state, self._with_worker(message.worker)
            self._state = after
            felt = _felt(before) != _felt(after)
            if felt or _facts(before) != _facts(after):
                self._changed(self.target.name, None, felt=felt)

    def _with_worker(self, report: pb.WorkerReport) -> WorkerView:
        return replace(
            self._state,
            state=codec.worker_state(report.state),
            capacity=report.capacity,
            telephony_endpoint=codec.url(report.telephony_endpoint),
            journal_degraded=report.journal_degraded,
            revision=report.revision[:63],
            drain_deadline=codec.seconds_of(report.drain_deadline_time),
            occupied=max(0, report.sessions),
            started=codec.seconds_of(report.start_time),
            sessions_total=max(0, report.sessions_total),
            memory_bytes=max(0, report.memory_bytes),
        )

    def _fence(self, instance_id: str) -> pb.Fence:
        return pb.Fence(leader_epoch=self._epoch, worker_instance_id=instance_id)

    async def admit(self, request: AdmitRequest) -> AdmitOutcome:
        return await self._admits.send(codec.admit_message(request, self._epoch))

    async def terminate(self, uid: str, attempt: int, reason: str, message: str) -> bool | None:
        request = pb.TerminateRequest(
            session=self._reference(uid, attempt),
            fence=self._fence(self._state.instance_id),
            reason=reason,
            message=message,
        )
        try:
            response = await self._stub.Terminate(request, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s: terminate of %s: %s", self.target.name, uid, error.code().name)
            return None
        if not response.found:
            self._forget(uid, attempt)
        return bool(response.found)

    def _forget(self, uid: str, attempt: int) -> None:
        """The worker has no such attempt: what it said of it is old."""
        report = self._state.sessions.get(uid)
        if report is not None and report.live and report.attempt == attempt:
            self._heard_of.drop(uid)
            self._changed(self.target.name, None)

    async def update(self, request: UpdateRequest) -> bool | None:
        message = codec.update_message(request, self._epoch)
        try:
            response = await self._stub.Command(message, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            # Its details may repeat what was sent.
            log.warning("worker %s: update of %s: %s", self.target.name, request.uid, error.code().name)
            return None
        return bool(response.found)

    async def migrate(self, uid: str, attempt: int, patience: float) -> MigrateOutcome:
        request = pb.MigrateRequest(
            session=self._reference(uid, attempt),
            fence=self._fence(self._state.instance_id),
            patience=codec.duration(patience),
        )
        try:
            response = await self._stub.Migrate(request, timeout=patience + self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s: migrate of %s: %s", self.target.name, uid, error.code().name)
            return MigrateOutcome(None, message=f"no answer: {error.code().name}")
        return codec.migrate_outcome(response)

    async def moved(self, uid: str, attempt: int, place: Placement) -> bool | None:
        request = pb.MovedRequest(
            session=self._reference(uid, attempt),
            fence=self._fence(self._state.instance_id),
            endpoint=place.endpoint,
            tls_server_name=place.tls_server_name,
            attempt=place.attempt,
            telephony_endpoint=place.telephony_endpoint,
        )
        try:
            response = await self._stub.Moved(request, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s: moved of %s: %s", self.target.name, uid, error.code().name)
            return None
        return bool(response.found)

    def _reference(self, uid: str, attempt: int) -> pb.SessionRef:
        report = self._state.sessions.get(uid)
        return pb.SessionRef(
            session_uid=uid,
            attempt=attempt,
            namespace=report.namespace if report else "",
            name=report.name if report else "",
        )

    async def record_end(self, word: LastWord) -> bool | None:
        message = codec.record_end_message(word, self._epoch, self._state.instance_id)
        try:
            response = await self._stub.RecordEnd(message, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s: end of %s: %s", self.target.name, word.uid, error.code().name)
            # Workers of earlier versions cannot.
            return False if error.code() is grpc.StatusCode.UNIMPLEMENTED else None
        return bool(response.taken)

    async def drain(self, timeout: float, *, exactly: bool = False) -> bool:
        request = pb.DrainRequest(
            fence=self._fence(self._state.instance_id), timeout=codec.duration(timeout), exactly=exactly
        )
        try:
            await self._stub.Drain(request, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s: drain: %s", self.target.name, error.code().name)
            return False
        return True


class LinkSet:
    """All links, kept equal to the wanted targets; implements `ports.WorkerLinks`."""

    def __init__(
        self,
        *,
        epoch: int,
        clock: Clock,
        changed: Changed | None = None,
        settings: LinkSettings | None = None,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_act` is asked before every call that changes something: an operator that does not lead any
        more calls nobody."""
        self._epoch = epoch
        self._may_act = may_act
        self._clock = clock
        self.on_change = changed
        self._settings = settings or LinkSettings()
        self._links: dict[str, WorkerLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def set_target(self, target: WorkerTarget) -> None:
        """Begin to watch, or follow a change. Another address or identity makes a new link; other credentials
        make one that knows what the old one knew."""
        old = self._links.get(target.name)
        if old is None:
            self._open(target)
        elif (old.target.control_address, old.target.pod_uid) != (target.control_address, target.pod_uid):
            self.remove(target.name)
            self._open(target)
        elif old.target.tls != target.tls:
            self._close(target.name)
            self._open(target, old)
            self._changed(target.name, None)
        else:
            old.follow(target)

    def _open(self, target: WorkerTarget, old: WorkerLink | None = None) -> None:
        link = WorkerLink(target, self._epoch, self._clock, self._changed, self._settings, self._may_act)
        if old is not None:
            link.succeed(old)
        self._links[target.name] = link
        self._tasks[target.name] = asyncio.create_task(link.run(), name=f"watch {target.name}")

    def remove(self, worker: str) -> None:
        if self._close(worker):
            self._changed(worker, None)

    def _close(self, worker: str) -> bool:
        """Whether there was a link."""
        link = self._links.pop(worker, None)
        task = self._tasks.pop(worker, None)
        if link is None or task is None:
            return False
        closing = asyncio.create_task(_shut(link, task), name=f"close {worker}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return True

    def _changed(self, worker: str, report: SessionReport | None, *, felt: bool = True) -> None:
        if self.on_change is not None:
            self.on_change(worker, report, felt=felt)

    async def close(self) -> None:
        for worker in list(self._links):
            self.remove(worker)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def wait_snapshots(self, timeout: float) -> list[str]:
        """Wait until every worker sent its snapshot; returns the names of those that did not in time."""
        waits = [link.snapshot_seen.wait() for link in self._links.values()]
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*waits)
        except TimeoutError:
            pass
        return sorted(name for name, link in self._links.items() if not link.snapshot_seen.is_set())

    def _acting(self, worker: str) -> WorkerLink | None:
        return self._links.get(worker) if self._may_act() else None

    def view(self, worker: str) -> WorkerView | None:
        link = self._links.get(worker)
        return None if link is None else link.view()

    def views(self) -> Sequence[WorkerView]:
        return [link.view() for link in self._links.values()]

    async def admit(self, worker: str, request: AdmitRequest) -> AdmitOutcome:
        link = self._acting(worker)
        if link is None:
            return AdmitOutcome(
                AdmitVerdict.UNKNOWN, "no link with the worker, or this operator does not lead"
            )
        return await link.admit(request)

    async def terminate(self, worker: str, uid: str, attempt: int, reason: str, message: str) -> bool | None:
        link = self._acting(worker)
        return None if link is None else await link.terminate(uid, attempt, reason, message)

    async def update(self, worker: str, request: UpdateRequest) -> bool | None:
        link = self._acting(worker)
        return None if link is None else await link.update(request)

    async def migrate(self, worker: str, uid: str, attempt: int, patience: float) -> MigrateOutcome:
        link = self._acting(worker)
        return MigrateOutcome(None) if link is None else await link.migrate(uid, attempt, patience)

    async def moved(self, worker: str, uid: str, attempt: int, place: Placement) -> bool | None:
        link = self._acting(worker)
        return None if link is None else await link.moved(uid, attempt, place)

    async def record_end(self, worker: str, word: LastWord) -> bool | None:
        link = self._acting(worker)
        return None if link is None else await link.record_end(word)

    async def drain(self, worker: str, timeout: float, *, exactly: bool = False) -> bool:
        link = self._acting(worker)
        return False if link is None else await link.drain(timeout, exactly=exactly)


def _facts(view: WorkerView) -> tuple[object, ...]:
    """What others act on at once; the rest is read when it is needed."""
    return (view.capacity, view.occupied > 0)


def _standing(view: WorkerView) -> tuple[object, ...]:
    return view.revision, view.zone, view.labels, view.parting


def _felt(view: WorkerView) -> tuple[object, ...]:
    """What a worker's sessions notice of it."""
    fate = (view.state, view.dead, view.vouched, view.unreachable)
    return *fate, view.journal_degraded, view.draining, view.drain_deadline


async def _shut(link: WorkerLink, task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await link.close()
