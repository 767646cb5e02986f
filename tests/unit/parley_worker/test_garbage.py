"""When everything is looked through for garbage, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from parley_worker.core.garbage import (
    MAX_GROWTH_BYTES,
    MAX_SESSIONS,
    QUIET_SECONDS,
    WORTH_SESSIONS,
    CollectionPlan,
    Moment,
)
from parley_worker.runtime import garbage


@pytest.mark.parametrize(
    ("moment", "due"),
    [
        (Moment(ended=0, live=0, playing=0, growth_bytes=1 << 40), False),
        (Moment(ended=1, live=0, playing=0, growth_bytes=0), True),
        (Moment(ended=1, live=1, playing=0, growth_bytes=0), False),
        (Moment(ended=WORTH_SESSIONS, live=50, playing=0, growth_bytes=0), True),
        (Moment(ended=WORTH_SESSIONS, live=50, playing=1, growth_bytes=0), False),
        (Moment(ended=MAX_SESSIONS, live=50, playing=50, growth_bytes=0), True),
        (Moment(ended=1, live=50, playing=50, growth_bytes=MAX_GROWTH_BYTES), True),
    ],
)
def test_what_is_a_moment_for_it(moment: Moment, due: bool) -> None:
    assert CollectionPlan(100.0).due(moment, 100.0 + QUIET_SECONDS) is due


def test_quiet_moments_are_used_now_and_then_only() -> None:
    plan, quiet = CollectionPlan(0.0), Moment(ended=1, live=0, playing=0, growth_bytes=0)
    done = [now for now in range(1, 301) if plan.due(quiet, float(now))]
    assert done == [30 * n for n in range(1, 11)]


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Knot:
    """Refers to itself."""

    def __init__(self, freed: list[str]) -> None:
        self.itself = self
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append("freed")


def test_old_garbage_waits_for_its_moment(thresholds: None) -> None:
    counts = {"ended": 0, "live": 1, "playing": 1}
    freed: list[str] = []
    took: list[float] = []
    garbage.settle()
    keeper = garbage.GarbageKeeper(
        lambda: counts["ended"], lambda: counts["live"], lambda: counts["playing"], took.append
    )
    knot = Knot(freed)
    gc.collect(1)
    gc.collect(1)
    del knot
    for _ in range(200_000):
        _ = [object()]
    assert freed == []
    counts["ended"] = 5
    assert not keeper.look(1e12)
    counts["live"] = 0
    assert keeper.look(1e12 + 60)
    assert freed == ["freed"]
    assert len(took) == 1
    assert not keeper.look(1e12 + 600)
