"""The reconcilers over objects in memory and workers made of values, without sockets and without waiting."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from parley_operator import pki
from parley_operator.domain.manifests import WorkerDefaults
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    SessionReport,
    SessionState,
    Usage,
    WorkerState,
    WorkerView,
)
from parley_operator.files import FileStore
from parley_operator.handlers.authority import Authority
from parley_operator.handlers.context import Context, ReconcilerSettings
from parley_operator.handlers.pools import PoolReconciler
from parley_operator.handlers.queue import DOOM, Key
from parley_operator.handlers.reconciler import Reconciler
from parley_operator.ports import Conflict, Refused, StoreError, WorkerTarget
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


@dataclass
class Links:
    """Workers as values; `answer` decides about Admits."""

    workers: dict[str, WorkerView] = field(default_factory=dict)
    targets: dict[str, WorkerTarget] = field(default_factory=dict)
    admits: list[tuple[str, AdmitRequest]] = field(default_factory=list)
    terminates: list[tuple[str, str]] = field(default_factory=list)
    drains: list[str] = field(default_factory=list)
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

    async def drain(self, worker: str, timeout: float) -> bool:
        self.drains.append(worker)
        return True

    def add(self, name: str, **changes: Any) -> WorkerView:
        facts = {"instance_id": f"{name}-1", "state": WorkerState.READY, "capacity": 2, "connected": True}
        view = replace(WorkerView(name, "default", "default"), **{**facts, **changes})
        self.workers[name] = view
        return view

    def report(self, worker: str, request: AdmitRequest, state: SessionState, **facts: Any) -> SessionReport:
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


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
    return made


def unanswered(worker: str, request: AdmitRequest) -> AdmitOutcome:
    return AdmitOutcome(AdmitVerdict.UNKNOWN, "no answer")


async def test_an_end_is_kept_when_the_pod_is_gone_before_it_is_written(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.ACTIVE)
    await plane.look()
    usage = Usage(output_tokens=7)
    ended = plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup", usage=usage)
    plane.reconciler.worker_changed("w", ended)
    plane.links.remove("w")
    await plane.look()
    assert plane.status()["endReason"] == "CallerHangup"
    assert plane.status()["usage"]["outputTokens"] == 7


async def test_an_end_told_of_another_instance_does_not_count(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.add("other")
    ended = plane.links.report("other", request, SessionState.ENDED, end_reason="CallerHangup")
    plane.reconciler.worker_changed("other", ended)
    plane.links.remove("w")
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"


@pytest.mark.parametrize("access", [{"ticket": "None"}, {"ticket": "Secret"}])
async def test_who_was_asked_is_known_after_a_restart(plane: Plane, access: Any) -> None:
    view = plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session(access=access)
    await plane.look()
    assert [worker for worker, _ in plane.links.admits] == ["w"]
    # The worker, silent now, may have the session; another one has room.
    plane.links.workers["w"] = replace(view, connected=False, instance_id="")
    plane.links.add("free")
    plane.clock.at += 3.0
    await plane.restart()
    assert await plane.look() == 1.0
    assert [worker for worker, _ in plane.links.admits] == ["w"]
    # It answers again, and is asked the same question.
    plane.links.add("w")
    plane.links.answer = Links().answer
    await plane.look()
    assert [(worker, r.attempt) for worker, r in plane.links.admits] == [("w", 1), ("w", 1)]


async def test_a_note_is_no_placement_once_the_worker_said_no(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.FULL)
    await plane.session(access={"ticket": "None"})
    await plane.look()
    assert plane.reconciler.sessions.book.get(plane.links.admits[0][1].uid) is None
    plane.links.answer = Links().answer
    plane.links.workers.clear()
    plane.links.add("other")
    await plane.look()
    assert [worker for worker, _ in plane.links.admits] == ["w", "other"]


async def test_the_attempt_never_falls(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session()
    await plane.look()
    # The worker is gone; the next one says no, the third yes.
    plane.links.remove("w")
    plane.links.add("second")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.DRAINING)
    await plane.look()
    plane.links.remove("second")
    plane.links.add("third")
    plane.links.answer = Links().answer
    await plane.look()
    assert [(worker, r.attempt) for worker, r in plane.links.admits] == [
        ("w", 1), ("second", 2), ("third", 2),
    ]  # fmt: skip


async def test_a_worker_lost_while_asked_is_told_so_in_the_end(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session()
    await plane.look()
    plane.links.remove("w")
    assert await plane.look() == 0.5
    plane.clock.at += 31
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    assert plane.conditions()["Ready"] == ("False", "WorkerLost")


async def test_a_session_that_ended_before_the_answer_keeps_its_reason(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.ENDED)
    await plane.session()
    await plane.look()
    assert "endReason" not in plane.status()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.ENDED, end_reason="ProviderAuthFailed")
    await plane.look()
    assert plane.status()["endReason"] == "ProviderAuthFailed"


async def test_a_secret_of_somebody_else_is_left_alone_and_named(plane: Plane) -> None:
    plane.links.add("w")
    metadata = {"name": "call-ticket", "namespace": "default"}
    data = {"ticket": base64.b64encode(b"theirs").decode()}
    theirs = await plane.store.create(
        SECRET, {"apiVersion": "v1", "kind": SECRET, "metadata": metadata, "data": data}
    )
    await plane.session()
    assert await plane.look() == 0.5
    assert plane.conditions() == {}
    plane.clock.at += 11
    await plane.look()
    assert plane.conditions()["Accepted"] == ("False", "TicketSecretTaken")
    assert "call-ticket" in plane.status()["conditions"][0]["message"]
    writes = len(plane.store.status_writes)
    await plane.look()
    assert len(plane.store.status_writes) == writes
    plane.clock.at += 30
    await plane.look()
    assert plane.status()["endReason"] == "InvalidSpec"
    assert plane.links.admits == []
    assert plane.store.peek(SECRET, "default", "call-ticket") == theirs
    assert "theirs" not in str(plane.status())
    # When it is gone before the end, all is well.
    await plane.store.delete(SECRET, "default", "call-ticket", "")
    await plane.session("next")
    await plane.look("next")
    assert len(plane.links.admits) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_the_secret_names_the_endpoint_before_the_status_does(plane: Plane, restart: bool) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.READY, endpoint="1.2.3.4:5", tls_server_name="w.example")
    if restart:
        await plane.restart()

    def fail(verb: str, kind: str) -> None:
        raise StoreError("no answer")

    plane.store.before = fail
    with pytest.raises(StoreError):
        await plane.look()
    assert plane.status() == {}
    plane.store.before = lambda verb, kind: None
    await plane.look()
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    assert base64.b64decode(body["data"]["endpoint"]) == b"1.2.3.4:5"
    assert base64.b64decode(body["data"]["tlsServerName"]) == b"w.example"
    assert plane.status()["phase"] == "Ready"


async def test_while_a_session_waits_nobody_reads_its_secret(plane: Plane) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": SECRET,
        "metadata": {
            "name": "key",
            "namespace": "default",
            "labels": {"parley.dev/provider-credentials": "true"},
            "annotations": {"parley.dev/provider-hosts": "127.0.0.1"},
        },
        "stringData": {"apiKey": "sk-1"},
    }
    await plane.store.create(SECRET, secret)
    provider = {**PROVIDER, "credentialsSecretRef": {"name": "key"}}
    await plane.session(agent={"provider": provider})
    for _ in range(20):
        await plane.look()
    assert plane.store.reads.count("key") == 1
    plane.links.add("w")
    await plane.look()
    assert plane.store.reads.count("key") == 2
    assert plane.links.admits[0][1].provider.api_key.reveal() == "sk-1"


async def test_a_session_deleted_while_the_worker_is_asked(plane: Plane) -> None:
    plane.links.add("w")
    body = await plane.session()
    uid = body["metadata"]["uid"]

    def admit(worker: str, request: AdmitRequest) -> AdmitOutcome:
        plane.reconciler.observe(SESSION, body, deleted=True)
        return AdmitOutcome(AdmitVerdict.ADMITTED)

    plane.links.answer = admit
    await plane.look()
    assert await plane.reconciler._doom(Key(DOOM, "", uid)) is None
    assert plane.links.terminates == [("w", uid)]
    assert plane.reconciler.sessions.book.get(uid) is None
    assert plane.context.ledger.reservations == 0


async def test_a_list_older_than_the_deletion_brings_nothing_back(plane: Plane) -> None:
    plane.links.add("w")
    body = await plane.session()
    plane.reconciler.observe(SESSION, body, deleted=True)
    plane.reconciler.observe(SESSION, body)
    await plane.look()
    assert plane.links.admits == []


async def test_workers_of_other_pools_are_not_believed(plane: Plane) -> None:
    body = await plane.session()
    report = SessionReport(body["metadata"]["uid"], 1, "default", "call", SessionState.ENDED, "CallerHangup")
    plane.links.add("stranger", namespace="evil", sessions={report.uid: report})
    await plane.look()
    assert "endReason" not in plane.status()


async def test_a_final_write_whose_answer_was_lost_is_counted_once(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    plane.links.remove("w")

    def lose(verb: str, kind: str) -> None:
        plane.store.after = lambda verb, kind: None
        raise Conflict("the repeated write found its own work")

    plane.store.after = lose
    await plane.look()
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    assert b'sessions_ended_total{reason="WorkerLost"} 1.0' in plane.context.metrics.render()
    assert plane.reconciler.sessions.book.get(plane.links.admits[0][1].uid) is None


async def test_nothing_is_kept_of_sessions_that_are_over(plane: Plane) -> None:
    plane.links.add("w", capacity=100)
    for number in range(30):
        await plane.session(f"call-{number}")
        await plane.look(f"call-{number}")
    for _, request in plane.links.admits:
        ended = plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup")
        plane.reconciler.worker_changed("w", ended)
        await plane.look(request.name)
        await plane.look(request.name)
    kept = vars(plane.reconciler.sessions.book) | vars(plane.reconciler.sessions)
    for name, value in kept.items():
        if isinstance(value, (dict, set)):
            assert not value, name
    assert len(plane.reconciler.sessions.line) == 0
    assert plane.context.ledger.reservations == 0


async def test_a_growing_journal_is_no_reason_to_write(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    for last in range(1, 6):
        journal = {"journal_stream": "J", "journal_first": 1, "journal_last": last}
        plane.links.report("w", request, SessionState.ACTIVE, **journal)
        await plane.look()
    assert len(plane.store.status_writes) == 1
    plane.links.report("w", request, SessionState.ENDED, end_reason="AgentHangup", **journal)
    await plane.look()
    assert plane.status()["journal"] == {"stream": "J", "first": 1, "last": 5}


# -- pools


async def pool(plane: Plane, **spec: Any) -> Any:
    return await plane.apply(POOL, "p", {**HOSTS, **spec}, "media")


async def look_at_pool(plane: Plane) -> float | None:
    body: Any = plane.store.peek(POOL, "media", "p")
    plane.reconciler.observe(POOL, body)
    return await plane.pools.reconcile(Key(POOL, "media", "p"))


async def pods(plane: Plane) -> list[Any]:
    return [b for b in await plane.store.list(POD) if b["metadata"]["namespace"] == "media"]  # type: ignore[index]


async def set_phase(plane: Plane, pod: Any, phase: str, ready: bool = False) -> None:
    status = {"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}]}
    plane.reconciler.observe(POD, await plane.store.patch_status(POD, pod, status))


async def test_pods_that_fail_at_once_are_replaced_ever_more_slowly(plane: Plane) -> None:
    await pool(plane)
    made, begun = 0, plane.clock.at
    while plane.clock.at < begun + 600:
        await look_at_pool(plane)
        for body in await pods(plane):
            made += 1
            await set_phase(plane, body, "Failed")
        await look_at_pool(plane)
        plane.clock.at += 1
    assert 8 <= made <= 20
    # Once the pool is whole again, the next failure is mended at once.
    plane.clock.at += 60
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Running", ready=True)
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Failed")
    await look_at_pool(plane)
    assert len(await pods(plane)) == 1


async def test_a_refused_pod_is_told_once_and_tried_slowly(plane: Plane) -> None:
    await pool(plane)
    tried = 0

    def refuse(verb: str, kind: str) -> None:
        nonlocal tried
        if kind == POD:
            tried += 1
            raise Refused(f'pods "p-s{tried - 1}" is forbidden: exceeded quota')

    plane.store.before = refuse
    for _ in range(30):
        # Every status write comes back as an event, and makes the pool be looked at.
        again = await look_at_pool(plane)
        assert again is not None
        plane.clock.at += 1
    assert tried == 3
    body: Any = plane.store.peek(POOL, "media", "p")
    [available] = body["status"]["conditions"]
    assert available["reason"] == "PodsRefused"
    assert "exceeded quota" in available["message"]
    assert len(plane.store.status_writes) == 1
    plane.store.before = lambda verb, kind: None
    plane.clock.at += 10
    await look_at_pool(plane)
    assert len(await pods(plane)) == 1


async def test_a_tls_secret_of_somebody_else_is_left_alone(plane: Plane) -> None:
    metadata = {"name": "parley-pool-p-tls", "namespace": "media"}
    theirs = await plane.store.create(
        SECRET, {"apiVersion": "v1", "kind": SECRET, "metadata": metadata, "data": {"tls.key": "AA=="}}
    )
    await pool(plane)
    await look_at_pool(plane)
    assert plane.store.peek(SECRET, "media", "parley-pool-p-tls") == theirs
    assert await pods(plane) == []
    body: Any = plane.store.peek(POOL, "media", "p")
    assert "parley-pool-p-tls" in body["status"]["conditions"][0]["message"]


def look_alike(namespace: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}-{name}",
            "labels": {"parley.dev/pool": "p"},
            **metadata,
        },
        "status": {"podIP": "10.6.6.6", "phase": "Running"},
    }


async def test_a_pod_that_only_looks_like_a_worker_is_neither_asked_nor_removed(plane: Plane) -> None:
    await pool(plane)
    await look_at_pool(plane)
    plane.reconciler.observe(POD, look_alike("media", "copy-of-a-worker"))
    await look_at_pool(plane)
    assert plane.links.targets == {}
    assert plane.links.drains == []
    assert len(await pods(plane)) == 1


async def test_pods_of_one_name_in_two_namespaces_are_two_workers(plane: Plane) -> None:
    await pool(plane)
    await look_at_pool(plane)
    [body] = await pods(plane)
    await set_phase(plane, body, "Running", ready=True)
    name = body["metadata"]["name"]
    owner = {"kind": POOL, "name": "p", "uid": "u", "controller": True}
    twin = look_alike("elsewhere", name, ownerReferences=[owner])
    plane.reconciler.observe(POD, twin)
    assert set(plane.links.targets) == {f"media/{name}", f"elsewhere/{name}"}
    plane.reconciler.observe(POD, twin, deleted=True)
    assert set(plane.links.targets) == {f"media/{name}"}
    assert plane.links.targets[f"media/{name}"].control_address.startswith("10.0.0.1:")


async def test_the_status_says_why_pods_wait(plane: Plane) -> None:
    await pool(plane, replicas=2)
    await look_at_pool(plane)
    first, second = await pods(plane)
    waiting = {"name": "worker", "state": {"waiting": {"reason": "ImagePullBackOff"}}, "restartCount": 0}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    for body, status in ((first, {"containerStatuses": [waiting]}), (second, {"conditions": [unscheduled]})):
        plane.reconciler.observe(
            POD, await plane.store.patch_status(POD, body, {"phase": "Pending", **status})
        )
    await look_at_pool(plane)
    assert len(await pods(plane)) == 2
    body = plane.store.peek(POOL, "media", "p")
    [available] = body["status"]["conditions"]  # type: ignore[index]
    assert available["message"] == ("0 of 2 workers are ready; pods wait: ImagePullBackOff, Unschedulable")
