"""Who begins next, in virtual time."""

from __future__ import annotations

import pytest
from parley_worker.core.turnstile import AT_ONCE, Spread, Turnstile


def let_in(stile: Turnstile[str], now: float, until: float) -> list[tuple[float, str]]:
    """Who goes in and when, asked whenever the turnstile says so."""
    entered = []
    while now <= until and (found := stile.next(now)) is not None:
        if isinstance(found, float):
            assert found > 0
            now += found
        else:
            entered.append((now, found))
    return entered


def test_a_hundred_at_once_begin_one_after_the_other() -> None:
    stile: Turnstile[str] = Turnstile(30.0, 1000)
    for number in range(100):
        stile.ask("", f"s{number}")
    entered = let_in(stile, 50.0, 100.0)
    assert [who for _, who in entered] == [f"s{number}" for number in range(100)]
    assert [at for at, _ in entered[:AT_ONCE]] == [50.0] * AT_ONCE
    assert entered[-1][0] == pytest.approx(50.0 + (100 - AT_ONCE) / 30, abs=0.01)
    for at, _ in entered:
        assert sum(at <= other < at + 1.0 for other, _ in entered) <= 30 + AT_ONCE
    assert stile.waiting == 0


def test_groups_take_turns() -> None:
    stile: Turnstile[str] = Turnstile(10.0, 1000)
    for number in range(50):
        stile.ask("many", f"many {number}")
    stile.ask("few", "few")
    entered = [who for _, who in let_in(stile, 0.0, 100.0)]
    assert entered.index("few") == 1


def test_a_group_that_never_leaves_holds_up_itself_alone() -> None:
    stile: Turnstile[str] = Turnstile(1000.0, 8)
    for number in range(100):
        stile.ask("dead", f"dead {number}")
    assert len(let_in(stile, 0.0, 1.0)) == 4
    for number in range(100):
        stile.ask("alive", f"alive {number}")
    now, entered = 1.0, 0
    while entered < 100:
        now += 1.0
        for _, who in let_in(stile, now, now + 1.0):
            assert who.startswith("alive")
            entered += 1
            stile.leave("alive")
        assert stile.inside <= 8
    assert stile.waiting == 96
    stile.leave("dead")
    assert [who for _, who in let_in(stile, now + 1, now + 2)] == ["dead 4"]


def test_who_is_gone_is_forgotten() -> None:
    stile: Turnstile[str] = Turnstile(1.0, 1)
    for who in ("a", "b", "c"):
        stile.ask("g", who)
    stile.forget("g", "b")
    stile.forget("g", "unknown")
    stile.forget("unknown", "b")
    assert stile.next(0.0) == "a"
    assert stile.next(100.0) is None
    stile.leave("g")
    assert stile.next(100.0) == "c"
    stile.leave("g")
    assert stile.next(200.0) is None
    assert (stile.waiting, stile.inside) == (0, 0)


def test_moments_lie_apart_however_they_are_asked_for() -> None:
    spread = Spread(20.0)
    moments = [100.0 + spread.wait(100.0) for _ in range(200)]
    assert moments[0] == 100.0
    assert moments == pytest.approx([100.0 + n / 20 for n in range(200)])
    assert spread.wait(500.0) == 0.0
    assert spread.wait(500.01) == pytest.approx(0.04)
