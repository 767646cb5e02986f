"""Whatever comes in whatever order: one attempt counts, never an older one, and none is lost in silence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    MigrateOutcome,
    SessionState,
    WorkerState,
)
from parley_operator.handlers.queue import MIGRATE, Key
from reconcile_plane import HOSTS, POOL, Plane

WORKERS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["kill", "silence", "heal", "shard", "active", "drain", "restart", "look", "late", "move", "end"]
        ),
        st.sampled_from(WORKERS),
        st.sampled_from([AdmitVerdict.ADMITTED, AdmitVerdict.UNKNOWN, AdmitVerdict.FULL]),
        st.sampled_from([True, False, None]),
    ),
    max_size=14,
)


class World:
    """One session and three workers that come, go and remember; `step` lets one thing happen."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.instances = dict.fromkeys(WORKERS, 1)
        self.verdict = AdmitVerdict.ADMITTED
        self.moved: bool | None = True
        self.highest = 0
        plane.links.answer = self.admit
        plane.links.moved = self.leave  # type: ignore[method-assign]
        plane.links.terminate = self.terminate  # type: ignore[method-assign]
        plane.links.hand_over = lambda worker: MigrateOutcome(True, ready=True, hand_over="{}")
        for name in WORKERS:
            plane.links.add(name)

    def admit(self, worker: str, request: AdmitRequest) -> AdmitOutcome:
        view = self.plane.links.workers[worker]
        if request.instance_id != view.instance_id or not view.connected:
            return AdmitOutcome(AdmitVerdict.UNKNOWN)
        known = view.sessions.get(request.uid)
        if known is not None and known.attempt > request.attempt:
            return AdmitOutcome(AdmitVerdict.STALE_ATTEMPT)
        if self.verdict is AdmitVerdict.FULL:
            return AdmitOutcome(AdmitVerdict.FULL)
        if known is None or known.attempt < request.attempt:
            state = SessionState.READY
            self.plane.links.report(worker, request, state, endpoint=f"{worker}:1", migratable=True)
        return AdmitOutcome(self.verdict, endpoint=f"{worker}:1")

    async def leave(self, worker: str, uid: str, attempt: int, place: Any) -> bool | None:
        assert place.attempt > attempt
        view = self.plane.links.view(worker)
        found = view.sessions.get(uid) if view else None
        if self.moved and found is not None and found.live and found.attempt == attempt:
            self.change(worker, uid, state=SessionState.ENDED)
            return True
        return self.moved and False

    async def terminate(self, worker: str, uid: str, attempt: int, reason: str, message: str) -> bool | None:
        view = self.plane.links.view(worker)
        if view is None or not view.connected:
            return None
        found = view.sessions.get(uid)
        if found is None or not found.live or found.attempt != attempt:
            return False
        self.change(worker, uid, state=SessionState.ENDED, end_reason=reason)
        return True

    def change(self, worker: str, uid: str, **facts: Any) -> None:
        view = self.plane.links.workers[worker]
        report = replace(view.sessions[uid], **facts)
        self.plane.links.workers[worker] = replace(view, sessions={**view.sessions, uid: report})
        self.plane.reconciler.worker_changed(worker, report)

    async def step(self, what: str, worker: str, verdict: AdmitVerdict, moved: bool | None) -> None:
        plane, self.verdict, self.moved = self.plane, verdict, moved
        view = plane.links.workers.get(worker)
        live = [uid for uid, report in view.sessions.items() if report.live] if view else []
        if what == "kill":
            self.instances[worker] += 1
            plane.links.add(worker, instance_id=f"{worker}-{self.instances[worker]}")
        elif what == "silence" and view:
            plane.links.workers[worker] = replace(view, connected=False, silent_for=61.0)
        elif what == "heal" and view:
            plane.links.workers[worker] = replace(view, connected=True, silent_for=0.0)
        elif what == "drain" and view:
            plane.links.workers[worker] = replace(view, state=WorkerState.DRAINING)
        elif what == "restart":
            await plane.restart()
        elif what == "late":
            plane.clock.at += 12.0
        elif what == "move":
            await plane.reconciler.sessions.migrator.migrate(Key(MIGRATE, "default", "call"))
        elif what in ("shard", "active", "end") and live:
            facts = {
                "shard": {"state": SessionState.ENDED, "end_reason": "ShardLost"},
                "active": {"state": SessionState.ACTIVE},
                "end": {"state": SessionState.ENDED, "end_reason": "CallerHangup"},
            }[what]
            self.change(worker, live[0], **facts)
        await plane.look()
        self.check()

    def check(self) -> None:
        status = self.plane.status()
        attempt = status.get("attempt", 0)
        assert attempt >= self.highest, "an older attempt counts again"
        self.highest = attempt
        assert "endReason" not in status or status["phase"] in ("Completed", "Failed", "Cancelled")

    async def settle(self) -> None:
        """All is well again, and stays so for long enough."""
        plane, self.verdict, self.moved = self.plane, AdmitVerdict.ADMITTED, True
        for name, view in list(plane.links.workers.items()):
            plane.links.workers[name] = replace(
                view, connected=True, silent_for=0.0, state=WorkerState.READY, capacity=4
            )
        for _ in range(16):
            plane.clock.at += 1.0
            await plane.look()
            self.check()

    def verdict_at_last(self) -> None:
        status = self.plane.status()
        live = [
            (view.name, report.attempt)
            for view in self.plane.links.views()
            for report in view.sessions.values()
            if report.live
        ]
        if "endReason" in status:
            assert live == [], "over, and goes on somewhere"
            return
        assert len(live) == 1, (live, status)
        assert (status["worker"]["name"], status["attempt"]) == live[0]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_one_attempt_counts_whatever_happens(steps: list[tuple[str, str, AdmitVerdict, bool | None]]) -> None:
    async def play() -> None:
        plane = Plane()
        await plane.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
        world = World(plane)
        limits = {"queueTimeout": "120s", "reattachTimeout": "120s"}
        await plane.session(recovery={"policy": "Resume"}, limits=limits)
        await plane.look()
        await plane.look()
        for step in steps:
            await world.step(*step)
        await world.settle()
        world.verdict_at_last()

    asyncio.run(play())
