"""Selectors, placement and quotas as they are written."""

from __future__ import annotations

from typing import Any

import pytest
from parley_operator.api.fields import FieldError
from parley_operator.api.placement import PlacementSpec, QuotaSpec, SelectorSpec
from parley_operator.api.v1alpha1 import PoolRef, parse_pool_spec, parse_session_spec
from parley_operator.domain.placement.demand import PoolRules
from parley_operator.domain.placement.refusals import MOST, Refusal, Refusals

AGENT = {"agentRef": {"name": "a"}}


def test_what_is_left_out() -> None:
    session, pool = parse_session_spec(AGENT), parse_pool_spec({})
    assert (session.pool, session.selectors) == (PoolRef("default", ""), ())
    assert (pool.placement, pool.quotas) == (PlacementSpec("Packed", ()), ())


def test_what_is_given() -> None:
    labels = {"b.example/tier": "gold", "a": ""}
    selectors = [{"zone": "z1"}, {"pool": {"name": "gpu", "namespace": "n"}, "matchLabels": labels}, {}]
    assert parse_session_spec({**AGENT, "selectors": selectors}).selectors == (
        SelectorSpec(zone="z1"),
        SelectorSpec(PoolRef("gpu", "n"), (("a", ""), ("b.example/tier", "gold"))),
        SelectorSpec(),
    )
    pool = parse_pool_spec(
        {
            "placement": {"policy": "Spread", "zones": ["z2", "z1"]},
            "quotas": [
                {"namespace": "shop", "maxSessions": 0, "weight": 5, "whenExceeded": "Refuse"},
                {"namespace": "*", "maxSessions": 20},
            ],
        }
    )
    assert pool.placement == PlacementSpec("Spread", ("z2", "z1"))
    assert pool.quotas == (QuotaSpec("shop", 0, 5, True), QuotaSpec("*", 20))


@pytest.mark.parametrize(
    ("selectors", "words"),
    [
        ([], "spec.selectors: is empty"),
        ([{}] * 9, "spec.selectors: has 9 items; at most 8"),
        (["x"], "spec.selectors[0]: must be an object"),
        ([{}, {"labels": {}}], "spec.selectors[1].labels: is not a known field"),
        ([{"pool": {"name": "A b"}}], "spec.selectors[0].pool.name: 'A b' is not a name"),
        ([{"zone": "a/b"}], "spec.selectors[0].zone: 'a/b' is not a zone"),
        ([{"matchLabels": {"a b": "x"}}], "spec.selectors[0].matchLabels: 'a b' is not the key"),
        ([{"matchLabels": {"a": "x y"}}], "spec.selectors[0].matchLabels.a: 'x y' is not the value"),
        ([{"matchLabels": {"a": 5}}], "spec.selectors[0].matchLabels.a: 5 is not the value"),
        ([{"matchLabels": {f"l{n}": "" for n in range(17)}}], "has 17 labels; at most 16"),
    ],
)
def test_bad_selectors(selectors: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_session_spec({**AGENT, "selectors": selectors})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"placement": {"policy": "Random"}}, "spec.placement.policy: 'Random' is not supported"),
        ({"placement": {"zones": ["a", "a"]}}, "spec.placement.zones: names a zone twice"),
        ({"placement": {"zones": ["-"]}}, "spec.placement.zones[0]: '-' is not a zone"),
        ({"quotas": [{}]}, "spec.quotas[0].namespace: is required"),
        ({"quotas": [{"namespace": "A"}]}, "spec.quotas[0].namespace: 'A' is no namespace"),
        (
            {"quotas": [{"namespace": "a"}, {"namespace": "a"}]},
            "spec.quotas[1].namespace: 'a' is named twice",
        ),
        ({"quotas": [{"namespace": "a", "maxSessions": -1}]}, "spec.quotas[0].maxSessions: is -1"),
        ({"quotas": [{"namespace": "a", "weight": 0}]}, "spec.quotas[0].weight: is 0"),
        ({"quotas": [{"namespace": "a", "whenExceeded": "Beg"}]}, "whenExceeded: 'Beg' is not supported"),
    ],
)
def test_bad_pools(spec: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_pool_spec(spec)
    assert words in str(caught.value)


def test_the_entry_of_a_namespace_comes_before_that_for_all() -> None:
    own, rest = QuotaSpec("shop", weight=2), QuotaSpec("*", 3)
    rules = PoolRules(quotas={"shop": own, "*": rest})
    assert (rules.quota("shop"), rules.quota("other")) == (own, rest)
    assert PoolRules().quota("other").most is None


def test_refusals_are_bounded_and_each_is_told_once() -> None:
    found = Refusals()
    assert str(found) == ""
    for _ in range(3):
        found = found.add(Refusal("a", "Full", "20 of 20"))
    assert str(found) == "refused 3 times: a said Full (20 of 20)"
    for number in range(50):
        found = found.add(Refusal(f"w{number}", "Overloaded", "x" * 500))
    assert (len(found.latest), found.count) == (MOST, 53)
    assert len(str(found)) < 700
