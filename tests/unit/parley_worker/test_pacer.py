"""The one timer of all playout clocks, on a loop whose time the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from unittest import mock

import pytest
from parley_worker.runtime.pacer import SLOT_SECONDS, Pacer


class Loop:
    """The part of a loop that the pacer uses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, object, mock.Mock]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> mock.Mock:
        handle = mock.Mock(**{"cancel.return_value": None})
        self.timers.append((when, callback, handle))
        return handle

    def armed(self) -> list[float]:
        return [when for when, _, handle in self.timers if not handle.cancel.called]

    def advance(self, now: float) -> None:
        """Fire what is armed up to `now`, each at its time."""
        while due := [t for t in self.timers if not t[2].cancel.called and t[0] <= now]:
            timer = min(due, key=lambda t: t[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()  # type: ignore[operator]
        self.now = now


@pytest.fixture
def loop() -> Iterator[Loop]:
    fake = Loop()
    with mock.patch.object(asyncio, "get_running_loop", return_value=fake):
        yield fake


def every(step: float, log: list[tuple[str, float]], name: str, loop: Loop) -> tuple[object, object]:
    due = [0.0]

    def tick(_: float) -> float:
        log.append((name, loop.now))
        due[0] += step
        return due[0]

    return name, tick


def test_many_clocks_share_one_timer(loop: Loop) -> None:
    pacer, log = Pacer(), list[tuple[str, float]]()
    for name, step in (("a", 0.02), ("b", 0.03)):
        key, tick = every(step, log, name, loop)
        pacer.schedule(key, 0.0, tick)  # type: ignore[arg-type]
        assert len(loop.armed()) == 1
    loop.advance(0.0601)
    assert [round(t, 3) for n, t in log if n == "a"] == [0.0, 0.02, 0.04, 0.06]
    assert [round(t, 3) for n, t in log if n == "b"] == [0.0, 0.03, 0.06]
    assert len(loop.armed()) == 1


def test_cancelled_and_finished_clocks_leave_no_timer(loop: Loop) -> None:
    pacer = Pacer()
    calls: list[str] = []
    pacer.schedule("a", 1.0, lambda _: calls.append("a"))
    pacer.schedule("b", 2.0, lambda _: calls.append("b"))
    pacer.cancel("a")
    pacer.cancel("nobody")
    loop.advance(3.0)
    assert calls == ["b"]
    assert len(pacer) == 0
    assert loop.armed() == []


def test_scheduling_again_moves_the_time(loop: Loop) -> None:
    pacer = Pacer()
    calls: list[float] = []
    for due in (5.0, 1.0):
        pacer.schedule("a", due, lambda _: calls.append(loop.now))
    loop.advance(10.0)
    assert calls == [1.0]


def test_a_clock_may_cancel_or_move_itself_while_it_ticks(loop: Loop) -> None:
    pacer = Pacer()
    calls: list[str] = []

    def second(_: float) -> None:
        calls.append("second")

    def first(_: float) -> float:
        calls.append("first")
        pacer.schedule("a", 4.0, second)
        return 2.0

    def gone(_: float) -> float:
        pacer.cancel("b")
        return 3.0

    pacer.schedule("a", 1.0, first)
    pacer.schedule("b", 1.0, gone)
    loop.advance(10.0)
    assert calls == ["first", "second"]
    assert len(pacer) == 0


@pytest.mark.parametrize("offset", [-5e-7, 0.0, 5e-7, 9e-7, 2e-6])
def test_a_clock_that_asks_for_the_time_it_was_woken_at_cannot_keep_the_loop(
    loop: Loop, offset: float
) -> None:
    pacer, calls = Pacer(), list[float]()
    due = 10 * SLOT_SECONDS + offset

    def tick(now: float) -> float:
        calls.append(now)
        assert len(calls) < 100
        return due

    pacer.schedule("a", due, tick)
    loop.advance(due + 0.01)
    assert 1 <= len(calls) <= 7
    assert len(loop.armed()) == 1


def test_a_clock_that_fails_stops_alone(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: float) -> float:
        raise RuntimeError("a bug")

    pacer, log = Pacer(), list[tuple[str, float]]()
    name, tick = every(0.02, log, "b", loop)
    pacer.schedule("a", 0.0, broken)
    pacer.schedule(name, 0.0, tick)  # type: ignore[arg-type]
    loop.advance(0.1)
    assert len(log) >= 5
    assert len(pacer) == 1
    assert "a playout clock failed" in caplog.text


def test_what_is_put_off_is_done_together_at_the_next_slot_that_fits(loop: Loop) -> None:
    pacer, done = Pacer(), list[tuple[str, float]]()
    loop.now = 100.0005
    pacer.soon(lambda: done.append(("soon", loop.now)))
    pacer.soon(lambda: done.append(("soon too", loop.now)))
    pacer.soon(lambda: done.append(("by fours", loop.now)), 4)
    assert len(loop.armed()) == 1
    loop.advance(100.05)
    assert [(name, round(at, 6)) for name, at in done] == [
        ("soon", 100.005),
        ("soon too", 100.005),
        ("by fours", 100.02),
    ]
    assert loop.armed() == []


def test_a_clock_that_is_cancelled_takes_nothing_with_it_that_was_put_off(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    pacer, done = Pacer(), list[str]()
    pacer.schedule("a", 0.001, lambda _: None)
    pacer.soon(broken)
    pacer.soon(lambda: done.append("done"))
    pacer.cancel("a")
    loop.advance(0.01)
    assert done == ["done"]
    assert "a call that was put off failed" in caplog.text


@pytest.mark.parametrize("now", [100.0, 100.0012, 100.004999, 99.9999999, 12345.678])
def test_a_clock_that_starts_with_the_latest_slot_is_never_late(loop: Loop, now: float) -> None:
    pacer, log = Pacer(), list[float]()
    loop.now = now
    start = pacer.latest_slot(now)
    assert now - SLOT_SECONDS < start <= now + 1e-6

    def tick(_: float) -> float:
        log.append(loop.now)
        return start + (len(log) + 1) * 0.02

    pacer.schedule("a", start + 0.02, tick)
    loop.advance(now + 0.1)
    assert [round(at - start, 6) for at in log] == [round(0.02 * n, 6) for n in range(1, len(log) + 1)]
    assert len(log) >= 4


@pytest.mark.parametrize(("share", "busy"), [(0.97, True), (0.8, False)])
def test_it_looks_four_times_a_second_whether_the_loop_has_time_left(
    loop: Loop, share: float, busy: bool
) -> None:
    looks = list[float]()

    def wanted() -> float:
        looks.append(loop.now)
        return 5.0 + share * loop.now

    loop.now = 100.0
    pacer = Pacer(wanted)
    pacer.schedule("clock", 100.02, lambda now: now + 0.02)
    loop.advance(102.0)
    assert 7 <= len(looks) <= 9
    assert pacer.backlog.busy is busy


def test_what_is_put_off_by_a_number_of_slots_waits_for_nobody_else(loop: Loop) -> None:
    pacer, done = Pacer(), list[tuple[str, float]]()

    def put_off(name: str, slots: int) -> None:
        due = pacer.latest_slot(loop.now) + slots * SLOT_SECONDS
        pacer.schedule(name, due, lambda _: done.append((name, loop.now)))

    put_off("four", 4)
    loop.advance(0.007)
    put_off("later", 4)
    put_off("one", 1)
    loop.advance(1.0)
    assert done == [
        ("one", pytest.approx(2 * SLOT_SECONDS)),
        ("four", pytest.approx(4 * SLOT_SECONDS)),
        ("later", pytest.approx(5 * SLOT_SECONDS)),
    ]
