"""What the placement bench says of what it measured."""

from __future__ import annotations

import pytest
from placement_figures import PATHS, phase, quantile, summary, table, verdicts

CPU = {"operator": 0.2, "api": 1.0, "workers": 0.05}


def one_round(cr: float, p99_ms: float, lost: int = 0) -> dict:
    """A round with 100 sessions a path; the floor makes 100 a second."""
    rates = {"floor": 100.0, "cr": cr, "service": cr}
    latencies = [0.01] * (99 - lost) + [p99_ms / 1000] * 1
    return {
        name: {path: phase(latencies, 100, len(latencies) / rates[path], CPU) for path in PATHS}
        for name in ("idle", "burst", "half load")
    }


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
def test_goals_are_judged_by_the_median_round(rounds: list[dict], held: tuple[bool, ...]) -> None:
    result = summary(rounds)
    assert tuple(good for _, _, good in verdicts(result)) == held
    text = table(result)
    assert text.count("MISSED") == held.count(False)
    assert len([line for line in text.splitlines() if "SessionService  " in line]) == 3


def test_one_lost_session_of_any_round_is_told() -> None:
    assert summary([one_round(95, 50), one_round(95, 50, lost=2)])["lost"] == 2 * 9


def test_where_there_are_cores_for_it_the_api_server_is_measured_on_its_own() -> None:
    both = {**one_round(80, 50), "apart": one_round(97, 50)["burst"]}
    result = summary([both])
    assert result["rate_over_floor_apart"]["cr"] == {"median": 0.97, "rounds": [0.97]}
    assert [good for _, _, good in verdicts(result)] == [True, False, True, True]
    assert table(result).count("apart ") == 3
