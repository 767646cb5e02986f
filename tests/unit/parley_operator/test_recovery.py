"""Sessions whose worker is lost: who goes on, who ends, and which attempt counts."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    RestoreMode,
    SessionState,
    WorkerView,
)
from parley_operator.domain.recovery import MOST_RECOVERIES
from parley_operator.handlers.queue import DOOM, Key
from reconcile_plane import HOSTS, POOL, SECRET, SESSION, Links, Plane

RESUME = {"policy": "Resume"}
SECRET_CALL = ("default", "call-ticket")


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
    return made


async def talk(plane: Plane, worker: str = "w", **spec: Any) -> AdmitRequest:
    """A session that is active on a worker."""
    plane.links.add(worker)
    await plane.session(**{"recovery": RESUME, **spec})
    await plane.look()
    request = plane.links.admits[-1][1]
    plane.links.report(
        worker, request, SessionState.ACTIVE, endpoint=f"{worker}:1", journal_stream="J", journal_first=3,
        journal_last=9, start_time=plane.clock.at,
    )  # fmt: skip
    await plane.look()
    assert plane.status()["phase"] == "Active"
    return request


def placed_at(name: str) -> Any:
    return lambda worker, request: AdmitOutcome(AdmitVerdict.ADMITTED, endpoint=f"{name}:1")


def secret_endpoint(plane: Plane) -> str:
    body: Any = plane.store.peek(SECRET, *SECRET_CALL)
    return base64.b64decode(body["data"]["endpoint"]).decode()


async def settle(plane: Plane, looks: int = 4) -> None:
    for _ in range(looks):
        await plane.look()


async def test_a_lost_session_goes_on_elsewhere(plane: Plane) -> None:
    first = await talk(plane)
    started = plane.status()["startTime"]
    plane.links.remove("w")
    plane.links.add("second")
    plane.links.answer = placed_at("second")
    assert await plane.look() == 0.0
    status = plane.status()
    assert (status["phase"], status["attempt"], status.get("worker")) == ("Recovering", 2, None)
    assert plane.conditions()["Ready"] == ("False", "Recovering")
    assert plane.conditions()["Placed"] == ("False", "Recovering")
    assert status["journal"] == {"stream": "J", "first": 3, "last": 9}
    await plane.look()
    worker, request = plane.links.admits[-1]
    assert (worker, request.attempt, request.uid) == ("second", 2, first.uid)
    assert request.restore is not None
    assert (request.restore.mode, request.restore.journal_stream) == (RestoreMode.RESUME, "J")
    assert (request.restore.journal_first, request.restore.journal_last) == (3, 9)
    await plane.look()
    # Where the session is now is told while the new worker still connects, the Secret first.
    assert secret_endpoint(plane) == plane.status()["worker"]["endpoint"] == "second:1"
    assert plane.status()["phase"] == "Recovering"
    plane.links.report("second", request, SessionState.ACTIVE, endpoint="second:1", start_time=plane.clock.at)
    plane.clock.at += 1
    await plane.look()
    assert plane.status()["phase"] == "Active"
    assert plane.status()["startTime"] == started
    assert plane.status()["recovery"]["count"] == 1
    assert plane.conditions()["Ready"] == ("True", "ProviderConnected")


@pytest.mark.parametrize(
    ("policy", "mode"), [("Resume", RestoreMode.RESUME), ("Restart", RestoreMode.RESTART)]
)
async def test_the_policy_says_what_becomes_of_the_conversation(
    plane: Plane, policy: str, mode: RestoreMode
) -> None:
    await talk(plane, recovery={"policy": policy})
    plane.links.remove("w")
    plane.links.add("second")
    await settle(plane)
    restore = plane.links.admits[-1][1].restore
    assert restore is not None
    assert restore.mode is mode
    assert plane.links.admits[0][1].restore is None


@pytest.mark.parametrize("spec", [{"recovery": {}}, {"recovery": {"policy": "Fail"}}])
async def test_without_a_policy_a_lost_session_ends(plane: Plane, spec: Any) -> None:
    await talk(plane, **spec)
    plane.links.remove("w")
    plane.links.add("second")
    await settle(plane)
    assert plane.status()["endReason"] == "WorkerLost"
    assert len(plane.links.admits) == 1


async def test_a_lost_shard_is_left_at_once_and_its_end_ends_nothing(plane: Plane) -> None:
    request = await talk(plane)
    ended = plane.links.report(
        "w", request, SessionState.ENDED, end_reason="ShardLost", end_message="shard 1 died"
    )
    plane.reconciler.worker_changed("w", ended)
    await settle(plane)
    assert [(worker, r.attempt) for worker, r in plane.links.admits] == [("w", 1), ("w", 2)]
    assert plane.status()["recovery"]["reason"] == "ShardLost"
    assert "endReason" not in plane.status()


async def test_without_a_policy_a_lost_shard_ends_its_sessions(plane: Plane) -> None:
    request = await talk(plane, recovery={})
    plane.links.report("w", request, SessionState.ENDED, end_reason="ShardLost", end_message="shard 1 died")
    await plane.look()
    assert (plane.status()["endReason"], plane.status()["endMessage"]) == ("ShardLost", "shard 1 died")


def silent(plane: Plane, worker: str, seconds: float, **facts: Any) -> WorkerView:
    view = replace(plane.links.workers[worker], connected=False, silent_for=seconds, **facts)
    plane.links.workers[worker] = view
    return view


@pytest.mark.parametrize(
    ("facts", "lost"),
    [
        ({"silent_for": 1.0, "dead": True}, True),
        ({"silent_for": 59.0}, False),
        ({"silent_for": 61.0}, True),
        # Cut off from the operator, while the kubelet says that it runs: callers go on.
        ({"silent_for": 61.0, "vouched": True}, False),
        ({"silent_for": 599.0, "vouched": True}, False),
        ({"silent_for": 601.0, "vouched": True}, True),
        # The node is not ready and nobody hears the worker.
        ({"silent_for": 2.0, "unreachable": True}, False),
        ({"silent_for": 6.0, "unreachable": True}, True),
        # Whoever is heard lives, whatever is said of pod and node.
        ({"connected": True, "unreachable": True, "dead": True}, False),
        ({"connected": True, "instance_id": "w-2"}, True),
    ],
)
async def test_when_a_worker_counts_as_lost(plane: Plane, facts: dict[str, Any], lost: bool) -> None:
    await talk(plane)
    plane.links.workers["w"] = replace(plane.links.workers["w"], **{"connected": False, **facts})
    await plane.look()
    assert (plane.status()["phase"] == "Recovering") == lost


async def test_an_old_worker_that_comes_back_is_ended_and_ends_nothing_else(plane: Plane) -> None:
    first = await talk(plane)
    silent(plane, "w", 61.0)
    plane.links.add("second")
    plane.links.answer = placed_at("second")
    await settle(plane)
    request = plane.links.admits[-1][1]
    plane.links.report("second", request, SessionState.ACTIVE, endpoint="second:1")
    await plane.look()
    assert plane.status()["worker"]["name"] == "second"
    assert plane.links.moves == []
    plane.links.workers["w"] = replace(plane.links.workers["w"], connected=True, silent_for=0.0)
    # It is told, and given time to send its caller on; then it is ended, and ends nothing but itself.
    assert await plane.look() == 10.0
    assert plane.links.moves == [("w", 1, "second", 2)]
    plane.clock.at += 9.0
    await plane.look()
    assert plane.links.terminates == []
    plane.clock.at += 1.0
    await plane.look()
    assert (plane.links.moves, plane.links.terminates) == ([("w", 1, "second", 2)], [("w", first.uid)])
    ended = plane.links.report("w", first, SessionState.ENDED, end_reason="CallerHangup")
    plane.reconciler.worker_changed("w", ended)
    await settle(plane)
    assert plane.status()["phase"] == "Active"
    assert "endReason" not in plane.status()
    assert len(plane.links.terminates) == 1


async def test_an_old_worker_is_left_alone_until_there_is_a_new_place(plane: Plane) -> None:
    await talk(plane)
    silent(plane, "w", 61.0)
    await plane.look()
    assert plane.status()["phase"] == "Recovering"
    plane.links.workers["w"] = replace(plane.links.workers["w"], connected=True, capacity=1)
    await settle(plane)
    assert (plane.links.moves, plane.links.terminates) == ([], [])
    assert plane.status()["phase"] == "Recovering"


async def test_no_room_until_the_caller_gives_up(plane: Plane) -> None:
    await talk(plane, limits={"queueTimeout": "5s", "reattachTimeout": "20s"})
    plane.links.remove("w")
    await plane.look()
    plane.clock.at += 3.0
    await plane.look()
    assert plane.status()["queue"]["position"] == 1
    plane.clock.at += 16.0
    await plane.look()
    assert plane.status()["phase"] == "Recovering"
    plane.clock.at += 1.1
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    assert "no worker took the session over" in plane.status()["endMessage"]


async def test_who_lost_a_place_comes_before_all_that_never_had_one(plane: Plane) -> None:
    plane.links.add("w", capacity=1)
    await plane.session("old", recovery=RESUME)
    await plane.look("old")
    plane.links.report("w", plane.links.admits[-1][1], SessionState.ACTIVE)
    await plane.look("old")
    await plane.session("waits", limits={"queueTimeout": "60s"})
    await plane.look("waits")
    plane.links.remove("w")
    await plane.look("old")
    await plane.look("old")
    plane.links.add("second", capacity=1)
    await plane.look("waits")
    await plane.look("old")
    assert [(worker, r.name) for worker, r in plane.links.admits] == [("w", "old"), ("second", "old")]


async def test_what_stands_in_the_way_is_told_until_the_deadline(plane: Plane) -> None:
    await talk(plane)
    plane.links.remove("w")
    await plane.apply(POOL, "default", {"provider": {"allowedHosts": ["elsewhere.example"]}})
    await settle(plane)
    assert plane.conditions()["Placed"] == ("False", "HostNotAllowed")
    assert plane.conditions()["Accepted"] == ("True", "Accepted")
    plane.clock.at += 31.0
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    assert "allowedHosts" in plane.status()["endMessage"]


async def lose(plane: Plane, number: int, after: float) -> str:
    """The session's worker dies `after` seconds after it took the session over; another one stands by."""
    worker, request = plane.links.admits[-1]
    plane.links.report(worker, request, SessionState.ACTIVE)
    await plane.look()
    plane.clock.at += after
    plane.links.remove(worker)
    plane.links.add(f"w{number}")
    await plane.look()
    phase = str(plane.status()["phase"])
    plane.clock.at += 3.0
    await settle(plane)
    return phase


async def test_a_session_that_kills_its_workers_is_ended_and_says_so(plane: Plane) -> None:
    await talk(plane)
    phases = [await lose(plane, number, 1.0) for number in range(3)]
    assert phases == ["Recovering", "Recovering", "Failed"]
    assert plane.status()["endReason"] == "WorkerLost"
    assert "the session may be the cause" in plane.status()["endMessage"]


async def test_a_session_may_lose_only_so_many_workers(plane: Plane) -> None:
    await talk(plane)
    phases = [await lose(plane, number, 100.0) for number in range(MOST_RECOVERIES + 1)]
    assert phases == ["Recovering"] * MOST_RECOVERIES + ["Failed"]
    assert f"at most {MOST_RECOVERIES} times" in plane.status()["endMessage"]


async def test_a_second_soon_death_is_followed_by_a_pause(plane: Plane) -> None:
    await talk(plane)
    await lose(plane, 0, 1.0)
    worker, request = plane.links.admits[-1]
    plane.links.report(worker, request, SessionState.ACTIVE)
    await plane.look()
    plane.links.remove(worker)
    plane.links.add("next")
    await plane.look()
    assert await plane.look() == 2.0
    assert len(plane.links.admits) == 2


@pytest.mark.parametrize("step", ["marked", "asked", "admitted", "bound"])
@pytest.mark.parametrize("ticket", ["Secret", "None"])
async def test_an_operator_that_dies_in_between_is_followed_by_one_that_goes_on(
    plane: Plane, step: str, ticket: str
) -> None:
    await talk(plane, access={"ticket": ticket})
    plane.links.remove("w")
    plane.links.add("second")
    if step == "asked":
        plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.UNKNOWN)
    await plane.look()
    if step != "marked":
        await plane.look()
    if step in ("admitted", "bound"):
        plane.links.report("second", plane.links.admits[-1][1], SessionState.CONNECTING, endpoint="second:1")
    if step == "bound":
        await plane.look()
    plane.clock.at += 3.0
    await plane.restart()
    plane.links.answer = Links().answer
    await settle(plane)
    asked = [(worker, request.attempt) for worker, request in plane.links.admits]
    assert set(asked) == {("w", 1), ("second", 2)}
    assert plane.status()["worker"]["name"] == "second"
    assert plane.status()["attempt"] == 2


async def test_a_leader_of_old_does_not_go_back(plane: Plane) -> None:
    await talk(plane)
    old = plane.reconciler
    plane.links.remove("w")
    plane.links.add("second")
    await plane.restart()
    await settle(plane)
    request = plane.links.admits[-1][1]
    plane.links.report("second", request, SessionState.ACTIVE)
    await plane.look()
    assert (plane.status()["worker"]["name"], plane.status()["attempt"]) == ("second", 2)
    # The first one still believes in attempt 1, until it hears of the status.
    plane.links.add("w")
    plane.reconciler = old
    body: Any = plane.store.peek("VoiceSession", "default", "call")
    old.observe("VoiceSession", body)
    await settle(plane)
    assert (plane.status()["worker"]["name"], plane.status()["attempt"]) == ("second", 2)
    assert len(plane.links.admits) == 2


async def test_a_worker_that_saw_a_later_attempt_is_offered_a_later_one(plane: Plane) -> None:
    await talk(plane)
    plane.links.remove("w")
    plane.links.add("second")

    def stale(worker: str, request: AdmitRequest) -> AdmitOutcome:
        seen = request.attempt < 4
        return AdmitOutcome(
            AdmitVerdict.STALE_ATTEMPT if seen else AdmitVerdict.ADMITTED, endpoint="second:1"
        )

    plane.links.answer = stale
    await settle(plane, 6)
    assert [request.attempt for _, request in plane.links.admits] == [1, 2, 3, 4]
    assert plane.status()["attempt"] == 4


async def test_recovery_degraded_is_said_now_and_then(plane: Plane) -> None:
    request = await talk(plane)
    for late in [True, False] * 5:
        plane.links.report("w", request, SessionState.ACTIVE, recovery_degraded=late)
        plane.clock.at += 1.0
        await plane.look()
    assert plane.conditions()["RecoveryDegraded"] == ("True", "JournalLate")
    writes = len(plane.store.status_writes)
    plane.clock.at += 10.0
    await plane.look()
    assert plane.conditions()["RecoveryDegraded"] == ("False", "JournalCurrent")
    assert len(plane.store.status_writes) == writes + 1


async def test_sessions_of_a_draining_worker_say_so(plane: Plane) -> None:
    await talk(plane)
    plane.links.workers["w"] = replace(
        plane.links.workers["w"], draining=True, drain_deadline=plane.clock.at + 60
    )
    await plane.look()
    assert plane.conditions()["Draining"] == ("True", "WorkerDrains")
    [words] = [c["message"] for c in plane.status()["conditions"] if c["type"] == "Draining"]
    assert "2027-01-15T08:01:00Z" in words


@pytest.mark.parametrize("leap", [3600.0, -3600.0])
async def test_a_clock_that_leaps_ends_no_recovery(plane: Plane, leap: float) -> None:
    clock, monotonic = plane.clock, plane.clock.at
    clock.monotonic = lambda: monotonic  # type: ignore[method-assign]
    await talk(plane)
    plane.links.remove("w")
    await plane.look()
    await plane.look()
    clock.at += leap
    await plane.look()
    assert plane.status()["phase"] == "Recovering"
    plane.links.add("x")
    await plane.look()
    assert [worker for worker, _ in plane.links.admits][1:] == ["x"]


def last_words(plane: Plane) -> list[tuple[str, int, str]]:
    return [(worker, word.attempt, word.reason) for worker, word in plane.links.last_words]


async def test_the_end_of_a_session_that_found_no_place_is_written_down_by_a_worker(plane: Plane) -> None:
    await talk(plane, limits={"queueTimeout": "5s", "reattachTimeout": "20s"})
    plane.links.remove("w")
    await plane.look()
    assert plane.links.last_words == []
    plane.clock.at += 21.0
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    # Nobody is there to write; whoever comes first is asked, once.
    assert await plane.look() == 2.0
    plane.links.add("full", capacity=0)
    plane.links.takes_last_words = None
    assert await plane.look() == 2.0
    plane.links.takes_last_words = True
    await settle(plane)
    assert last_words(plane) == [("full", 2, "WorkerLost")] * 2
    word = plane.links.last_words[-1][1]
    assert (word.message, word.private) == (plane.status()["endMessage"], False)


async def test_an_operator_that_starts_anew_asks_for_late_ends_only(plane: Plane) -> None:
    await talk(plane, recovery={})
    plane.links.remove("w")
    plane.links.add("second")
    await settle(plane)
    assert last_words(plane) == [("second", 1, "WorkerLost")]
    await plane.restart()
    await settle(plane)
    assert len(plane.links.last_words) == 2
    plane.clock.at += 121.0
    await plane.restart()
    await settle(plane)
    assert len(plane.links.last_words) == 2


async def test_what_its_worker_ended_is_left_to_its_worker(plane: Plane) -> None:
    request = await talk(plane)
    plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup")
    await settle(plane)
    assert plane.status()["endReason"] == "CallerHangup"
    assert plane.links.last_words == []


async def test_the_end_that_its_worker_kept_to_itself_is_written_down(plane: Plane) -> None:
    """It was handed over, and nobody came: the worker alone cannot know that it was the one to tell."""
    request = await talk(plane)
    plane.links.report("w", request, SessionState.ENDED, end_reason="ReattachTimeout", end_untold=True)
    await settle(plane)
    assert plane.status()["endReason"] == "ReattachTimeout"
    assert last_words(plane) == [("w", 1, "ReattachTimeout")]


def delete(plane: Plane) -> Key:
    """Take the object away; under the key that is given the rest is seen to."""
    body: Any = plane.store.peek(SESSION, "default", "call")
    plane.reconciler.observe(SESSION, body, deleted=True)
    return Key(DOOM, "", body["metadata"]["uid"])


async def test_the_end_of_a_session_that_was_deleted_between_two_workers_is_written_too(plane: Plane) -> None:
    await talk(plane)
    plane.links.remove("w")
    await plane.look()
    await plane.look()
    body: Any = plane.store.peek(SESSION, "default", "call")
    assert body["status"]["phase"] == "Recovering"
    doom = delete(plane)
    assert await plane.reconciler._handle(doom) == 2.0
    assert plane.links.last_words == []
    plane.links.add("other", capacity=0)
    assert await plane.reconciler._handle(doom) is None
    assert last_words(plane) == [("other", body["status"]["attempt"], "Terminated")]
    assert await plane.reconciler._handle(doom) is None
    assert len(plane.links.last_words) == 1


@pytest.mark.parametrize("kept_to_itself", [True, False])
async def test_who_was_moved_and_never_visited_is_deleted_with_a_word(
    plane: Plane, kept_to_itself: bool
) -> None:
    request = await talk(plane)
    plane.links.remove("w")
    plane.links.add("x")
    await settle(plane)
    worker, moved = plane.links.admits[-1]
    assert (worker, moved.attempt) == ("x", request.attempt + 1)
    plane.links.report("x", moved, SessionState.READY)
    await settle(plane)
    doom = delete(plane)
    assert await plane.reconciler._handle(doom) == 2.0
    assert (plane.links.terminates[-1][0], plane.links.last_words) == ("x", [])
    plane.links.report("x", moved, SessionState.ENDED, end_reason="Terminated", end_untold=kept_to_itself)
    assert await plane.reconciler._handle(doom) is None
    assert last_words(plane) == ([("x", moved.attempt, "Terminated")] if kept_to_itself else [])
    assert await plane.reconciler._handle(doom) is None
    assert len(plane.links.last_words) == kept_to_itself


async def test_who_was_deleted_before_anybody_missed_its_worker_has_a_word_too(plane: Plane) -> None:
    request = await talk(plane)
    doom = delete(plane)
    plane.links.remove("w")
    assert await plane.reconciler._handle(doom) == 2.0
    plane.links.add("other", capacity=0)
    assert await plane.reconciler._handle(doom) is None
    assert last_words(plane) == [("other", request.attempt, "Terminated")]


async def test_a_word_that_nobody_writes_is_given_up_in_the_end(plane: Plane) -> None:
    await talk(plane)
    doom = delete(plane)
    plane.links.remove("w")
    assert await plane.reconciler._handle(doom) == 2.0
    plane.clock.at += 121.0
    assert await plane.reconciler._handle(doom) is None
    plane.links.add("other", capacity=0)
    assert await plane.reconciler._handle(doom) is None
    assert plane.links.last_words == []


async def test_who_had_a_worker_or_was_over_when_deleted_has_had_its_word(plane: Plane) -> None:
    await talk(plane)
    plane.links.add("other", capacity=0)
    await plane.reconciler._handle(delete(plane))
    assert plane.links.last_words == []
