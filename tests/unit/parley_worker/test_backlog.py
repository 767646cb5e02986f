"""When frames of callers gather: on a busy shard all over which callers are late, and never else."""

from __future__ import annotations

import random

import pytest
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.backlog import LATE_SLOTS, VERY_LATE_SLOTS, Backlog, Delay
from parley_worker.core.media_path import InputPath

FRAME = 0.02
PCM24 = PROVIDER_FORMATS["pcm16"]


def delays(arrivals: list[float], numbers: list[int] | None = None) -> list[float]:
    """Of frames of 20 ms that come then."""
    path = InputPath(PCM24, PCM24, 10.0)
    found = []
    for number, at in zip(numbers or range(1, len(arrivals) + 1), arrivals, strict=True):
        assert isinstance(path.accept(bytes(960), number, at), bytes)
        found.append(path.delay.seconds)
    return found


def steady(count: int, start: float = 100.0, step: float = FRAME) -> list[float]:
    return [start + number * step for number in range(count)]


def test_a_caller_in_real_time_has_no_delay_and_one_that_is_held_up_has_it_until_it_caught_up() -> None:
    assert max(delays(steady(500))) < 0.001
    held = [*steady(50), *([101.14] * 8), *steady(50, 101.16)]
    found = delays(held)
    assert found[50] == pytest.approx(0.14, abs=0.01)
    assert found[-1] < 0.01


def test_a_backlog_that_grows_is_seen_and_one_that_stays_is_not_forgotten_soon() -> None:
    growing = [100.0 + number * FRAME * 1.1 for number in range(250)]
    found = delays(growing)
    assert found[-1] == pytest.approx(0.5, abs=0.06)
    staying = [*growing, *steady(250, growing[-1] + FRAME)]
    assert delays(staying)[-1] > 0.38


def test_a_caller_who_paused_or_whose_frames_get_lost_is_not_late() -> None:
    assert max(delays([*steady(100), *steady(100, 110.0)])) < 0.001
    chance = random.Random(7)
    numbers = [number for number in range(1, 3000) if chance.random() > 0.1]
    assert max(delays([100.0 + number * FRAME for number in numbers], numbers)) < 0.1
    assert delays([100.0 + number * FRAME for number in numbers], numbers)[-1] < 0.021


def test_a_first_burst_is_nobody_elses_delay() -> None:
    delay = Delay()
    delay.came(5.0, 0.0, FRAME)
    delay.came(5.0, FRAME, FRAME)
    assert delay.seconds < 0.001


def shard(delay: float, share: float = 0.97, frames: int = 2000) -> Backlog:
    backlog = Backlog()
    backlog.worked(share)
    for _ in range(frames):
        backlog.note(delay)
    return backlog


def test_frames_gather_the_longer_the_later_they_are() -> None:
    assert shard(0.01).slots == 0
    assert shard(0.1).slots == LATE_SLOTS
    assert shard(0.18).slots == VERY_LATE_SLOTS
    assert shard(9.0).delay == pytest.approx(0.2, abs=0.01)


def test_a_shard_with_time_left_gathers_nothing_however_late_its_callers_are() -> None:
    assert shard(0.15, 0.8).slots == 0


def test_one_caller_among_many_does_not_speak_for_all() -> None:
    backlog = shard(0.001)
    for number in range(10_000):
        backlog.note(5.0 if number % 100 == 0 else 0.001)
    assert backlog.slots == 0


def test_gathering_goes_on_until_the_shard_has_caught_up() -> None:
    backlog = shard(0.15)
    while backlog.delay > 0.01:
        assert backlog.note(0.0) > 0
    while backlog.delay > 0.004:
        backlog.note(0.0)
    assert backlog.slots == 0
    again = shard(0.15)
    again.worked(0.8)
    assert again.note(0.15) == 0
