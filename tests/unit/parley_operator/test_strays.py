"""Sessions without a VoiceSession end, but never many at once because of one wrong look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_operator.domain.model import SessionReport, SessionState
from parley_operator.domain.placement.strays import Brake, StrayRules
from parley_operator.handlers.queue import DOOM
from parley_operator.ports import StoreError
from reconcile_plane import HOSTS, POOL, Plane
from virtual_time import run as run_virtually

RULES = StrayRules()


def test_a_few_go_at_once_many_are_braked() -> None:
    assert Brake().sweep(3, 10, 0.0, RULES) == (Brake(), 3)
    assert Brake().sweep(50, 1000, 0.0, RULES) == (Brake(), 50)
    brake, count = Brake().sweep(51, 1000, 100.0, RULES)
    assert (brake, count) == (Brake(100.0), 0)
    assert brake.sweep(51, 1000, 129.0, RULES) == (brake, 0)
    assert brake.sweep(51, 1000, 130.0, RULES) == (brake, 10)
    assert brake.sweep(41, 1000, 135.0, RULES) == (Brake(), 41)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2000), st.floats(0.0, 60.0))))
def test_no_sweep_ends_more_than_a_twentieth(sweeps: list[tuple[int, int, float]]) -> None:
    brake, now = Brake(), 0.0
    for strays, live, later in sweeps:
        now += later
        brake, count = brake.sweep(strays, max(strays, live), now, RULES)
        assert 0 <= count <= strays
        assert count <= max(3, 0.05 * max(strays, live))


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", HOSTS)
    return made


def run(plane: Plane, worker: str, count: int, **facts: Any) -> None:
    sessions = {
        f"uid-{number}": SessionReport(f"uid-{number}", 1, "default", f"s{number}", SessionState.ACTIVE)
        for number in range(count)
    }
    plane.links.add(worker, capacity=count, sessions=sessions, **facts)


def doomed(plane: Plane) -> list[str]:
    return sorted(key.name for key in plane.context.queue._ready if key.kind == DOOM)


async def test_a_stray_is_ended_when_it_is_seen_twice(plane: Plane) -> None:
    run(plane, "w", 2)
    sweep = plane.reconciler._strays.sweep
    await sweep()
    assert doomed(plane) == []
    await sweep()
    assert doomed(plane) == ["uid-0", "uid-1"]
    text = plane.context.metrics.render()
    assert b"parley_operator_strays_ended_total 2.0" in text
    assert b"parley_operator_stray_sessions 2.0" in text


@pytest.mark.parametrize("count", [2, 30])
async def test_nothing_is_ended_on_a_list_that_cannot_be_had(plane: Plane, count: int) -> None:
    run(plane, "w", count)
    await plane.reconciler._strays.sweep()

    async def fail(*_: Any) -> Any:
        raise StoreError("no answer")

    plane.store.get = plane.store.list = fail  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await plane.reconciler._strays.sweep()
    assert doomed(plane) == []


@pytest.mark.parametrize("count", [1, 30])
async def test_one_whose_object_was_only_not_heard_of_is_kept(plane: Plane, count: int) -> None:
    bodies = [await plane.session(f"s{number}") for number in range(count)]
    sessions = {
        body["metadata"]["uid"]: SessionReport(
            body["metadata"]["uid"], 1, "default", body["metadata"]["name"], SessionState.ACTIVE
        )
        for body in bodies
    }
    # A process whose watch told it of nothing.
    plane.start()
    plane.links.add("w", capacity=count, sessions=sessions)
    for _ in range(3):
        await plane.reconciler._strays.sweep()
    assert doomed(plane) == []
    assert plane.context.cache.get("VoiceSession", "default", "s0") is not None


async def test_many_at_once_wait_and_then_go_slowly(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    run(plane, "w", 200)
    sweep = plane.reconciler._strays.sweep
    for _ in range(5):
        await sweep()
        plane.clock.at += 5.0
    assert doomed(plane) == []
    assert b"parley_operator_stray_brake 1.0" in plane.context.metrics.render()
    assert sum("have no VoiceSession" in record.message for record in caplog.records) == 1
    plane.clock.at += 30.0
    await sweep()
    assert len(doomed(plane)) == 2
    await sweep()
    assert len(doomed(plane)) == 4


async def test_silent_workers_have_no_strays(plane: Plane) -> None:
    run(plane, "w", 2, connected=False)
    await plane.reconciler._strays.sweep()
    await plane.reconciler._strays.sweep()
    assert doomed(plane) == []


def test_a_sweep_that_fails_unexpectedly_does_not_end_the_term(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        plane, swept = Plane(), 0

        async def sweep() -> None:
            nonlocal swept
            swept += 1
            raise RuntimeError("an odd object")

        plane.reconciler._strays.sweep = sweep  # type: ignore[method-assign]
        task = asyncio.create_task(plane.reconciler.run())
        await asyncio.sleep(12.0)
        assert not task.done()
        assert swept == 3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtually(story())
    assert "cannot look after lost objects" in caplog.text
