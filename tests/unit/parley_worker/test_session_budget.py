"""What a session may take of its shard, in virtual time."""

from __future__ import annotations

import pytest
from parley_worker.core.model import EndReason
from parley_worker.core.session_budget import (
    BURST_SECONDS,
    CPU_WINDOW,
    BudgetLimits,
    BudgetName,
    SessionBudget,
    SlidingShare,
)

LIMITS = BudgetLimits()


def test_a_share_forgets_what_is_older_than_its_window() -> None:
    share = SlidingShare(10.0)
    for second in range(20):
        share.add(0.1, 100.0 + second)
    assert share.spent == pytest.approx(1.0)
    assert share.add(0.0, 124.5) == pytest.approx(0.5, abs=0.11)
    assert share.add(0.0, 500.0) == 0.0


def test_a_share_is_the_sum_of_its_window_to_a_tenth() -> None:
    share, spent = SlidingShare(10.0), []
    for step in range(3000):
        now = 50.0 + step * 0.037
        amount = (step % 7) * 0.001
        spent.append((now, amount))
        total = share.add(amount, now)
        assert total <= sum(a for at, a in spent if at > now - 10.0) + 1e-9
        assert total >= sum(a for at, a in spent if at > now - 9.0) - 1e-9


def test_cpu_in_bursts_is_allowed_and_for_long_is_not() -> None:
    budget = SessionBudget(LIMITS)
    assert budget.handled(LIMITS.cpu_share * CPU_WINDOW * 0.99, 0, 100.0) is None
    assert budget.handled(0.01, 0, 100.0 + CPU_WINDOW * 1.2) is None
    over = [budget.handled(0.3, 0, 200.0 + second) for second in range(20)]
    (first,) = [overrun for overrun in over if overrun is not None]
    assert (first.budget, first.reason) == (BudgetName.CPU, EndReason.QUOTA_EXCEEDED)
    assert "PARLEY_WORKER_SESSION_CPU_SHARE" in first.message
    assert not first.by_provider


def test_the_heaviest_honest_session_is_within_every_budget() -> None:
    """Three minutes of answer at once in 20 ms deltas, tools and words beside it, frames of 10 ms."""
    budget, now = SessionBudget(LIMITS), 100.0
    for _ in range(180 * 50):
        assert budget.provider_audio(960, now) is None
    for _ in range(600):
        assert budget.provider_event(now) is None
    for step in range(60_000):
        now += 0.01
        assert budget.caller_frames(now, 1) is None
        if step % 5 == 0:
            assert budget.provider_audio(2880, now) is None
            assert budget.handled(0.0005, 9 << 20, now) is None
        if step % 10 == 0:
            assert budget.provider_event(now) is None
            assert budget.caller_message(now) is None
    assert budget.overrun is None


@pytest.mark.parametrize(
    ("name", "rate", "reason"),
    [
        ("provider_event", LIMITS.provider_events, EndReason.PROVIDER_PROTOCOL_ERROR),
        ("caller_message", LIMITS.caller_messages, EndReason.QUOTA_EXCEEDED),
    ],
)
def test_a_rate_may_be_had_at_once_for_a_while(name: str, rate: float, reason: EndReason) -> None:
    budget = SessionBudget(LIMITS)
    take = getattr(budget, name)
    allowed = round(rate * BURST_SECONDS)
    assert all(take(100.0) is None for _ in range(allowed))
    overrun = take(100.0)
    assert overrun is not None
    assert overrun.reason is reason
    assert overrun.by_provider == (reason is EndReason.PROVIDER_PROTOCOL_ERROR)
    assert take(100.0) is None
    assert budget.overrun is overrun


def test_audio_of_the_provider_counts_in_bytes_and_in_chunks() -> None:
    budget = SessionBudget(LIMITS)
    overruns = [budget.provider_audio(0, 100.0) for _ in range(20_000)]
    (chunks,) = [o for o in overruns if o is not None]
    assert chunks.budget is BudgetName.PROVIDER_EVENTS
    budget = SessionBudget(LIMITS)
    overruns = [budget.provider_audio(1 << 20, 100.0) for _ in range(30)]
    (size,) = [o for o in overruns if o is not None]
    assert size.budget is BudgetName.PROVIDER_AUDIO


def test_bytes_that_wait_have_one_bound() -> None:
    budget = SessionBudget(LIMITS)
    assert budget.handled(0.0, LIMITS.queue_bytes, 1.0) is None
    overrun = budget.handled(0.0, LIMITS.queue_bytes + 1, 1.0)
    assert overrun is not None
    assert overrun.budget is BudgetName.QUEUE
