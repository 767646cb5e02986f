"""The desk in a world of workers that refuse, fall silent, restart and go, and of operators that restart.

Whatever the order: no worker is given more than it has room for, no session is lost, nobody waits who could
be placed, no namespace gets more than its quota.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from parley_operator.api.placement import PlacementSpec, QuotaSpec
from parley_operator.domain.model import SessionReport, SessionState, WorkerState, WorkerView
from parley_operator.domain.placement.demand import Choice, Choices, Need, PoolRules, Request
from parley_operator.domain.placement.desk import Desk, WaitReason

A, B = ("ns", "a"), ("ns", "b")
ZONES = ("z1", "z2")
CHOICES: tuple[Choices, ...] = (
    (Choice(A),),
    (Choice(B),),
    (Choice(A), Choice(B)),
    (Choice(A, Need(zone="z1")), Choice(A)),
    (Choice(A, Need((("gpu", "true"),))),),
    (Choice(B, Need((("gpu", "true"),), "z2")), Choice(A, Need(zone="z2"))),
)
NAMESPACES = ("n1", "n2", "n3")
QUOTAS = {
    "n1": QuotaSpec("n1", most=1, weight=3),
    "n2": QuotaSpec("n2", most=2, refuse=True),
    "*": QuotaSpec("*", most=None),
}


@dataclass
class Worker:
    """A worker as it is; `told` is what the operator last heard."""

    name: str
    pool: tuple[str, str]
    capacity: int
    zone: str
    gpu: bool
    instance: int = 1
    connected: bool = True
    draining: bool = False
    running: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def view(self) -> WorkerView:
        sessions = {
            uid: SessionReport(uid, 1, namespace, uid, SessionState.ACTIVE)
            for uid, namespace in self.told.items()
        }
        return WorkerView(
            self.name,
            *self.pool,
            instance_id=str(self.instance),
            state=WorkerState.READY,
            capacity=self.capacity,
            sessions=sessions,
            connected=self.connected,
            zone=self.zone,
            labels={"gpu": "true"} if self.gpu else {},
            draining=self.draining,
        )


@dataclass
class Session:
    request: Request
    state: str = "waits"
    worker: str = ""
    instance: int = 0


class DeskMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.workers: dict[str, Worker] = {}
        self.sessions: dict[str, Session] = {}
        self.count = 0
        self.desk = self.new_desk()

    def new_desk(self) -> Desk:
        desk = Desk()
        desk.set_rules(A, PoolRules(PlacementSpec("Packed", ("z2",)), QUOTAS))
        desk.set_rules(B, PoolRules(PlacementSpec("Spread")))
        return desk

    def of(self, *states: str) -> list[str]:
        return sorted(uid for uid, session in self.sessions.items() if session.state in states)

    # -- workers

    @rule(
        pool=st.sampled_from([A, B]),
        capacity=st.integers(0, 3),
        zone=st.sampled_from(ZONES),
        gpu=st.booleans(),
    )
    def add(self, pool: tuple[str, str], capacity: int, zone: str, gpu: bool) -> None:
        if len(self.workers) < 5:
            self.count += 1
            worker = Worker(f"w{self.count}", pool, capacity, zone, gpu)
            self.workers[worker.name] = worker
            self.desk.see(worker.view(), worker.name)

    @precondition(lambda self: self.workers)
    @rule(
        number=st.integers(0, 9),
        what=st.sampled_from(["silence", "drain", "restart", "remove", "tell", "link"]),
    )
    def change(self, number: int, what: str) -> None:
        name = sorted(self.workers)[number % len(self.workers)]
        worker = self.workers[name]
        if what == "silence":
            worker.connected = not worker.connected
            if worker.connected:
                worker.told = dict(worker.running)
        elif what == "drain":
            worker.draining = not worker.draining
        elif what == "restart":
            worker.instance += 1
            self.lose(name, also_asked=False)
            worker.running, worker.told = {}, {}
        elif what == "remove":
            del self.workers[name]
            self.desk.ledger.forget_worker(name)
            self.lose(name, also_asked=True)
            return
        elif what == "tell" and worker.connected:
            self.tell(worker)
        elif what == "link":
            self.desk.see(None, name)
        self.desk.see(worker.view(), name)

    def lose(self, worker: str, *, also_asked: bool) -> None:
        """What ran there is over; who was asked there waits again, at once or when it is asked about."""
        for session in self.sessions.values():
            if session.worker == worker and session.state in ("placed", "ended"):
                session.state = "over"
                self.desk.forget(session.request.uid)
            elif session.worker == worker and session.state == "asked" and also_asked:
                session.state, session.worker = "idle", ""
                self.desk.ledger.release(session.request.uid)

    def tell(self, worker: Worker) -> None:
        """One report after the other, as a stream brings them."""
        for uid in sorted(worker.told.keys() - worker.running.keys()):
            self.desk.ledger.hear(worker.name, self.report(uid, SessionState.ENDED))
            self.sessions[uid].state = "over"
            self.desk.forget(uid)
        for uid in sorted(worker.running.keys() - worker.told.keys()):
            self.desk.ledger.hear(worker.name, self.report(uid, SessionState.ACTIVE))
            self.desk.ledger.release(uid)
        worker.told = dict(worker.running)

    def report(self, uid: str, state: SessionState) -> SessionReport:
        return SessionReport(uid, 1, self.sessions[uid].request.namespace, uid, state)

    # -- sessions

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        choices=st.sampled_from(CHOICES),
        created=st.integers(0, 5),
        urgent=st.booleans(),
    )
    def ask_for_a_place(self, namespace: str, choices: Choices, created: int, urgent: bool) -> None:
        self.count += 1
        uid = f"s{self.count}"
        request = Request(uid, namespace, uid, created, choices, urgent and self.count % 4 == 0)
        self.sessions[uid] = Session(request)
        self.desk.want(request)

    @rule(places=st.integers(1, 30))
    def serve(self, places: int) -> None:
        for request in self.desk.serve(self.now):
            session = self.sessions[request.uid]
            assert session.state == "waits"
            grant = self.desk.grant(request.uid)
            assert grant is not None
            session.state, session.worker, session.instance = "granted", grant.worker, int(grant.instance_id)
        self.nobody_waits_in_vain()
        for uid in self.of("granted")[:places]:
            self.ask(self.sessions[uid])

    def ask(self, session: Session) -> None:
        uid = session.request.uid
        grant = self.desk.grant(uid)
        if grant is None:
            session.state, session.worker = "idle", ""
            return
        session.worker, session.instance = grant.worker, int(grant.instance_id)
        self.desk.take(uid)
        session.state = "asked"

    @rule(number=st.integers(0, 99), answer=st.sampled_from(["yes", "yes", "full"]))
    def answer(self, number: int, answer: str) -> None:
        asked = self.of("asked")
        if not asked:
            return
        session = self.sessions[asked[number % len(asked)]]
        uid, worker = session.request.uid, self.workers[session.worker]
        if not worker.connected:
            return
        if worker.instance != session.instance:
            self.desk.ledger.release(uid)
            session.state, session.worker = "idle", ""
        elif answer == "yes":
            session.state = "placed"
            worker.running[uid] = session.request.namespace
        else:
            self.desk.refused(uid, worker.name, str(worker.instance), self.now, 1.0)
            session.state, session.worker = "idle", ""

    @rule()
    def look_at_the_idle(self) -> None:
        """They are looked at again at once."""
        for uid in self.of("idle"):
            self.sessions[uid].state = "waits"
            self.desk.want(self.sessions[uid].request)

    @rule(number=st.integers(0, 99))
    def end(self, number: int) -> None:
        placed = self.of("placed")
        if placed:
            session = self.sessions[placed[number % len(placed)]]
            session.state = "ended"
            self.workers[session.worker].running.pop(session.request.uid)

    @rule(number=st.integers(0, 99))
    def delete(self, number: int) -> None:
        waiting = self.of("waits", "granted", "idle")
        if waiting:
            uid = waiting[number % len(waiting)]
            self.desk.forget(uid)
            self.sessions[uid].state = "over"

    @rule(seconds=st.floats(0.1, 12.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart_the_operator(self) -> None:
        """A new process: snapshots of those who answer, promises of those who were asked, then the rest."""
        self.desk = self.new_desk()
        for worker in self.workers.values():
            if worker.connected:
                worker.told = dict(worker.running)
            self.desk.see(worker.view(), worker.name)
        for uid, session in self.sessions.items():
            if session.state == "ended" and uid not in self.workers[session.worker].told:
                session.state = "over"
            elif session.state in ("asked", "placed"):
                # Also those whose worker has them but did not say so: their note is found.
                if session.state == "asked" or uid not in self.workers[session.worker].told:
                    self.desk.ledger.restore(
                        uid, session.worker, str(session.instance), session.request.namespace
                    )
            elif session.state in ("granted", "idle", "waits"):
                session.state, session.worker = "waits", ""
                self.desk.want(session.request)

    # -- what must hold

    @invariant()
    def nobody_is_over_admitted(self) -> None:
        for worker in self.workers.values():
            asked = {
                uid
                for uid, session in self.sessions.items()
                if session.worker == worker.name
                and session.instance == worker.instance
                and session.state in ("granted", "asked")
            }
            assert len(worker.running.keys() | asked) <= worker.capacity

    @invariant()
    def no_session_is_lost(self) -> None:
        for uid, session in self.sessions.items():
            standing, grant = self.desk.standing(uid, self.now), self.desk._grants.get(uid)
            assert (standing is not None) == (session.state == "waits")
            assert (grant is not None) == (session.state == "granted")
            if standing is not None:
                assert 1 <= standing.position <= standing.length <= standing.waiting
        assert len(self.desk) == len(self.of("waits"))

    @invariant()
    def what_is_counted_is_there(self) -> None:
        ledger = self.desk.ledger
        for worker in self.workers.values():
            row = ledger.row(worker.name)
            assert row is not None
            assert row.counted.keys() == row.live | row.promised
            assert row.live == worker.told.keys()
        for pool in (A, B):
            rows = list(ledger.rows(pool))
            for namespace in NAMESPACES:
                used = sum(list(row.counted.values()).count(namespace) for row in rows)
                assert ledger.used_by(pool, namespace) == used

    def nobody_waits_in_vain(self) -> None:
        for uid in self.of("waits"):
            request = self.sessions[uid].request
            for choice in request.choices:
                quota = self.desk.rules(choice.pool).quota(request.namespace).most
                used = self.desk.ledger.used_by(choice.pool, request.namespace)
                if quota is not None and used >= quota and not request.urgent:
                    continue
                fitting = [
                    row
                    for row in self.desk.ledger.roomy(choice.pool, self.now)
                    if choice.need.met_by(row.labels, row.zone)
                ]
                assert fitting == [], f"{uid} waits though {fitting[0].worker} has room"

    @invariant()
    def quotas_hold(self) -> None:
        for namespace, most in (("n1", 1), ("n2", 2)):
            mine = [
                session
                for session in self.sessions.values()
                if session.request.namespace == namespace
                and not session.request.urgent
                and session.state in ("granted", "asked", "placed", "ended")
                and session.worker in self.workers
                and self.workers[session.worker].pool == A
                and session.instance == self.workers[session.worker].instance
            ]
            assert len(mine) <= most

    @invariant()
    def the_reason_is_true(self) -> None:
        for uid in self.of("waits"):
            standing = self.desk.standing(uid, self.now)
            assert standing is not None
            if standing.refused:
                assert self.sessions[uid].request.namespace == "n2"
                assert standing.reason is WaitReason.OVER_QUOTA


# Each seed is a search of its own; more of them with PARLEY_SEEDS.
@pytest.mark.parametrize("number", range(int(os.environ.get("PARLEY_SEEDS", "4"))))
def test_no_session_is_lost_and_no_worker_overfilled(number: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(number)(DeskMachine),
        settings=settings(
            max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
