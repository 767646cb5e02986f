"""The control plane on one machine without a cluster: the reconciler over `FileStore` and given workers.

async with EmbeddedControlPlane(workers=[WorkerTarget("worker", "127.0.0.1:7061")]) as plane:
    await plane.apply(manifests)
    session = await plane.wait_phase("first-call", {"Ready"}, timeout=20)
    ticket = plane.ticket("first-call")
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from .api.constants import (
    API_VERSION,
    CA_KEY,
    ENDPOINT_KEY,
    POOL,
    SECRET,
    SESSION,
    TELEPHONY_ENDPOINT_KEY,
    TICKET_KEY,
    TLS_SERVER_NAME_KEY,
    Body,
)
from .api.secret import SecretText
from .api.v1alpha1 import map_at, text_at
from .clock import SystemClock
from .domain.phases import TERMINAL
from .domain.subjects import secret_view
from .files import Change, FileStore, InvalidObject
from .handlers.context import Context, ReconcilerSettings
from .handlers.event_posting import EventLevel
from .handlers.reconciler import Reconciler
from .handlers.tickets import secret_name
from .ports import WorkerTarget, WorkerTls
from .telemetry.metrics import Metrics
from .workers.link import LinkSet

__all__ = [
    "Change",
    "EmbeddedControlPlane",
    "InvalidObject",
    "SessionEnded",
    "TicketView",
    "WorkerTarget",
    "WorkerTls",
]

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_HOSTS = (*LOOPBACK_HOSTS, "api.openai.com")


def _nothing() -> None:
    return None


class SessionEnded(RuntimeError):
    """A session reached its end instead of the phase that was waited for; `body` is the VoiceSession."""

    def __init__(self, name: str, body: Body) -> None:
        status = map_at(body, "status")
        super().__init__(
            f"VoiceSession {name} is {status.get('phase')}: {status.get('endReason')}: "
            f"{status.get('endMessage', '')}"
        )
        self.body = body


@dataclass(frozen=True, slots=True)
class TicketView:
    """What a caller needs to attach. `tls_server_name` and `ca` are empty when the endpoint is plaintext,
    `telephony_endpoint` where the worker takes no telephony streams."""

    ticket: SecretText = field(repr=False)
    endpoint: str
    tls_server_name: str
    ca: bytes
    telephony_endpoint: str = ""


class EmbeddedControlPlane:
    """Apply manifests, follow sessions.

    `directory` keeps the objects as files (memory only without it). `workers` all serve the pool `default`;
    one is made, letting sessions talk to `allowed_hosts` and with `rules` as more of its spec, unless the
    manifests bring a VoiceWorkerPool `default`.
    `environ` is what `$(NAME)` in a Secret's stringData refers to.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        workers: Sequence[WorkerTarget],
        namespace: str = "default",
        allowed_hosts: Sequence[str] = DEFAULT_HOSTS,
        rules: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        worker_lost_after: float = 8.0,
    ) -> None:
        self.store = FileStore(directory, environ=environ)
        self._namespace = namespace
        self._workers = workers
        self._hosts = list(allowed_hosts)
        self._rules = dict(rules or {})
        self.metrics = Metrics()
        self._settings = ReconcilerSettings(
            default_pool_namespace=namespace, worker_lost_after=worker_lost_after, concurrency=8
        )
        self._task: asyncio.Task[None] | None = None
        self._links: LinkSet | None = None
        self._stop: Callable[[], None] = _nothing

    async def __aenter__(self) -> Self:
        clock = SystemClock()
        # The epoch rises with every start; seconds suffice, since a start takes longer.
        links = LinkSet(epoch=int(clock.now()), clock=clock)
        ca = b"".join({target.tls.ca: None for target in self._workers if target.tls})
        context = Context(
            store=self.store,
            links=links,
            clock=clock,
            metrics=self.metrics,
            settings=self._settings,
            new_ticket=lambda: secrets.token_urlsafe(32),
            control_ca=lambda: ca,
            event_level=EventLevel.NONE,
        )
        reconciler = Reconciler(context)
        links.on_change = reconciler.worker_changed
        self._links = links
        await self._default_pool()
        self._stop = self.store.subscribe(
            lambda change: reconciler.observe(change.kind, change.body, deleted=change.type == "DELETED")
        )
        for target in self._workers:
            links.set_target(target)
        self._task = asyncio.create_task(reconciler.run(), name="embedded control plane")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._links is not None:
            await self._links.close()

    async def _default_pool(self) -> None:
        if self.store.peek(POOL, self._namespace, "default") is None:
            spec = {"allowedNamespaces": ["*"], "provider": {"allowedHosts": self._hosts}, **self._rules}
            metadata = {"name": "default", "namespace": self._namespace}
            await self.store.apply(
                POOL, {"apiVersion": API_VERSION, "kind": POOL, "metadata": metadata, "spec": spec}
            )

    async def apply(self, manifests: Iterable[Mapping[str, object]]) -> list[Body]:
        """Create or change objects, in the order given, agents and pools included. Raises `InvalidObject`."""
        return [await self.store.apply(text_at(body, "kind"), self._placed(body)) for body in manifests]

    def _placed(self, body: Mapping[str, object]) -> Body:
        metadata = map_at(body, "metadata")
        metadata.setdefault("namespace", self._namespace)
        return {**body, "metadata": metadata}

    def get(self, kind: str, name: str, namespace: str = "") -> Body | None:
        """A copy of the object, or `None`."""
        return self.store.peek(kind, namespace or self._namespace, name)

    async def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete the object; the call of a VoiceSession ends with `Terminated`."""
        await self.store.delete(kind, namespace or self._namespace, name, "")

    def ticket(self, session: str, namespace: str = "") -> TicketView | None:
        """The ticket Secret of a session, decoded; `None` until it is made."""
        body = self.get(SECRET, secret_name(session), namespace)
        if body is None:
            return None
        values = secret_view(body).values
        text = {key: values[key].reveal() for key in values if key != TICKET_KEY}
        return TicketView(
            values[TICKET_KEY],
            text.get(ENDPOINT_KEY, ""),
            text.get(TLS_SERVER_NAME_KEY, ""),
            text.get(CA_KEY, "").encode(),
            text.get(TELEPHONY_ENDPOINT_KEY, ""),
        )

    async def wait_phase(
        self, name: str, phases: Collection[str], *, namespace: str = "", timeout: float
    ) -> Body:
        """Wait for a VoiceSession to reach one of `phases`.

        Raises `TimeoutError` after `timeout` seconds, `SessionEnded` when it ended in a phase not asked
        for, and
        `LookupError` when it is not there or deleted meanwhile.
        """
        space = namespace or self._namespace
        if self.get(SESSION, name, space) is None:
            raise LookupError(f"VoiceSession {space}/{name} does not exist")
        changes = self.store.watch(SESSION, space)
        try:
            async with asyncio.timeout(timeout):
                async for change in changes:
                    if text_at(change.body, "metadata", "name") != name:
                        continue
                    if change.type == "DELETED":
                        raise LookupError(f"VoiceSession {space}/{name} was deleted")
                    phase = text_at(change.body, "status", "phase")
                    if phase in phases:
                        return change.body
                    if phase in TERMINAL:
                        raise SessionEnded(name, change.body)
        finally:
            await changes.aclose()  # type: ignore[attr-defined]
        raise AssertionError("unreachable")

    def watch(self, kind: str = "", namespace: str = "") -> AsyncIterator[Change]:
        """What is there as ADDED, then every change, until the iterator is closed."""
        return self.store.watch(kind, namespace)
