"""When a connection is replaced: never too early, at a quiet moment, and in the end whatever goes on."""

from __future__ import annotations

import pytest
from parley_realtime.protocol.rotation import LAST_MARGIN, LONGEST_SESSION, RotationSchedule


def calm() -> bool:
    return True


def busy() -> bool:
    return False


def test_a_quiet_moment_is_looked_for_before_the_providers_limit() -> None:
    schedule = RotationSchedule()
    assert schedule.begin(100.0, 3600.0, 0.0, 120.0)
    assert schedule.next_look(100.0, 0.2) == 3580.0
    assert not schedule.due(3579.9, calm)
    assert schedule.due(3580.0, calm)
    assert not schedule.due(3580.0, busy)
    assert schedule.next_look(3581.0, 0.2) == 3581.2


def test_without_one_it_is_forced_shortly_before_the_limit_and_once() -> None:
    schedule = RotationSchedule()
    schedule.begin(0.0, 3600.0, 0.0, 120.0)
    last = 3600.0 - LAST_MARGIN
    assert not schedule.due(last - 0.1, busy)
    assert schedule.due(last, busy)
    assert schedule.forced(last)
    schedule.taken()
    assert not schedule.due(last, busy)


def test_a_short_session_keeps_most_of_its_time() -> None:
    schedule = RotationSchedule()
    schedule.begin(0.0, 10.0, 0.0, 120.0)
    assert not schedule.due(8.9, calm)
    assert schedule.due(9.0, calm)
    assert schedule.due(9.5, busy)


def test_what_is_wished_for_comes_first_if_it_is_sooner() -> None:
    schedule = RotationSchedule()
    schedule.begin(0.0, 3600.0, 600.0, 120.0)
    assert schedule.next_look(0.0, 0.2) == 600.0
    schedule.begin(0.0, 3600.0, 7200.0, 120.0)
    assert schedule.next_look(0.0, 0.2) == 3480.0


@pytest.mark.parametrize("remaining", [0.0, -5.0, LONGEST_SESSION + 1])
def test_a_limit_that_is_unknown_or_absurd_is_none(remaining: float) -> None:
    schedule = RotationSchedule()
    assert not schedule.begin(0.0, remaining, 0.0, 120.0)
    assert schedule.next_look(0.0, 0.2) is None
    assert not schedule.due(1e9, calm)


def test_tries_that_fail_wait_ever_longer_up_to_a_bound_and_a_new_connection_forgets_them() -> None:
    schedule = RotationSchedule()
    schedule.begin(0.0, 0.0, 1.0, 0.0)
    waits = []
    for _ in range(9):
        schedule.failed(10.0, 0.5, 0.25)
        found = schedule.next_look(10.0, 0.5)
        assert found is not None
        waits.append(found - 10.0)
    assert waits[:3] == [1.25, 2.25, 4.25]
    assert waits[-1] == waits[-2] == 32.25
    assert not schedule.due(42.2, calm)
    schedule.begin(50.0, 0.0, 1.0, 0.0)
    assert schedule.due(51.0, calm)
