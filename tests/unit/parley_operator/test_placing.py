"""Placing: where sessions go, what refusals become, who waits and who is woken."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from parley_operator.domain.model import AdmitOutcome, AdmitRequest, AdmitVerdict, SessionReport, SessionState
from parley_operator.domain.placement.demand import Choice, Request
from parley_operator.handlers.queue import DOOM, SERVE, Key
from reconcile_plane import HOSTS, NOW, POOL, SESSION, Links, Plane

OPEN = {**HOSTS, "allowedNamespaces": ["*"]}


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", OPEN)
    return made


def refuses(*workers: str, verdict: AdmitVerdict = AdmitVerdict.FULL, words: str = "") -> Any:
    def answer(worker: str, request: AdmitRequest) -> AdmitOutcome:
        return AdmitOutcome(verdict, words) if worker in workers else Links().answer(worker, request)

    return answer


def places(plane: Plane) -> list[tuple[str, str]]:
    return [(request.name, worker) for worker, request in plane.links.admits]


async def worked_off(plane: Plane) -> list[Key]:
    """What waits to be looked at, looked at; timers do not run."""
    seen = []
    while len(plane.context.queue):
        key = await plane.context.queue.get()
        plane.context.queue.done(key)
        seen.append(key)
        if key.kind in (SESSION, SERVE, DOOM):
            await plane.reconciler._handle(key)
            plane.reconciler.sessions.line.serve()
    return seen


def message(plane: Plane, kind: str = "Placed", name: str = "call") -> str:
    return next(str(c["message"]) for c in plane.status(name)["conditions"] if c["type"] == kind)


@pytest.mark.parametrize(
    ("policy", "order"),
    [("Packed", ["b", "b", "a", "a", "a"]), ("Spread", ["a", "b", "a", "b", "a"])],
)
async def test_policies(policy: str, order: list[str]) -> None:
    plane = Plane()
    await plane.apply(POOL, "default", {**OPEN, "placement": {"policy": policy}})
    plane.links.add("a", capacity=3)
    plane.links.add("b", capacity=2)
    for number in range(5):
        await plane.session(f"s{number}")
        await plane.look(f"s{number}")
    assert [worker for _, worker in places(plane)] == order


async def test_the_newest_revision_comes_first_then_the_zone() -> None:
    plane = Plane()
    await plane.apply(POOL, "default", {**OPEN, "placement": {"zones": ["z1", "z2"]}})
    plane.context.desk.wanted_revision(("default", "default"), "r2")
    for name, revision, zone in (("a", "r1", "z1"), ("b", "r2", "z3"), ("c", "r2", "z2"), ("d", "r1", "")):
        plane.links.add(name, capacity=1, revision=revision, zone=zone)
    for number in range(4):
        await plane.session(f"s{number}")
        await plane.look(f"s{number}")
    assert [worker for _, worker in places(plane)] == ["c", "b", "a", "d"]


async def test_selectors_are_tried_in_order(plane: Plane) -> None:
    await plane.apply(POOL, "gpu", OPEN)
    plane.links.add("near", capacity=1, zone="z1")
    plane.links.add("far", capacity=1, zone="z2", labels={"tier": "gold"})
    plane.links.add("g", pool="gpu", capacity=1)
    selectors = [{"zone": "z1"}, {"matchLabels": {"tier": "gold"}}, {"pool": {"name": "gpu"}}]
    for number in range(4):
        await plane.session(f"s{number}", selectors=selectors)
        await plane.look(f"s{number}")
    assert [worker for _, worker in places(plane)] == ["near", "far", "g"]
    # The last one waits for whichever comes first.
    plane.links.add("more", pool="gpu", capacity=1)
    await worked_off(plane)
    assert places(plane)[-1] == ("s3", "more")


async def test_pinned_labels_wait_for_a_worker_that_has_them(plane: Plane) -> None:
    plane.links.add("plain")
    await plane.session(selectors=[{"matchLabels": {"customer": "x"}}])
    plane.clock.at += 2
    await plane.look()
    assert plane.status()["queue"]["reason"] == "NoMatchingWorker"
    plane.links.add("theirs", labels={"customer": "x"})
    await worked_off(plane)
    assert places(plane) == [("call", "theirs")]


async def test_a_pool_that_may_not_be_used_is_passed_over(plane: Plane) -> None:
    await plane.apply(POOL, "closed", {}, namespace="other")
    plane.links.add("c", namespace="other", pool="closed")
    plane.links.add("w")
    closed = {"pool": {"name": "closed", "namespace": "other"}}
    await plane.session(selectors=[closed, {"pool": {"name": "missing"}}, {}])
    await plane.look()
    assert places(plane) == [("call", "w")]
    await plane.session("second", selectors=[closed, {"pool": {"name": "missing"}}])
    await plane.look("second")
    assert plane.conditions("second")["Accepted"] == ("False", "NamespaceNotAllowed")


@pytest.mark.parametrize(
    "verdict",
    [
        AdmitVerdict.FULL,
        AdmitVerdict.DRAINING,
        AdmitVerdict.OVERLOADED,
        AdmitVerdict.WRONG_INSTANCE,
        AdmitVerdict.UNREACHABLE,
        AdmitVerdict.STALE_LEADER,
    ],
)
async def test_a_refusal_is_answered_by_another_worker_and_kept(plane: Plane, verdict: AdmitVerdict) -> None:
    plane.links.add("a")
    plane.links.add("b")
    plane.links.answer = refuses("a", verdict=verdict, words="loop lag\n300 ms")
    await plane.session()
    assert await plane.look() == 0.0
    await plane.look()
    assert places(plane) == [("call", "a"), ("call", "b")]
    [(_, first), (_, second)] = plane.links.admits
    assert first.attempt == second.attempt == 1
    plane.links.report("b", second, SessionState.READY)
    await plane.look()
    assert message(plane) == f"on worker b; refused once: a said {verdict.value} (loop lag 300 ms)"
    metric = f'parley_operator_worker_refusals_total{{reason="{verdict.value}"}} 1.0'
    assert metric.encode() in plane.context.metrics.render()


async def test_refusals_of_all_are_told_while_the_session_waits(plane: Plane) -> None:
    names = [f"w{number}" for number in range(9)]
    for name in names:
        plane.links.add(name)
    plane.links.answer = refuses(*names)
    await plane.session()
    plane.clock.at += 0.5
    for _ in names:
        assert await plane.look() == 0.0
    plane.clock.at += 0.6
    await plane.look()
    said = message(plane)
    assert "refused 9 times" in said
    assert "w8 said Full" in said
    assert len(said) < 600
    # Whoever refused is asked again after a while, not at once.
    assert len(plane.links.admits) == 9
    plane.clock.at += 1.0
    plane.links.answer = Links().answer
    plane.reconciler.sessions.line.serve()
    await worked_off(plane)
    assert len(plane.links.admits) == 10


async def test_an_admit_that_was_not_heard_says_nothing_of_the_one_before(plane: Plane) -> None:
    plane.links.add("a")
    plane.links.add("b")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.UNKNOWN, "DEADLINE_EXCEEDED")
    await plane.session()
    await plane.look()
    plane.links.answer = refuses("a", verdict=AdmitVerdict.UNREACHABLE)
    for _ in range(3):
        await plane.look()
    assert {worker for _, worker in places(plane)} == {"a"}
    # Asked again it says no: then it never took the session.
    plane.links.answer = refuses("a", verdict=AdmitVerdict.FULL)
    await plane.look()
    await plane.look()
    assert places(plane)[-1] == ("call", "b")
    assert plane.links.admits[-1][1].attempt == 1


async def test_a_worker_silent_for_too_long_after_it_was_asked_is_given_up(plane: Plane) -> None:
    view = plane.links.add("a")
    plane.links.add("b")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.UNKNOWN)
    await plane.session()
    await plane.look()
    plane.links.answer = Links().answer
    plane.links.workers["a"] = replace(view, connected=False, silent_for=5.0)
    await plane.look()
    assert len(plane.links.admits) == 1
    plane.links.workers["a"] = replace(view, connected=False, silent_for=10.0)
    await plane.look()
    assert [(worker, request.attempt) for worker, request in plane.links.admits] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("changes", [{"draining": True}, {"connected": False}])
async def test_a_place_kept_on_a_worker_that_went_away_is_given_back(
    plane: Plane, changes: dict[str, Any]
) -> None:
    await plane.session()
    await plane.look()
    view = plane.links.add("a")
    assert plane.context.desk.grants == 1
    plane.links.workers["a"] = replace(view, **changes)
    plane.links.add("b")
    await worked_off(plane)
    assert places(plane) == [("call", "b")]
    assert plane.context.desk.grants == 0


async def test_freed_places_wake_those_who_get_them_and_nobody_else(plane: Plane) -> None:
    plane.links.add("w", capacity=2)
    for number in range(40):
        await plane.session(f"s{number:02}")
        await plane.look(f"s{number:02}")
        plane.clock.at += 0.1
    assert [name for name, _ in places(plane)] == ["s00", "s01"]
    await worked_off(plane)
    for _, request in plane.links.admits[:2]:
        plane.links.report("w", request, SessionState.ACTIVE)
    await worked_off(plane)
    ended = plane.links.report("w", plane.links.admits[0][1], SessionState.ENDED, end_reason="CallerHangup")
    plane.reconciler.worker_changed("w", ended)
    woken = [key.name for key in await worked_off(plane) if key.kind == SESSION]
    assert set(woken) == {"s00", "s02"}
    assert places(plane)[-1] == ("s02", "w")


async def test_namespaces_take_turns(plane: Plane) -> None:
    for namespace, count in (("greedy", 6), ("modest", 2)):
        for number in range(count):
            spec = {"agent": {"provider": {"type": "custom", "url": "ws://127.0.0.1:8765/v1", "model": "m"}}}
            await plane.apply(SESSION, f"{namespace}-{number}", spec, namespace)
    await worked_off(plane)
    plane.links.add("w", capacity=4)
    await worked_off(plane)
    assert Counter(name.split("-")[0] for name, _ in places(plane)) == {"greedy": 2, "modest": 2}


async def quotas(plane: Plane, **quota: Any) -> None:
    await plane.apply(POOL, "default", {**OPEN, "quotas": [{"namespace": "default", **quota}]})


async def test_beyond_its_quota_a_session_waits_and_ends_with_that_reason(plane: Plane) -> None:
    await quotas(plane, maxSessions=1)
    plane.links.add("w", capacity=5)
    for name in ("one", "two"):
        await plane.session(name)
        await plane.look(name)
    assert places(plane) == [("one", "w")]
    plane.clock.at += 3
    await plane.look("two")
    assert plane.status("two")["queue"]["reason"] == "OverQuota"
    # The pool's owner raises it: the session is placed at once.
    await worked_off(plane)
    await quotas(plane, maxSessions=2)
    await worked_off(plane)
    assert places(plane) == [("one", "w"), ("two", "w")]
    await plane.session("three")
    await plane.look("three")
    plane.clock.at += 30
    await plane.look("three")
    assert plane.status("three")["endReason"] == "QuotaExceeded"
    assert "quota" in plane.status("three")["endMessage"]


async def test_a_quota_may_refuse_at_once_unless_another_pool_is_left(plane: Plane) -> None:
    await quotas(plane, maxSessions=0, whenExceeded="Refuse")
    await plane.apply(POOL, "spare", OPEN)
    plane.links.add("w")
    await plane.session()
    await plane.look()
    assert plane.status()["endReason"] == "QuotaExceeded"
    await plane.session("second", selectors=[{}, {"pool": {"name": "spare"}}])
    await plane.look("second")
    assert "endReason" not in plane.status("second")
    plane.links.add("s", pool="spare")
    await worked_off(plane)
    assert places(plane) == [("second", "s")]


async def test_a_quota_counts_what_runs_after_a_restart_too(plane: Plane) -> None:
    await quotas(plane, maxSessions=1)
    plane.links.add("w", capacity=5)
    await plane.session("one")
    await plane.look("one")
    plane.links.report("w", plane.links.admits[0][1], SessionState.ACTIVE)
    await plane.look("one")
    await plane.session("two")
    await plane.restart()
    await worked_off(plane)
    assert places(plane) == [("one", "w")]


async def test_after_a_restart_the_oldest_comes_first(plane: Plane) -> None:
    for number in range(9):
        await plane.session(f"s{9 - number}")
        plane.clock.at += 1.0
    await plane.restart()
    plane.links.add("w", capacity=3)
    await worked_off(plane)
    assert [name for name, _ in places(plane)] == ["s9", "s8", "s7"]


async def test_no_place_is_kept_for_a_session_that_is_refused_or_deleted(plane: Plane) -> None:
    for name in ("one", "two"):
        await plane.session(
            name, agent={"provider": {"type": "custom", "url": "ws://127.0.0.1:1/v1", "model": "m"}}
        )
        await plane.look(name)
    await worked_off(plane)
    await plane.apply(POOL, "default", {"provider": {"allowedHosts": []}})
    plane.links.add("w")
    assert plane.context.desk.grants == 2
    await worked_off(plane)
    assert plane.links.admits == []
    assert plane.context.desk.grants == plane.context.ledger.reservations == 0
    assert plane.conditions("one")["Accepted"] == ("False", "HostNotAllowed")


async def test_a_session_deleted_while_it_is_looked_at_leaves_nothing_behind(plane: Plane) -> None:
    body = await plane.session()
    get = plane.store.get

    async def deleted_meanwhile(kind: str, namespace: str, name: str) -> Any:
        if plane.context.cache.get(SESSION, "default", "call"):
            plane.reconciler.observe(SESSION, body, deleted=True)
            await worked_off(plane)
        return await get(kind, namespace, name)

    plane.store.get = deleted_meanwhile  # type: ignore[method-assign]
    await plane.look()
    await worked_off(plane)
    plane.links.add("w")
    await worked_off(plane)
    assert plane.links.admits == []
    assert len(plane.context.desk) == plane.context.desk.grants == plane.context.ledger.reservations == 0


async def test_who_waits_is_checked_again_when_the_rules_change_not_when_the_pool_grows(plane: Plane) -> None:
    await plane.session()
    await plane.look()
    await worked_off(plane)
    grown = {
        **OPEN,
        "replicas": 9,
        "placement": {"policy": "Spread"},
        "quotas": [{"namespace": "x", "weight": 2}],
    }
    await plane.apply(POOL, "default", grown)
    assert [key for key in await worked_off(plane) if key.kind == SESSION] == []
    await plane.apply(POOL, "default", {**grown, "provider": {"allowedHosts": ["other.example"]}})
    await worked_off(plane)
    assert plane.conditions()["Accepted"] == ("False", "HostNotAllowed")
    assert len(plane.context.desk) == 0
    await plane.apply(POOL, "default", OPEN)
    await worked_off(plane)
    assert len(plane.context.desk) == 1


async def test_a_worker_that_went_away_unheard_is_found_missing(plane: Plane) -> None:
    plane.links.add("a")
    plane.links.workers.changed = lambda worker: None
    plane.links.remove("a")
    plane.links.add("b")
    plane.reconciler.sessions.line.look_again()
    await plane.session()
    await plane.look()
    assert places(plane) == [("call", "b")]


async def test_who_waits_is_on_the_metrics(plane: Plane) -> None:
    for number in range(3):
        await plane.session(f"s{number}")
        await plane.look(f"s{number}")
    plane.clock.at += 7
    plane.reconciler.sessions.line.gauges()
    text = plane.context.metrics.render()
    assert b'parley_operator_waiting_sessions{pool="default/default",reason="NoWorker"} 3.0' in text
    assert b"parley_operator_waiting_longest_seconds 7.0" in text
    plane.links.add("w", capacity=3)
    plane.reconciler.sessions.line.gauges()
    assert b"parley_operator_waiting_sessions{" not in plane.context.metrics.render()


async def calls_of(work: Callable[[], Awaitable[object]]) -> int:
    """How many Python functions the work calls: what it costs, whatever the machine."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(seen)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return count


async def test_what_a_place_costs_does_not_grow_with_those_who_wait() -> None:
    costs: dict[int, dict[str, int]] = {}
    for waiting in (30, 1500):
        plane = Plane()
        await plane.apply(POOL, "default", OPEN)
        plane.links.add("full", capacity=1)
        for number in range(waiting):
            body = await plane.session(f"s{number}")
            choices = (Choice(("default", "default")),)
            uid = body["metadata"]["uid"]
            plane.context.desk.want(Request(uid, "default", f"s{number}", NOW, choices))
        plane.reconciler.sessions.line.serve()
        for number in (0, 5):
            await plane.look(f"s{number}")
        [(_, request)] = plane.links.admits
        report = plane.links.report("full", request, SessionState.ENDED, end_reason="CallerHangup")
        costs[waiting] = {
            "one who waits is looked at": await calls_of(partial(plane.look, "s5")),
            "a report comes": await calls_of(partial(heard, plane, report)),
            "the end is written": await calls_of(partial(plane.look, "s0")),
            "the place is given": await calls_of(partial(given, plane)),
        }
        assert plane.context.desk.grants == 1
    for what, few in costs[30].items():
        assert costs[1500][what] <= few + 20, what


async def test_a_look_at_one_who_has_a_place_costs_the_same_among_many_workers() -> None:
    costs = []
    for workers in (3, 150):
        plane = Plane()
        await plane.apply(POOL, "default", OPEN)
        for number in range(workers):
            plane.links.add(f"w{number}")
        await plane.session()
        await plane.look()
        [(worker, request)] = plane.links.admits
        plane.links.report(worker, request, SessionState.ACTIVE)
        await plane.look()
        costs.append(await calls_of(plane.look))
    assert costs[1] <= costs[0] + 20


async def heard(plane: Plane, report: SessionReport) -> None:
    plane.reconciler.worker_changed("full", report)


async def given(plane: Plane) -> None:
    plane.reconciler.sessions.line.serve()


@pytest.mark.parametrize("leap", [3600.0, -3600.0])
async def test_a_clock_that_leaps_ends_no_wait_and_prolongs_none(plane: Plane, leap: float) -> None:
    clock, elapsed = plane.clock, 0.0
    clock.monotonic = lambda: NOW + elapsed  # type: ignore[method-assign]
    await plane.session(limits={"queueTimeout": "30s"})
    await plane.look()
    for seconds, reason in ((0.0, None), (25.0, None), (6.0, "NoCapacity")):
        elapsed += seconds
        clock.at = NOW + leap + elapsed
        await plane.look()
        assert plane.status().get("endReason") == reason
