"""Kubernetes Events: what is told, how much of it, and what never is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_operator.domain.event_facts import MAX_NOTE, Fact, condition_facts, session_facts
from parley_operator.domain.status import condition
from parley_operator.files import FileStore
from parley_operator.handlers.event_posting import NORMAL_BURST, QUEUE, EventLevel, EventPoster
from parley_operator.ports import StoreError
from reconcile_plane import Time

WORKER = {"name": "w-1", "node": "n-1"}


def status(phase: str = "Pending", *conditions: Any, **more: Any) -> dict[str, object]:
    return {"phase": phase, "conditions": list(conditions), "worker": WORKER, **more}


def cond(kind: str, value: bool | None, reason: str = "R", words: str = "", generation: int = 1) -> Any:
    return condition(kind, value, reason, words, generation)


PLACED = status("Pending", cond("Placed", True), attempt=1)
READY = status("Ready", cond("Placed", True), cond("Ready", True), attempt=1)
ACTIVE = {**READY, "phase": "Active"}
MOVED = {**ACTIVE, "attempt": 2, "worker": {"name": "w-2"}}


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        ({}, PLACED, ["Placed"]),
        ({}, READY, ["Ready"]),
        (PLACED, READY, ["Ready"]),
        (READY, ACTIVE, []),
        (ACTIVE, {**ACTIVE, "phase": "Recovering"}, ["!Recovering"]),
        ({**ACTIVE, "phase": "Recovering"}, MOVED, ["Resumed"]),
        (ACTIVE, MOVED, ["Moved"]),
        (ACTIVE, {**ACTIVE, "conditions": [*ACTIVE["conditions"], cond("Draining", True)]}, ["Draining"]),  # type: ignore[misc]
        ({}, status("Pending", cond("Placed", False, "Full", "number 3")), ["Queued"]),
        ({}, status("Pending", cond("Accepted", False, "SecretNotFound")), ["!NotAccepted"]),
        (ACTIVE, status("Active", cond("Updated", False, "Refused"), attempt=1), ["!NotUpdated"]),
        (ACTIVE, status("Completed", endReason="CallerHangup"), ["Ended"]),
        (ACTIVE, status("Failed", endReason="WorkerLost", endMessage="gone"), ["!Ended"]),
        (status("Completed", endReason="CallerHangup"), status("Completed", endReason="CallerHangup"), []),
    ],
)
def test_what_a_status_tells(before: Any, after: Any, reasons: list[str]) -> None:
    facts = session_facts(before, after)
    assert [("!" if fact.warning else "") + fact.reason for fact in facts] == reasons


def test_the_same_queue_is_told_once() -> None:
    first = status("Pending", cond("Placed", False, "Full", "number 3"))
    second = status("Pending", cond("Placed", False, "NoWorker", "number 2"))
    assert session_facts(first, second) == []


def test_words_about_a_private_session_stay_where_they_are() -> None:
    ended = status("Failed", endReason="ScenarioFailed", endMessage="the caller said 1234")
    refused = status("Active", cond("Updated", False, "Refused", "instructions '1234' are too long"))
    for after in (ended, refused):
        (fact,) = session_facts(ACTIVE, after, private=True)
        assert "1234" not in fact.note
        assert "1234" in session_facts(ACTIVE, after)[0].note


def test_conditions_of_pools_and_agents() -> None:
    bad = {"conditions": [cond("PodsReady", False, "ImagePullFailed", "no such image")]}
    (fact,) = condition_facts({}, bad)
    assert (fact.reason, fact.warning) == ("ImagePullFailed", True)
    good = {"conditions": [cond("PodsReady", True, "AllReady")]}
    assert [f.warning for f in condition_facts(bad, good)] == [False]
    assert condition_facts({}, good) == []
    assert condition_facts(bad, bad) == []


BODY = {"metadata": {"name": "call", "namespace": "shop", "uid": "u", "resourceVersion": "7"}}
NEWS = Fact("Ready", "on worker w-1", "Place")
WARNING = Fact("Ended", "WorkerLost", "End", warning=True)


class Posted(FileStore):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.fails = False

    async def create(self, kind: str, body: Any) -> Any:
        if self.fails:
            raise StoreError("away")
        self.events.append(body)
        return body


async def post(level: EventLevel, *facts: Fact, fails: bool = False) -> tuple[Posted, list[str]]:
    store, results = Posted(), list[str]()
    store.fails = fails
    poster = EventPoster(store, Time(), level=level, instance="pod-1", counted=results.append)
    task = asyncio.create_task(poster.run())
    await asyncio.sleep(0)
    for fact in facts:
        poster.tell("VoiceSession", BODY, [fact])
    for _ in range(2 * QUEUE):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return store, results


async def test_an_event_as_the_api_server_takes_it() -> None:
    store, results = await post(EventLevel.ALL, Fact("Ended", "x" * 5000, "End", warning=True))
    (event,) = store.events
    assert results == ["posted"]
    assert event["apiVersion"] == "events.k8s.io/v1"
    assert event["metadata"]["namespace"] == "shop"
    assert event["regarding"]["uid"] == "u"
    assert (event["type"], event["reportingInstance"]) == ("Warning", "pod-1")
    assert len(event["note"]) == MAX_NOTE
    assert event["eventTime"].endswith("Z")


async def test_a_storm_of_good_news_hides_no_warning() -> None:
    storm = [NEWS] * int(NORMAL_BURST + 20)
    store, results = await post(EventLevel.ALL, *storm, WARNING)
    assert results.count("dropped") == 20
    assert store.events[-1]["type"] == "Warning"


async def test_only_warnings_or_nothing() -> None:
    store, _ = await post(EventLevel.WARNINGS, NEWS, WARNING)
    assert [event["type"] for event in store.events] == ["Warning"]
    store, results = await post(EventLevel.NONE, NEWS, WARNING)
    assert (store.events, results) == ([], [])


async def test_what_cannot_be_posted_is_forgotten() -> None:
    _, results = await post(EventLevel.ALL, NEWS, WARNING, fails=True)
    assert results == ["failed", "failed"]


async def test_without_somebody_who_posts_nothing_is_kept() -> None:
    poster = EventPoster(Posted(), Time())
    poster.tell("VoiceSession", BODY, [WARNING])
    assert poster._queue.empty()
