"""The reconcilers over objects in memory and workers made of values, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parley_operator import pki
from parley_operator.domain.manifests import WorkerDefaults
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    LastWord,
    MigrateOutcome,
    Placement,
    SessionReport,
    SessionState,
    UpdateRequest,
    WorkerState,
    WorkerView,
)
from parley_operator.files import FileStore
from parley_operator.handlers.authority import Authority
from parley_operator.handlers.context import Context, ReconcilerSettings
from parley_operator.handlers.pools import PoolReconciler
from parley_operator.handlers.queue import Key
from parley_operator.handlers.reconciler import Reconciler
from parley_operator.ports import WorkerTarget
from parley_operator.telemetry.metrics import Metrics

API = "parley.dev/v1alpha1"
SESSION, POOL, POD, SECRET = "VoiceSession", "VoiceWorkerPool", "Pod", "Secret"
NOW = 1_800_000_000.0
CALL = Key(SESSION, "default", "call")
PROVIDER = {"type": "custom", "url": "ws://127.0.0.1:8765/v1", "model": "m"}


@dataclass
class Time:
    at: float = NOW

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class CountingStore(FileStore):
    """Counts reads of Secrets and status writes; `before` and `after` may raise around a call."""

    def __init__(self, clock: Time) -> None:
        super().__init__(clock=clock)
        self.reads: list[str] = []
        self.status_writes: list[Mapping[str, object]] = []
        self.before: Callable[[str, str], None] = lambda verb, kind: None
        self.after: Callable[[str, str], None] = lambda verb, kind: None

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        if kind == SECRET:
            self.reads.append(name)
        return await super().get(kind, namespace, name)

    async def create(self, kind: str, body: Mapping[str, object]) -> Any:
        self.before("create", kind)
        return await super().create(kind, body)

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, object]) -> Any:
        self.before("patch", kind)
        return await super().patch(kind, namespace, name, patch)

    async def patch_status(self, kind: str, seen: Any, status: Mapping[str, object]) -> Any:
        self.status_writes.append(status)
        found = await super().patch_status(kind, seen, status)
        self.after("patch_status", kind)
        return found


class Workers(dict[str, WorkerView]):
    """Tells of every change, as links do."""

    changed: Callable[[str], None] = staticmethod(lambda worker: None)

    def __setitem__(self, worker: str, view: WorkerView) -> None:
        super().__setitem__(worker, view)
        self.changed(worker)

    def __delitem__(self, worker: str) -> None:
        super().__delitem__(worker)
        self.changed(worker)

    def setdefault(self, worker: str, view: Any = None) -> WorkerView:
        if worker not in self:
            self[worker] = view
        return self[worker]

    def pop(self, worker: str, *default: Any) -> Any:
        found = super().pop(worker, *default)
        self.changed(worker)
        return found

    def clear(self) -> None:
        for worker in list(self):
            del self[worker]


@dataclass
class Links:
    """Workers as values; `answer` decides about Admits."""

    workers: Workers = field(default_factory=Workers)
    targets: dict[str, WorkerTarget] = field(default_factory=dict)
    admits: list[tuple[str, AdmitRequest]] = field(default_factory=list)
    terminates: list[tuple[str, str]] = field(default_factory=list)
    updates: list[tuple[str, UpdateRequest]] = field(default_factory=list)
    drains: list[str] = field(default_factory=list)
    deadlines: list[tuple[str, float, bool]] = field(default_factory=list)
    migrates: list[tuple[str, str, int]] = field(default_factory=list)
    moves: list[tuple[str, int, str, int]] = field(default_factory=list)
    moved_answer: bool | None = True
    last_words: list[tuple[str, LastWord]] = field(default_factory=list)
    takes_last_words: bool | None = True
    hand_over: Callable[[str], MigrateOutcome] = lambda worker: MigrateOutcome(
        True, ready=True, hand_over="{}"
    )
    answer: Callable[[str, AdmitRequest], AdmitOutcome] = lambda worker, request: AdmitOutcome(
        AdmitVerdict.ADMITTED, endpoint="1.2.3.4:5"
    )

    def view(self, worker: str) -> WorkerView | None:
        return self.workers.get(worker)

    def views(self) -> Sequence[WorkerView]:
        return list(self.workers.values())

    async def wait_snapshots(self, timeout: float) -> list[str]:
        return []

    def set_target(self, target: WorkerTarget) -> None:
        self.targets[target.name] = target
        self.workers.setdefault(
            target.name, WorkerView(target.name, target.namespace, target.pool, node=target.node)
        )

    def remove(self, worker: str) -> None:
        self.targets.pop(worker, None)
        self.workers.pop(worker, None)

    async def admit(self, worker: str, request: AdmitRequest) -> AdmitOutcome:
        self.admits.append((worker, request))
        return self.answer(worker, request)

    async def terminate(self, worker: str, uid: str, attempt: int, reason: str, message: str) -> bool:
        self.terminates.append((worker, uid))
        return True

    async def update(self, worker: str, request: UpdateRequest) -> bool:
        self.updates.append((worker, request))
        return True

    async def drain(self, worker: str, timeout: float, *, exactly: bool = False) -> bool:
        self.drains.append(worker)
        self.deadlines.append((worker, timeout, exactly))
        return True

    async def record_end(self, worker: str, word: LastWord) -> bool | None:
        self.last_words.append((worker, word))
        return self.takes_last_words

    async def migrate(self, worker: str, uid: str, attempt: int, patience: float) -> MigrateOutcome:
        self.migrates.append((worker, uid, attempt))
        return self.hand_over(worker)

    async def moved(self, worker: str, uid: str, attempt: int, place: Placement) -> bool | None:
        self.moves.append((worker, attempt, place.worker, place.attempt))
        return self.moved_answer

    def add(self, name: str, **changes: Any) -> WorkerView:
        facts = {"instance_id": f"{name}-1", "state": WorkerState.READY, "capacity": 2, "connected": True}
        view = replace(WorkerView(name, "default", "default"), **{**facts, **changes})
        self.workers[name] = view
        return view

    def report(self, worker: str, request: AdmitRequest, state: SessionState, **facts: Any) -> SessionReport:
        facts.setdefault("origin", request.origin)
        report = SessionReport(request.uid, request.attempt, request.namespace, request.name, state, **facts)
        view = self.workers[worker]
        self.workers[worker] = replace(view, sessions={**view.sessions, request.uid: report})
        return report


class Plane:
    def __init__(self) -> None:
        self.clock = Time()
        self.store = CountingStore(self.clock)
        self.links = Links()
        self.start()

    def start(self) -> None:
        """A new process over the same objects and workers."""
        self.context = Context(
            store=self.store,
            links=self.links,
            clock=self.clock,
            metrics=Metrics(),
            settings=ReconcilerSettings(snapshot_wait=0.0),
            new_ticket=lambda: "ticket-text",
            control_ca=lambda: b"CA",
        )
        self.authority = Authority(CA, 1, CLIENT, self.clock)
        self.suffixes = iter(f"s{number}" for number in range(10_000))
        self.pools = PoolReconciler(
            self.context, self.authority, WorkerDefaults("image:1"), lambda: next(self.suffixes)
        )
        self.reconciler = Reconciler(self.context, self.pools)
        self.links.workers.changed = self.reconciler.sessions.line.worker_seen

    async def restart(self) -> None:
        self.start()
        await self.reconciler.seed()

    async def apply(self, kind: str, name: str, spec: Any, namespace: str = "default") -> Any:
        metadata = {"name": name, "namespace": namespace}
        body = await self.store.apply(
            kind, {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}
        )
        self.reconciler.observe(kind, body)
        return body

    async def session(self, name: str = "call", **spec: Any) -> Any:
        return await self.apply(SESSION, name, {"agent": {"provider": PROVIDER}, **spec})

    async def look(self, name: str = "call") -> float | None:
        return await self.reconciler.sessions.reconcile(Key(SESSION, "default", name))

    def status(self, name: str = "call") -> Any:
        body: Any = self.store.peek(SESSION, "default", name)
        return body.get("status", {})

    def conditions(self, name: str = "call") -> dict[str, tuple[str, str]]:
        found = self.status(name).get("conditions", [])
        return {c["type"]: (c["status"], c["reason"]) for c in found}


CA = pki.make_ca(NOW)
CLIENT = pki.issue_client(CA, NOW)
HOSTS = {"provider": {"allowedHosts": ["127.0.0.1"]}}
