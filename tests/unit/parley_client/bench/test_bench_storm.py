"""A storm's bench: what is judged of its rounds, and how many calls the machine carries just then."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from parley_client.bench import storm
from parley_client.bench.histogram import Histogram
from parley_client.bench.scenario import Scenario, Storm
from parley_client.bench.storm_phases import Offered, Phase, judge
from parley_client.bench.systems import System, Variant
from parley_client.bench.windows import Machine, Point, Traffic, Window
from parley_client.errors import UsageError

Seen = float | tuple[float, str]
"""First audio's time in a window, with its mark where it has one."""


def phases(**given: list[Seen]) -> dict[str, Phase]:
    """Of three rounds with 5 ms in every window but those given."""
    found = {}
    for name in ("calm", "storm", "calm after the storm", "full", "overload", "full after the overload"):
        windows = []
        for seen in given.get(name.replace(" ", "_"), [5.0] * 3):
            late, *why = seen if isinstance(seen, tuple) else (seen,)
            traffic = Traffic(sessions=9, first=Histogram.of([late]))
            windows.append((Window(traffic, Machine(seconds=5.0, cpu_s=1.0)), tuple(why)))
        found[name] = Phase(name, 9, windows)
    return found


def judged(*, fits: bool = True, **given: list[Seen]) -> tuple[str, float | None]:
    """The verdict on the storm, and its ratio."""
    scenario = Scenario(storm=Storm(rounds=3))
    found = judge(phases(**given), [], scenario, fits=fits)
    assert found["verdicts"]["p99 in the overload"] == ("pass" if fits else "unknown (calm misses the SLO)")
    verdict = found["verdicts"]["p99 in the storm"]
    assert found["passed"] is (verdict != "fail")
    ratio = found["against_calm"]["storm"].get("first", {}).get("ratio")
    return verdict, ratio


def test_the_middle_one_of_the_rounds_is_judged() -> None:
    assert judged(storm=[5.5, 90.0, 5.5])[0] == "pass"
    assert judged(storm=[9.0, 5.0, 9.0])[0] == "fail"
    assert judged(storm=[5.9, 5.9, 5.9])[0] == "pass", "less than a millisecond more"


def test_a_round_is_compared_with_its_own_calm() -> None:
    # The machine is slower in the second round and the third: both of them slow down alike.
    verdict, ratio = judged(storm=[5.0, 20.0, 30.0], calm_after_the_storm=[5.0, 19.0, 29.0])
    assert (verdict, ratio) == ("pass", pytest.approx(1.04, rel=0.05))


def test_calm_of_fewer_calls_is_no_measure_of_a_storm() -> None:
    assert judged(calm=[90.0] * 3, storm=[9.0] * 3)[0] == "fail"


def test_rounds_that_were_disturbed_do_not_count() -> None:
    steal = (90.0, "steal")
    assert judged(storm=[steal, 5.5, 5.5])[0] == "pass"
    assert judged(storm=[9.0, 9.0, 5.5], calm_after_the_storm=[5.0, 5.0, (1.0, "steal")])[0] == "fail"
    assert judged(storm=[steal, steal, 5.5])[0] == "unknown (the machine was disturbed)"


def test_nobody_knows_what_a_storm_adds_where_calm_is_too_much() -> None:
    assert judged(fits=False, storm=[9.0] * 3)[0] == "unknown (calm misses the SLO)"


def test_offers_of_all_rounds_add_up() -> None:
    both = Offered(3, 2, Counter(FULL=1), [], [4.0], [1.0, 2.0])
    both.add(Offered(2, 0, Counter(FULL=1, DRAINING=1), [], [5.0, 6.0]))
    assert (both.offered, both.admitted, both.refused) == (5, 2, Counter(FULL=2, DRAINING=1))
    assert (both.refused_ms, both.clean) == ([4.0, 5.0, 6.0], True)
    both.add(Offered(1, failed=["call 7 broke"]))
    assert not both.clean


class Carrying:
    """Systems that carry so many sessions within the SLO, and what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sessions: int) -> None:
        self.carried, self.tried, self.places, self.said = sessions, list[int](), list[int](), list[str]()
        monkeypatch.setattr(storm, "measure", self._measure)

    @asynccontextmanager
    async def make(self, variant: Variant, *, capacity: int) -> AsyncIterator[Any]:
        self.places.append(capacity)
        yield SimpleNamespace(scenario=Scenario())

    async def _measure(self, system: System, sessions: int, note: Any) -> Point:
        self.tried.append(sessions)
        up = Histogram.of([5.0 if sessions <= self.carried else 50.0])
        traffic = Traffic(sessions=sessions, up=up, down=Histogram.of([0.0]))
        return Point(sessions, (Window(traffic, Machine(seconds=5.0)),), True)

    async def fit(self, capacity: int) -> tuple[int, bool]:
        return await storm.fit(cast(Any, self.make), cast(Any, None), capacity, self.said.append)


async def test_places_are_as_many_as_the_machine_carries_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    same = Carrying(monkeypatch, 100)
    assert (await same.fit(100), same.tried, same.said) == ((100, True), [100], [])
    slower = Carrying(monkeypatch, 90)
    assert (await slower.fit(100), slower.tried) == ((85, True), [100, 92, 85])
    assert slower.places == [100], "one worker serves all tries"
    assert slower.said[0] == "100 sessions miss the SLO when calm: up p99 50.0 ms > 10"


async def test_a_machine_that_carries_no_such_number_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    hopeless = Carrying(monkeypatch, 10)
    assert (await hopeless.fit(100))[1] is False
    assert len(hopeless.tried) == storm.TRIES


async def test_a_storm_needs_two_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Carrying(monkeypatch, 1)
    with pytest.raises(UsageError, match="--capacity 1: a storm needs"):
        await storm.run(cast(Any, nobody.make), cast(Any, None), 1, "here", nobody.said.append)
