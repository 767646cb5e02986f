"""What gives a silent watch away, and what does not."""

from __future__ import annotations

import asyncio

import virtual_time
from parley_operator.api.constants import SESSION
from parley_operator.domain.watches import WatchHealth
from parley_operator.handlers.watch_keeper import WatchKeeper
from reconcile_plane import PROVIDER, Plane

KIND, OTHER = "VoiceSession", "Pod"


def test_a_quiet_watch_owes_nothing() -> None:
    watches = WatchHealth((KIND, OTHER))
    assert watches.oldest(1e9) == ("", 0.0)
    watches.counted(KIND, 5, 5, 10.0)
    assert watches.age(KIND, 1e9) == 0.0


def test_a_write_of_ours_is_owed_until_the_watch_tells_something_as_new() -> None:
    watches = WatchHealth((KIND, OTHER))
    watches.written(KIND, "100", 10.0)
    watches.written(KIND, "120", 30.0)
    watches.heard(KIND, "99")
    watches.heard(OTHER, "500")
    assert watches.oldest(40.0) == (KIND, 30.0)
    watches.heard(KIND, "100")
    assert watches.age(KIND, 40.0) == 0.0


def test_an_event_that_was_faster_than_the_answer_leaves_no_debt() -> None:
    watches = WatchHealth((KIND,))
    watches.heard(KIND, "100")
    watches.written(KIND, "100", 10.0)
    assert watches.oldest(99.0) == ("", 0.0)


def test_a_count_that_differs_is_owed_until_it_fits_or_the_watch_speaks() -> None:
    watches = WatchHealth((KIND,))
    watches.counted(KIND, 6, 5, 10.0)
    watches.counted(KIND, 7, 5, 25.0)
    assert watches.age(KIND, 30.0) == 20.0
    watches.counted(KIND, 5, 5, 40.0)
    assert watches.age(KIND, 40.0) == 0.0
    watches.counted(KIND, 6, 5, 50.0)
    watches.heard(KIND, "3")
    assert watches.age(KIND, 60.0) == 0.0


def test_a_list_of_ours_does_not_speak_for_the_watch() -> None:
    watches = WatchHealth((KIND,))
    watches.counted(KIND, 6, 5, 10.0)
    watches.relisted()
    watches.counted(KIND, 6, 6, 40.0)
    assert watches.age(KIND, 70.0) == 60.0
    watches.heard(KIND, "7")
    assert watches.age(KIND, 70.0) == 0.0


def test_what_is_not_watched_is_not_owed() -> None:
    watches = WatchHealth((KIND,))
    watches.written("Secret", "9", 1.0)
    watches.counted("Secret", 1, 2, 1.0)
    assert watches.oldest(99.0) == ("", 0.0)


def test_a_blind_watch_is_noticed_by_counting_and_helped_out_by_lists() -> None:
    async def case() -> None:
        plane, lists = Plane(), 0
        loop = asyncio.get_running_loop()
        plane.clock.monotonic = loop.time  # type: ignore[method-assign]
        there = 3

        async def count(kind: str) -> int:
            return there if kind == SESSION else 0

        async def relist() -> None:
            nonlocal lists
            lists += 1
            for number in range(there):
                await plane.apply(SESSION, f"s{number}", {"agent": {"provider": PROVIDER}})

        keeper = WatchKeeper(plane.context, count, relist)
        started = asyncio.Event()
        running = asyncio.create_task(keeper.run(started))
        await asyncio.sleep(100)
        assert lists == 0
        started.set()
        await asyncio.sleep(90)
        # Noticed after the first count, listed anew after 20 s and again every 20 s while nothing is heard.
        assert 3 <= lists <= 4
        assert plane.context.watches.oldest(loop.time())[1] > 60
        page = plane.context.metrics.render().decode()
        assert 'parley_operator_watch_age_seconds{kind="VoiceSession"} 7' in page
        keeper.heard(SESSION, {"metadata": {"resourceVersion": "12345"}})
        await asyncio.sleep(30)
        assert plane.context.watches.oldest(loop.time()) == ("", 0.0)
        assert 3 <= lists <= 4
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(case())
