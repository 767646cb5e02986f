"""What the placement bench says of what it measured."""

from __future__ import annotations

import pytest
from placement_figures import PATHS, Phase, Round, phase, quantile, summary, table, verdicts

CPU = {"operator": 0.2, "api": 1.0, "workers": 0.05}


def one_round(cr: float, p99_ms: float, lost: int = 0) -> Round:
    """A round with 100 sessions a path, two bursts; the floor makes 100 a second."""
    rates = {"floor": 100.0, "cr": cr, "service": cr}
    latencies = [0.01] * (99 - lost) + [p99_ms / 1000] * 1

    def measured(path: str) -> Phase:
        return phase(latencies, 100, len(latencies) / rates[path], CPU)

    every = {path: measured(path) for path in PATHS}
    pair = {path: measured(path) for path in ("floor", "cr")}
    return Round(every, [pair, pair], every["service"], every)


def test_quantiles_are_of_what_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([], 0.5)) == (50.0, 99.0, 0.0)
    assert quantile([7.0], 0.99) == 7.0


def test_a_phase_has_costs_by_session_and_counts_the_lost() -> None:
    found = phase([0.01, 0.03], 3, 0.5, CPU)
    assert (found.made, found.lost, found.rate) == (3, 1, 4.0)
    assert (found.operator_cpu, found.api_cpu, found.workers_cpu) == (100.0, 500.0, 25.0)
    assert phase([], 2, 0.0, CPU).lost == 2


@pytest.mark.parametrize(
    ("rounds", "held"),
    [
        ([one_round(95, 50), one_round(91, 60), one_round(70, 500)], (True, True, True)),
        ([one_round(89, 50)], (False, True, True)),
        ([one_round(95, 50, lost=1)], (True, True, False)),
    ],
)
def test_goals_are_judged_by_the_median_round(rounds: list[Round], held: tuple[bool, ...]) -> None:
    result = summary(rounds)
    assert tuple(good for _, _, good in verdicts(result)) == held
    text = table(result)
    assert text.count("MISSED") == held.count(False)
    assert len([line for line in text.splitlines() if "SessionService  " in line]) == 3


def test_one_lost_session_of_any_round_is_told() -> None:
    assert summary([one_round(95, 50), one_round(95, 50, lost=2)])["lost"] == 2 * (3 + 5 + 3)


def test_only_bursts_that_followed_each_other_are_compared() -> None:
    """The machine's speed changes: the median of the pairs tells more than the ratio of the medians."""
    one = one_round(100, 50)
    slow = {path: phase([0.01] * 100, 100, seconds, CPU) for path, seconds in (("floor", 4.0), ("cr", 4.2))}
    fast = {path: phase([0.01] * 100, 100, seconds, CPU) for path, seconds in (("floor", 1.0), ("cr", 1.1))}
    one.bursts = [slow, fast, slow]
    assert summary([one])["rate_over_floor"]["cr"] == {"median": 0.952, "pairs": [0.952, 0.909, 0.952]}
    assert one.rate("floor") == 25.0
