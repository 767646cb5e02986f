"""Which conversation events a caller is told."""

from __future__ import annotations

import pytest
from parley_worker.core.event_filter import EventFilter, objection


@pytest.mark.parametrize(
    ("patterns", "kind", "told"),
    [
        ((), "response.done", True),
        (("none",), "response.done", False),
        (("response.done",), "response.done", True),
        (("response.done",), "response.done.more", False),
        (("conversation.item.*",), "conversation.item.created", True),
        (("conversation.item.*",), "conversation.items", False),
        (("conversation.item.*", "error"), "error", True),
        (("conversation.item.*", "error"), "response.created", False),
    ],
)
def test_told_are_types_and_beginnings(patterns: tuple[str, ...], kind: str, *, told: bool) -> None:
    hears = EventFilter(patterns)
    assert [hears.wants(kind), hears.wants(kind)] == [told, told]


def test_types_that_a_provider_makes_up_are_not_remembered_without_end() -> None:
    hears = EventFilter(("error",))
    for number in range(1000):
        assert not hears.wants(f"made.up.{number}")
    assert len(hears._known) <= 256
    assert hears.wants("error")


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        (["none", "error"], "none beside others"),
        (["*"], "'*'"),
        (["response..done"], "'response..done'"),
        (["Response.Done"], "'Response.Done'"),
        ([""], "''"),
        (["a" * 129], "aaa"),
        (["a"] * 65, "65 entries"),
    ],
)
def test_what_is_wrong_is_named(patterns: list[str], named: str) -> None:
    assert named in objection(patterns)


def test_nothing_is_wrong_with_good_ones() -> None:
    assert not objection(["response.done", "conversation.item.*", "error"])
    assert not objection(["none"])
    assert not objection([])
