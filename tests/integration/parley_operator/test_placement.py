"""Placement with real gRPC workers that refuse, do not answer and go; none of the sessions is lost."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from control_worker import ControlWorker
from parley.control.v1 import control_pb2 as pb
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import LimitsSpec
from parley_operator.clock import SystemClock
from parley_operator.domain.model import AdmitRequest, AdmitVerdict, ProviderTarget
from parley_operator.embedded import EmbeddedControlPlane, WorkerTarget
from parley_operator.workers.link import LinkSet

API = "parley.dev/v1alpha1"
PROVIDER = {"type": "custom", "url": "ws://127.0.0.1:8765/v1/realtime", "model": "m"}
pytestmark = pytest.mark.timeout(120)


def session(name: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    wanted = {"agent": {"provider": PROVIDER}, "limits": {"queueTimeout": "60s"}, **spec}
    return {"apiVersion": API, "kind": "VoiceSession", "metadata": metadata, "spec": wanted}


async def until(check: Callable[[], Any], timeout: float = 40.0) -> Any:
    async with asyncio.timeout(timeout):
        while not (found := check()):  # noqa: ASYNC110 - any state may be waited for
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def plane_of(
    *workers: ControlWorker, rules: dict[str, Any] | None = None, **facts: Any
) -> AsyncIterator[EmbeddedControlPlane]:
    for worker in workers:
        await worker.start()
    targets = [
        WorkerTarget(worker.name, f"127.0.0.1:{worker.port}", **facts.get(worker.name, {}))
        for worker in workers
    ]
    try:
        async with EmbeddedControlPlane(workers=targets, rules=rules) as plane:
            yield plane
    finally:
        for worker in workers:
            await worker.stop()


def status(plane: EmbeddedControlPlane, name: str, namespace: str = "default") -> dict[str, Any]:
    body: Any = plane.get("VoiceSession", name, namespace)
    return dict(body.get("status", {}))


async def test_an_admit_without_a_connection_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    links = LinkSet(epoch=1, clock=SystemClock())
    links.set_target(WorkerTarget("w", address))
    target = ProviderTarget("ws://x.example", "ga", "m", SecretText(""))
    request = AdmitRequest(
        "ns", "call", "uid", 1, "i", target, "{}", False, LimitsSpec(), b"", False, ""
    )  # fmt: skip
    try:
        outcome = await links.admit("w", request)
    finally:
        await links.close()
    assert outcome.verdict is AdmitVerdict.UNREACHABLE


async def test_everybody_gets_a_place_in_the_end_whatever_workers_do() -> None:
    """Forty sessions at once for twelve places; answers get lost, workers refuse, one crashes."""
    chance = random.Random(7)
    workers = [ControlWorker(name=f"w{number}", capacity=4) for number in range(3)]
    async with plane_of(*workers) as plane:
        await until(lambda: plane._links and all(view.answers for view in plane._links.views()))
        workers[0].swallow_answers = 3
        workers[1].lose_requests = 3
        workers[2].refuse_with = pb.REFUSAL_REASON_OVERLOADED
        names = [f"s{number:02}" for number in range(40)]
        await plane.apply([session(name) for name in names])
        asyncio.get_running_loop().call_later(1.5, setattr, workers[2], "refuse_with", 0)
        over: set[str] = set()
        while len(over) < len(names):
            await asyncio.sleep(0.05)
            for name in names:
                if status(plane, name).get("endReason"):
                    over.add(name)
            live = [(worker, uid) for worker in workers for uid in worker.sessions]
            ready = [
                (worker, uid) for worker, uid in live
                if worker.sessions[uid].state == pb.SESSION_STATE_READY
            ]  # fmt: skip
            for worker, uid in chance.sample(ready, min(len(ready), 3)):
                worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
        ends = Counter(status(plane, name)["endReason"] for name in names)
        assert ends == {"CallerHangup": 40}
        assert all(worker.peak <= worker.capacity for worker in workers)
        # Each ran once, on one worker.
        ran = Counter(uid for worker in workers for uid in worker.sessions)
        assert len(ran) == 40
        assert set(ran.values()) == {1}
        assert plane.metrics.render().count(b"parley_operator_reservations 0.0") == 1


async def test_a_crash_after_the_question_moves_the_session_on() -> None:
    first, second = ControlWorker(name="a", capacity=5), ControlWorker(name="b", capacity=5)
    async with plane_of(first, second) as plane:
        await until(lambda: plane._links and all(view.answers for view in plane._links.views()))
        first.lose_requests = 1_000
        await plane.apply([session("call")])
        await until(lambda: first.lose_requests < 999)
        # What came of the question is not known: nobody else is asked.
        assert second.admits == []
        first.state = pb.WORKER_STATE_DRAINING
        await first.crash()
        body: Any = await plane.wait_phase("call", {"Ready"}, timeout=30)
        assert (body["status"]["worker"]["name"], body["status"]["attempt"]) == ("b", 2)
        [placed] = [c for c in body["status"]["conditions"] if c["type"] == "Placed"]
        assert placed["message"] == "on worker b; refused once: a said Gone"


async def test_the_queue_is_shown_and_shared_between_namespaces() -> None:
    worker = ControlWorker(name="w", capacity=1)
    async with plane_of(worker) as plane:
        await plane.apply([session("first")])
        await plane.wait_phase("first", {"Ready"}, timeout=30)
        await plane.apply([session(f"greedy-{number}", "greedy") for number in range(4)])
        await plane.apply([session("modest", "modest")])
        await until(lambda: status(plane, "modest", "modest").get("queue"))
        queue = status(plane, "modest", "modest")["queue"]
        assert (queue["position"], queue["reason"]) == (2, "Full")
        order: list[str] = []
        for _ in range(3):
            [live] = worker.live
            order.append(live.session.name)
            count = len(worker.sessions)
            worker.report(live.session.session_uid, pb.SESSION_STATE_ENDED, "CallerHangup")
            await until(lambda count=count: len(worker.sessions) > count and worker.live)
        assert order[1].startswith("greedy")
        assert order[2] == "modest"
        assert status(plane, "modest", "modest").get("queue") is None


async def test_cordoned_workers_take_nobody_and_labels_choose() -> None:
    plain, gold, leaving = (ControlWorker(name=name) for name in ("plain", "gold", "leaving"))
    facts: dict[str, Any] = {
        "gold": {"labels": {"tier": "gold"}, "zone": "z1"},
        "leaving": {"labels": {"tier": "gold"}, "draining": True},
    }
    async with plane_of(plain, gold, leaving, **facts) as plane:
        wanted = [
            session("by-label", selectors=[{"matchLabels": {"tier": "gold"}}]),
            session("by-zone", selectors=[{"zone": "z2"}, {"zone": "z1"}]),
            session("pinned", selectors=[{"zone": "z9"}], limits={"queueTimeout": "1500ms"}),
        ]
        await plane.apply(wanted)
        for name in ("by-label", "by-zone"):
            body: Any = await plane.wait_phase(name, {"Ready"}, timeout=30)
            assert body["status"]["worker"]["name"] == "gold"
        ended: Any = await plane.wait_phase("pinned", {"Failed"}, timeout=30)
        assert ended["status"]["endReason"] == "NoCapacity"
        assert "spec.selectors" in ended["status"]["endMessage"]


async def test_a_quota_of_a_pool() -> None:
    worker = ControlWorker(name="w", capacity=10)
    quotas = [
        {"namespace": "*", "maxSessions": 1},
        {"namespace": "trials", "maxSessions": 0, "whenExceeded": "Refuse"},
    ]
    async with plane_of(worker, rules={"quotas": quotas}) as plane:
        await plane.apply(
            [session("one"), session("two"), session("other", "other"), session("try", "trials")]
        )
        refused: Any = await plane.wait_phase("try", {"Failed"}, namespace="trials", timeout=30)
        assert refused["status"]["endReason"] == "QuotaExceeded"
        await plane.wait_phase("other", {"Ready"}, namespace="other", timeout=30)
        ready = await until(lambda: [n for n in ("one", "two") if status(plane, n).get("phase") == "Ready"])
        [waiting] = {"one", "two"} - set(ready)
        await until(lambda: status(plane, waiting).get("queue"))
        assert status(plane, waiting)["queue"]["reason"] == "OverQuota"
        [uid] = [uid for uid, report in worker.sessions.items() if report.session.name == ready[0]]
        worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
        await plane.wait_phase(waiting, {"Ready"}, timeout=30)
