"""Frames that came at once, handled in several turns, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

from parley_realtime.client.turns import GAP_SECONDS, MAX_BYTES, SLICE_SECONDS, Turns


class Loop:
    """A loop whose turns the test takes, and a handler that needs `cost` seconds for a frame."""

    def __init__(self, cost: float) -> None:
        self.now = 100.0
        self.cost = cost
        self.soon: list[Callable[[], None]] = []
        self.handled: list[bytes] = []
        self.turns = Turns(self._handle, self.soon.append, lambda: self.now)

    def _handle(self, frame: bytes) -> None:
        self.now += self.cost
        self.handled.append(frame)

    def turn(self) -> float:
        """One turn; gives how long it took."""
        began = self.now
        calls, self.soon[:] = self.soon[:], []
        for call in calls:
            call()
        return self.now - began


def frames(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_a_thousand_frames_of_one_read_hold_up_nobody() -> None:
    loop = Loop(cost=0.0001)
    for frame in frames(1000):
        loop.turns.put(frame)
    assert loop.now - 100.0 <= SLICE_SECONDS + loop.cost
    assert loop.turns.bytes > 0
    longest, turns = 0.0, 0
    while loop.soon:
        longest, turns = max(longest, loop.turn()), turns + 1
    assert longest <= SLICE_SECONDS + loop.cost + 1e-9
    assert turns >= 40
    assert loop.handled == frames(1000)
    assert loop.turns.bytes == 0


def test_frames_apart_are_handled_at_once() -> None:
    loop = Loop(cost=0.001)
    for frame in frames(100):
        loop.turns.put(frame)
        loop.now += GAP_SECONDS * 2
    assert loop.handled == frames(100)
    assert not loop.soon


def test_what_comes_while_some_wait_comes_after_them() -> None:
    loop = Loop(cost=0.0015)
    for frame in frames(4):
        loop.turns.put(frame)
    loop.turn()
    loop.now += 1.0
    loop.turns.put(b"last")
    while loop.soon:
        loop.turn()
    assert loop.handled == [*frames(4), b"last"]


def test_the_end_comes_after_what_waits() -> None:
    loop, ends = Loop(cost=0.0015), list[int]()
    for frame in frames(6):
        loop.turns.put(frame)
    loop.turns.finish(lambda: ends.append(len(loop.handled)))
    while loop.soon:
        loop.turn()
    assert ends == [6]
    loop.turns.finish(lambda: ends.append(0))
    assert ends == [6, 0]


def test_more_than_may_wait_is_handled_at_once() -> None:
    loop = Loop(cost=0.003)
    for _ in range(100):
        loop.turns.put(bytes(1 << 20))
        assert loop.turns.bytes <= MAX_BYTES
    assert len(loop.handled) >= 100 - MAX_BYTES // (1 << 20)


def test_what_waits_can_be_forgotten() -> None:
    loop = Loop(cost=0.003)
    for frame in frames(10):
        loop.turns.put(frame)
    loop.turns.clear()
    while loop.soon:
        loop.turn()
    assert loop.handled == frames(1)
    loop.now += 1.0
    loop.turns.put(b"next")
    assert loop.handled[-1] == b"next"


def test_frames_that_are_gathered_wait_for_the_call() -> None:
    calls: list[Callable[[], None]] = []
    handled: list[bytes] = []
    over: list[bool] = []
    gather = calls.append
    turns = Turns(handled.append, calls.append, gather=gather)
    for frame in frames(3):
        turns.put(frame)
    turns.finish(lambda: over.append(True))
    assert (handled, over, len(calls)) == ([], [], 1)
    calls.pop()()
    assert handled == frames(3)
    assert over == [True]
    turns.put(b"next")
    turns.clear()
    calls.pop()()
    assert handled == frames(3)
