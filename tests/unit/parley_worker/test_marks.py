"""Marks that are sent, come back, or never do."""

from __future__ import annotations

from parley_worker.core.events import MarkPlayed, PartSent
from parley_worker.core.marks import MAX_MARKS, Marks


def part(position_ms: float, epoch: int = 1) -> PartSent:
    return PartSent("item_1", 0, epoch, position_ms)


def test_a_mark_comes_back_once_and_tells_where_it_stood() -> None:
    marks = Marks()
    sent = marks.after(part(199.6))
    assert (sent.name, sent.position_ms) == ("m1", 199)
    assert marks.back(MarkPlayed("m1", 1)) == part(199.6)
    assert marks.back(MarkPlayed("m1", 1)) is None


def test_a_mark_of_another_epoch_tells_nothing_then_or_later() -> None:
    marks = Marks()
    marks.after(part(100))
    assert marks.back(MarkPlayed("m1", 2)) is None
    assert marks.back(MarkPlayed("m1", 1)) is None


def test_a_new_player_knows_no_old_mark_and_no_name_comes_twice() -> None:
    marks = Marks()
    marks.after(part(100))
    marks.forget()
    assert marks.back(MarkPlayed("m1", 1)) is None
    assert marks.after(part(200)).name == "m2"


def test_the_oldest_is_forgotten_where_nothing_comes_back() -> None:
    marks = Marks()
    for number in range(MAX_MARKS + 1):
        marks.after(part(number))
    assert marks.back(MarkPlayed("m1", 1)) is None
    assert marks.back(MarkPlayed("m2", 1)) == part(1)
