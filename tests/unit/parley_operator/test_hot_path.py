"""What keeps a look at a session cheap, and stays right."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.memo import ByIdentity
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.model import SessionReport, SessionState
from parley_operator.handlers.cache import ObjectCache
from parley_operator.handlers.kopf_app import Relay
from parley_operator.handlers.queue import Key, KeyedQueue
from parley_operator.workers.reports import Reports
from reconcile_plane import CALL, HOSTS, POOL, SESSION, Plane
from virtual_time import run


def body(version: int, **rest: Any) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"x": [1]}, **rest}


def test_the_same_object_is_read_once_and_an_equal_one_anew() -> None:
    read: list[object] = []

    def parse(value: object) -> int:
        if value == "bad":
            raise ValueError
        read.append(value)
        return len(read)

    known = ByIdentity(parse, 2)
    one, twin, third = {"a": 1}, {"a": 1}, {"a": 1}
    assert [known(one), known(one), known(twin), known(one)] == [1, 1, 2, 1]
    assert known(third) == 3
    # Of more than two the first one was forgotten.
    assert known(one) == 4
    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011 - raised above
            known("bad")


def test_a_status_write_leaves_the_spec_the_object_that_it_was() -> None:
    cache = ObjectCache()
    cache.put(SESSION, body(1))
    first: Any = cache.get(SESSION, "n", "a")
    cache.put(SESSION, body(2, status={"phase": "Ready"}))
    second: Any = cache.get(SESSION, "n", "a")
    assert second["status"] == {"phase": "Ready"}
    assert second["spec"] is first["spec"]
    # Pods change without another generation.
    changed = {**body(3), "spec": {"x": [2]}}
    cache.put(SESSION, changed)
    assert cache.get(SESSION, "n", "a")["spec"] == {"x": [2]}  # type: ignore[index]


def test_equal_specs_of_different_sessions_are_one_object() -> None:
    cache = ObjectCache()
    for number in range(3):
        made = body(number + 1)
        made["metadata"].update(name=f"s{number}", uid=f"u{number}")
        cache.put(SESSION, made)
    specs: list[Any] = [cache.get(SESSION, "n", f"s{number}")["spec"] for number in range(3)]  # type: ignore[index]
    assert specs[0] is specs[1] is specs[2]
    # One of them changes, the others do not change with it.
    changed = {**body(9), "spec": {"x": [2]}}
    changed["metadata"].update(name="s1", uid="u1")
    cache.put(SESSION, changed)
    assert [cache.get(SESSION, "n", f"s{n}")["spec"]["x"] for n in range(3)] == [[1], [2], [1]]  # type: ignore[index]


def report(uid: str, state: SessionState, end_time: float = 0.0) -> SessionReport:
    return SessionReport(uid, 1, "n", uid, state, end_time=end_time)


def test_of_sessions_that_are_over_the_last_1024_are_remembered_and_all_that_live() -> None:
    live = [report(f"live-{n}", SessionState.READY) for n in range(2000)]
    ended = [report(f"ended-{n}", SessionState.ENDED, 1000.0 - n) for n in range(1024)]
    reports = Reports([*ended, *live])
    known = reports.by_uid
    assert len(known) == 3024
    reports.take(report("live-7", SessionState.ENDED, 2000.0))
    # Forgotten is who ended first, whatever the order of the snapshot.
    assert "ended-1023" not in known
    assert {"ended-0", "live-7", "live-8"} <= known.keys()
    # Admitted again: not to be forgotten with its old end.
    reports.take(report("ended-1022", SessionState.CONNECTING))
    for number in range(1024):
        reports.take(report(f"more-{number}", SessionState.ENDED, 3000.0 + number))
    assert known["ended-1022"].live
    assert sum(not each.live for each in known.values()) == 1024
    reports.drop("live-8")
    reports.drop("live-8")
    assert "live-8" not in known


async def test_an_own_write_is_not_looked_at_and_a_foreign_change_during_it_is() -> None:
    plane = Plane()
    await plane.apply(POOL, "default", HOSTS)
    plane.links.add("default/a")
    await plane.session()
    queue = plane.context.queue

    def drain() -> list[Key]:
        taken = []
        while len(queue):
            taken.append(queue._ready.popleft())
            queue._waiting.discard(taken[-1])
        return [key for key in taken if key == CALL]

    drain()
    observed: Any = plane.reconciler.observe

    def echo(verb: str, kind: str) -> None:
        observed(SESSION, plane.store.peek(SESSION, "default", "call"))

    # The watch is faster than the answer of the write.
    plane.store.after = echo
    await plane.look()
    _, request = plane.links.admits[0]
    plane.links.report("default/a", request, SessionState.READY)
    drain()
    await plane.look()
    assert plane.status()["phase"] == "Ready"
    assert drain() == []

    def foreign(verb: str, kind: str) -> None:
        fresh: Any = plane.store.peek(SESSION, "default", "call")
        version = str(int(fresh["metadata"]["resourceVersion"]) + 1)
        observed(SESSION, {**fresh, "metadata": {**fresh["metadata"], "resourceVersion": version}})

    plane.store.after = foreign
    plane.links.report("default/a", request, SessionState.ACTIVE)
    await plane.look()
    assert plane.status()["phase"] == "Active"
    assert drain() == [CALL]


async def test_the_first_word_of_a_worker_says_no_more_than_its_answer() -> None:
    plane = Plane()
    await plane.apply(POOL, "default", HOSTS)
    plane.links.add("default/a")
    await plane.session()
    await plane.look()
    _, request = plane.links.admits[0]
    foreseen = plane.reconciler.sessions.book.foreseen
    said = plane.links.report("default/a", request, SessionState.CONNECTING)
    assert foreseen("default/a", said)
    # Another worker, another attempt or another state is news.
    assert not foreseen("default/b", said)
    assert not foreseen("default/a", replace(said, attempt=2))
    assert not foreseen("default/a", replace(said, state=SessionState.READY))
    assert not foreseen("default/a", replace(said, uid="other"))


async def test_the_relay_takes_all_that_came_in_one_turn_and_loses_none_to_an_error() -> None:
    taken: list[str] = []

    def observe(kind: str, body: Any, deleted: bool, repeated: bool) -> None:
        taken.append(kind)
        if kind == "3":
            raise ValueError

    loop = asyncio.get_running_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    relay = Relay(loop, observe)
    numbers = [str(number) for number in range(120)]
    await asyncio.to_thread(lambda: [relay.tell(number, {}, False, False) for number in numbers])
    for _ in range(5):
        await asyncio.sleep(0)
    assert taken == numbers
    assert [type(error) for error in errors] == [ValueError]
    await asyncio.to_thread(relay.tell, "later", {}, True, False)
    await asyncio.sleep(0)
    assert taken[-1] == "later"


def test_what_is_known_in_this_version_is_known() -> None:
    cache = ObjectCache()
    assert not cache.knows(SESSION, body(1))
    cache.put(SESSION, body(1))
    assert cache.knows(SESSION, body(1))
    assert not cache.knows(SESSION, body(2))
    unnumbered = {"metadata": {"name": "b", "namespace": "n"}}
    cache.put(SESSION, unnumbered)
    assert not cache.knows(SESSION, unnumbered)


async def test_what_a_workers_sessions_do_not_notice_wakes_none_of_them() -> None:
    plane = Plane()
    await plane.apply(POOL, "default", HOSTS)
    plane.links.add("default/a")
    await plane.session()
    await plane.look()
    queue = plane.context.queue
    queue._ready.clear()
    queue._waiting.clear()
    plane.reconciler.worker_changed("default/a", None, felt=False)
    assert CALL not in queue._waiting
    plane.reconciler.worker_changed("default/a", None)
    assert CALL in queue._waiting


def test_paths_through_what_is_no_object_lead_nowhere() -> None:
    assert text_at({"a": {"b": "c"}}, "a", "b") == "c"
    for path in (("a", "x"), ("a", "b", "c"), ("x", "y")):
        assert text_at({"a": {"b": "c"}}, *path) == ""
        assert map_at({"a": {"b": "c"}}, *path) == {}


def test_each_key_wakes_one_worker_and_none_is_left_when_a_worker_is_cancelled() -> None:
    async def story() -> None:
        queue = KeyedQueue()
        wakes = 0
        got: list[Key] = []

        async def work() -> None:
            nonlocal wakes
            while True:
                key = await queue.get()
                wakes += 1
                got.append(key)
                await asyncio.sleep(0.01)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(8)]
        await asyncio.sleep(0.01)
        for number in range(20):
            queue.add(Key(SESSION, "n", str(number)))
        await asyncio.sleep(1)
        assert sorted(int(key.name) for key in got) == list(range(20))
        assert wakes == 20
        # The one that is woken is cancelled before it takes the key: another one takes it.
        queue.add(Key(SESSION, "n", "last"))
        for worker in workers[:7]:
            worker.cancel()
        await asyncio.sleep(1)
        assert got[-1].name == "last"
        workers[7].cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    run(story())
