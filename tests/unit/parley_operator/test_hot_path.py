"""What keeps a look at a session cheap, and stays right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_operator.api.memo import ByIdentity
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.handlers.cache import ObjectCache
from parley_operator.handlers.queue import Key, KeyedQueue
from virtual_time import run

SESSION = "VoiceSession"


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
