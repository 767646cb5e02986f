"""What waits for a watcher comes in order, together where it may."""

from __future__ import annotations

from typing import Any

from parley_worker.runtime.watching import Watcher


async def test_reports_come_together_and_then_once_that_the_worker_changed() -> None:
    watcher = Watcher(16)
    reports: list[Any] = [object() for _ in range(6)]
    for change in (*reports[:3], None, *reports[3:5], None, reports[5], None):
        watcher.put(change)
    assert await watcher.next(0.1, 2) == reports[:2]
    assert await watcher.next(0.1, 64) == reports[2:]
    assert await watcher.next(3600, 64) == []
    assert await watcher.next(0, 64) == []
    for change in (None, reports[0]):
        watcher.put(change)
    assert [await watcher.next(0.1, 64), await watcher.next(0.1, 64)] == [[], reports[:1]]


async def test_one_by_one_where_nothing_else_is_asked_for() -> None:
    watcher = Watcher(2)
    reports: list[Any] = [object(), object()]
    for report in reports:
        watcher.put(report)
    assert [await watcher.next(0.1), await watcher.next(0.1)] == [[reports[0]], [reports[1]]]
    for report in (*reports, None):
        watcher.put(report)
    assert watcher.overflowed
