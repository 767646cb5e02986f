"""A rate with a burst, in virtual time."""

from __future__ import annotations

from parley_worker.core.budget import Budget


def test_a_burst_and_then_the_rate() -> None:
    budget = Budget(rate=10, burst=3)
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.take(100.05)
    assert budget.take(100.16)
    assert not budget.take(100.16)


def test_what_is_not_used_adds_up_to_the_burst_only() -> None:
    budget = Budget(rate=10, burst=3)
    budget.take(100.0)
    assert [budget.take(1000.0) for _ in range(4)] == [True, True, True, False]
