"""Sessions that leave a draining worker alive: step by step, and whatever goes wrong in between."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    MigrateOutcome,
    RestoreMode,
    SessionState,
    WorkerState,
)
from parley_operator.handlers.queue import MIGRATE, Key
from reconcile_plane import HOSTS, POOL, SECRET, Plane

MOVE = Key(MIGRATE, "default", "call")
GIVEN = MigrateOutcome(True, ready=True, hand_over='{"said": "yes"}', journal_stream="J", journal_first=2,
                       journal_last=7)  # fmt: skip


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
    return made


async def talk(plane: Plane, worker: str = "old", policy: str = "Resume") -> AdmitRequest:
    """A session that is active on a worker which begins to drain, while another one has room."""
    plane.links.add(worker)
    await plane.session(recovery={"policy": policy})
    await plane.look()
    request = plane.links.admits[-1][1]
    plane.links.report(worker, request, SessionState.ACTIVE, endpoint=f"{worker}:1", migratable=True)
    await plane.look()
    deadline = plane.clock.at + 300
    view = plane.links.workers[worker]
    plane.links.workers[worker] = replace(view, state=WorkerState.DRAINING, drain_deadline=deadline)
    plane.links.add("new", tls_server_name="new.example", media_endpoint="new:1")
    plane.links.hand_over = lambda worker: GIVEN
    return request


def becomes(plane: Plane, state: SessionState, **facts: Any) -> Callable[[str, AdmitRequest], AdmitOutcome]:
    """A worker that takes a session and reports it so at once."""

    def admit(worker: str, request: AdmitRequest) -> AdmitOutcome:
        plane.links.report(worker, request, state, endpoint=f"{worker}:1", migratable=True, **facts)
        return AdmitOutcome(AdmitVerdict.ADMITTED, endpoint=f"{worker}:1")

    return admit


async def move(plane: Plane) -> float | None:
    """As the queue would: the session is looked at, then moved, then looked at again."""
    await plane.look()
    again = await plane.reconciler.sessions.migrator.migrate(MOVE)
    await plane.look()
    return again


def secret_endpoint(plane: Plane) -> str:
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    return base64.b64decode(body["data"]["endpoint"]).decode()


def stays(plane: Plane) -> bool:
    status = plane.status()
    return (status["worker"]["name"], status["attempt"], status["phase"]) == ("old", 1, "Active")


async def test_a_session_moves_unheard(plane: Plane) -> None:
    first = await talk(plane)
    plane.links.answer = becomes(plane, SessionState.READY)
    assert await move(plane) is None
    assert plane.links.migrates == [("old", first.uid, 1)]
    worker, request = plane.links.admits[-1]
    assert (worker, request.attempt, request.ticket_sha256) == ("new", 2, first.ticket_sha256)
    assert request.restore is not None
    assert (request.restore.mode, request.restore.hand_over) == (RestoreMode.RESUME, '{"said": "yes"}')
    assert (request.restore.journal_stream, request.restore.journal_last) == ("J", 7)
    assert "yes" not in repr(request)
    assert plane.links.moves == [("old", 1, "new", 2)]
    assert secret_endpoint(plane) == plane.status()["worker"]["endpoint"] == "new:1"
    assert (plane.status()["attempt"], plane.status()["phase"]) == (2, "Active")
    assert plane.conditions()["Draining"] == ("False", "WorkerStays")
    assert plane.context.ledger.reservations == 0
    assert "recovery" not in plane.status()
    # The old worker's last word ends nothing.
    gone = plane.links.report("old", first, SessionState.ENDED)
    plane.reconciler.worker_changed("old", gone)
    await plane.look()
    assert plane.status()["phase"] == "Active"
    assert plane.links.terminates == []


async def test_a_drain_makes_the_queue_move_sessions(plane: Plane) -> None:
    await talk(plane)
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.reconciler.worker_changed("old", None)
    for _ in range(6):
        key = await asyncio.wait_for(plane.context.queue.get(), 1)
        await plane.reconciler._handle(key)
        plane.context.queue.done(key)
        if plane.links.moves:
            break
    assert plane.links.moves == [("old", 1, "new", 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "Restart"},
        {"policy": "Fail"},
        {"migratable": False},
        {"left": 2.0},
        {"draining": False},
        {"connected": False},
    ],
)
async def test_who_stays(plane: Plane, change: dict[str, Any]) -> None:
    request = await talk(plane, policy=change.get("policy", "Resume"))
    plane.links.answer = becomes(plane, SessionState.READY)
    if "migratable" in change:
        plane.links.report("old", request, SessionState.ACTIVE, migratable=False)
    view = plane.links.workers["old"]
    if "left" in change:
        view = replace(view, drain_deadline=plane.clock.at + change["left"])
    if "draining" in change:
        view = replace(view, state=WorkerState.READY)
    plane.links.workers["old"] = replace(view, connected=change.get("connected", True))
    assert await move(plane) is None
    assert (plane.links.migrates, plane.links.moves) == ([], [])


async def test_without_room_it_stays_and_is_tried_ever_more_slowly(plane: Plane) -> None:
    await talk(plane)
    plane.links.remove("new")
    pauses = []
    for _ in range(6):
        again = await move(plane)
        assert again is not None
        pauses.append(again)
        plane.clock.at += again
    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert plane.links.migrates == []
    assert stays(plane)


@pytest.mark.parametrize(
    "given",
    [MigrateOutcome(None), MigrateOutcome(False), MigrateOutcome(True, message="no quiet moment")],
)
async def test_a_worker_that_does_not_hand_over(plane: Plane, given: MigrateOutcome) -> None:
    await talk(plane)
    plane.links.hand_over = lambda worker: given
    assert await move(plane) == 1.0
    assert len(plane.links.admits) == 1
    assert stays(plane)
    assert plane.context.ledger.reservations == 0


@pytest.mark.parametrize("verdict", [v for v in AdmitVerdict if v is not AdmitVerdict.ADMITTED])
async def test_a_worker_that_does_not_take_it(plane: Plane, verdict: AdmitVerdict) -> None:
    request = await talk(plane)
    plane.links.answer = lambda worker, request: AdmitOutcome(verdict)
    assert await move(plane) == 1.0
    assert plane.links.moves == []
    # One that did not answer may have it.
    assert plane.links.terminates == ([("new", request.uid)] if verdict is AdmitVerdict.UNKNOWN else [])
    assert stays(plane)


async def test_a_place_that_is_not_ready_in_time_is_given_up(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await talk(plane)
    plane.links.answer = becomes(plane, SessionState.CONNECTING)

    async def passes(seconds: float) -> None:
        plane.clock.at += seconds

    monkeypatch.setattr("parley_operator.handlers.migration.asyncio.sleep", passes)
    assert await move(plane) == 1.0
    assert (plane.links.moves, set(plane.links.terminates)) == ([], {("new", request.uid)})
    assert stays(plane)
    # Its end is no end of the session, and the next attempt has another number.
    ended = plane.links.report("new", plane.links.admits[-1][1], SessionState.ENDED, end_reason="WorkerLost")
    plane.reconciler.worker_changed("new", ended)
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.clock.at += 2.0
    assert await move(plane) is None
    assert plane.links.moves == [("old", 1, "new", 3)]
    assert plane.status()["attempt"] == 3


async def test_a_new_place_that_ends_at_once_changes_nothing(plane: Plane) -> None:
    await talk(plane)
    plane.links.answer = becomes(plane, SessionState.ENDED, end_reason="ProviderUnavailable")
    assert await move(plane) == 1.0
    assert stays(plane)


async def test_an_old_worker_that_went_on_keeps_the_session(plane: Plane) -> None:
    request = await talk(plane)
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.links.moved_answer = False
    assert await move(plane) == 1.0
    assert ("new", request.uid) in plane.links.terminates
    assert stays(plane)


async def test_a_session_that_ends_while_it_moves(plane: Plane) -> None:
    first = await talk(plane)

    def hang_up(worker: str) -> MigrateOutcome:
        ended = plane.links.report("old", first, SessionState.ENDED, end_reason="CallerHangup")
        plane.reconciler.worker_changed("old", ended)
        return GIVEN

    plane.links.hand_over = hang_up
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.links.moved_answer = False
    await move(plane)
    assert plane.status()["endReason"] == "CallerHangup"
    assert ("new", first.uid) in plane.links.terminates


async def test_a_session_that_is_deleted_while_it_moves(plane: Plane) -> None:
    first = await talk(plane)
    body = plane.store.peek("VoiceSession", "default", "call")

    def admit(worker: str, request: AdmitRequest) -> AdmitOutcome:
        plane.reconciler.observe("VoiceSession", body, deleted=True)
        return becomes(plane, SessionState.READY)(worker, request)

    plane.links.answer = admit
    await plane.look()
    assert await plane.reconciler.sessions.migrator.migrate(MOVE) == 1.0
    assert plane.links.moves == []
    assert ("new", first.uid) in plane.links.terminates


@pytest.mark.parametrize("heard", [True, False])
async def test_an_answer_that_is_lost_is_found_out(plane: Plane, heard: bool) -> None:
    first = await talk(plane)
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.links.moved_answer = None
    await plane.look()
    assert await plane.reconciler.sessions.migrator.migrate(MOVE) is None
    assert len(plane.links.moves) == 3
    if heard:
        plane.links.report("old", first, SessionState.ENDED)
    await plane.look()
    if heard:
        assert (plane.status()["worker"]["name"], plane.status()["attempt"]) == ("new", 2)
        assert plane.links.terminates == []
    else:
        assert stays(plane)
        assert plane.links.terminates == [("new", first.uid)]


@pytest.mark.parametrize("fate", ["lives", "departed", "gone", "silent"])
async def test_an_operator_that_dies_while_a_session_moves(plane: Plane, fate: str) -> None:
    first = await talk(plane)
    twin = replace(first, attempt=2)
    plane.links.report("new", twin, SessionState.READY, endpoint="new:1", migratable=True)
    view = plane.links.workers["old"]
    if fate == "departed":
        plane.links.report("old", first, SessionState.ENDED)
    elif fate == "gone":
        plane.links.remove("old")
    elif fate == "silent":
        plane.links.workers["old"] = replace(view, connected=False, silent_for=5.0)
    await plane.restart()
    await plane.look()
    if fate in ("departed", "gone"):
        assert (plane.status()["worker"]["name"], plane.status()["attempt"]) == ("new", 2)
        assert (plane.links.admits[1:], plane.links.terminates) == ([], [])
    elif fate == "lives":
        assert stays(plane)
        assert plane.links.terminates == [("new", first.uid)]
    else:
        # Nobody knows yet: both are left alone.
        assert plane.links.terminates == []
        assert plane.status()["worker"]["name"] == "old"


async def test_few_at_a_time(plane: Plane) -> None:
    plane.links.add("old", capacity=20)
    plane.links.add("new", capacity=20)
    names = [f"call-{number}" for number in range(6)]
    for name in names:
        await plane.session(name, recovery={"policy": "Resume"})
        await plane.look(name)
        worker, request = plane.links.admits[-1]
        plane.links.report(worker, request, SessionState.ACTIVE, migratable=True)
        await plane.look(name)
    [worker] = {worker for worker, _ in plane.links.admits}
    plane.links.workers[worker] = replace(plane.links.workers[worker], state=WorkerState.DRAINING)
    waiting = asyncio.Event()

    async def slow(worker: str, uid: str, attempt: int, patience: float) -> MigrateOutcome:
        plane.links.migrates.append((worker, uid, attempt))
        await waiting.wait()
        return MigrateOutcome(True, message="no quiet moment came")

    plane.links.migrate = slow  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        moves = [
            group.create_task(plane.reconciler.sessions.migrator.migrate(Key(MIGRATE, "default", name)))
            for name in names
        ]
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(plane.links.migrates) == 4
        assert [task.done() for task in moves].count(True) == 2
        waiting.set()
    assert sorted(task.result() or 0.0 for task in moves) == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


async def test_a_worker_that_dies_while_its_session_moves_leaves_one_attempt(plane: Plane) -> None:
    first = await talk(plane)
    plane.links.add("third")
    asked: list[tuple[str, int]] = []
    admit = plane.links.admit

    async def dies_meanwhile(worker: str, request: AdmitRequest) -> AdmitOutcome:
        asked.append((worker, request.attempt))
        if len(asked) == 1:
            plane.links.remove("old")
            await plane.look()
            await plane.look()
        return await admit(worker, request)

    await plane.look()
    plane.links.answer = becomes(plane, SessionState.READY)
    plane.links.admit = dies_meanwhile  # type: ignore[method-assign]
    plane.links.moved_answer = None
    assert await plane.reconciler.sessions.migrator.migrate(MOVE) == 1.0
    await plane.look()
    # The move's attempt is none that the recovery takes, and it is ended.
    assert [attempt for _, attempt in asked] == [2, 3]
    assert plane.status()["attempt"] == 3
    place = plane.reconciler.sessions.book.get(first.uid)
    assert place is not None
    assert (place.worker, place.attempt) == (plane.status()["worker"]["name"], 3) == (asked[1][0], 3)
    assert ("new", first.uid) in plane.links.terminates
