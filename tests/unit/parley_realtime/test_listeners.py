"""Registration and dispatch rules, without a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_realtime import RealtimeAPIEvents, RealtimeEvent, ScenarioError, UnknownEventError, beta
from parley_realtime.client.dispatch import Dispatcher
from parley_realtime.client.listeners import HandlerRules, Listeners, handler_name
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.ga import GA

DONE = RealtimeAPIEvents.ResponseDone


def event(name: str = DONE) -> RealtimeEvent[None, Any]:
    return RealtimeEvent(name, None, {"payload": {}})


async def test_sync_and_async_run_in_order() -> None:
    order: list[str] = []

    async def slow(_: Any) -> None:
        await asyncio.sleep(0)
        order.append("slow")

    listeners = Listeners(GA)
    listeners.add(DONE, slow)
    listeners.add(DONE, lambda _: order.append("quick"))
    await listeners.dispatch(event())
    assert order == ["slow", "quick"]


async def test_a_duplicate_is_called_once() -> None:
    class Scenario:
        calls = 0

        def on_done(self, _: Any) -> None:
            self.calls += 1

    scenario, listeners = Scenario(), Listeners(GA)
    listeners.add(DONE, scenario.on_done)
    listeners.add(DONE, scenario.on_done)
    await listeners.dispatch(event())
    assert scenario.calls == 1
    listeners.remove(DONE, scenario.on_done)
    await listeners.dispatch(event())
    assert scenario.calls == 1


async def test_removal_during_dispatch() -> None:
    order: list[str] = []
    listeners = Listeners(GA)

    def second(_: Any) -> None:
        order.append("second")

    def first(_: Any) -> None:
        order.append("first")
        listeners.remove(DONE, second)
        listeners.remove(DONE, first)

    for callback in (first, second, lambda _: order.append("third")):
        listeners.add(DONE, callback)
    await listeners.dispatch(event())
    await listeners.dispatch(event())
    assert order == ["first", "third", "third"]


async def test_added_during_dispatch_is_called_from_the_next_event_on() -> None:
    order: list[str] = []
    listeners = Listeners(GA)

    def late(_: Any) -> None:
        order.append("late")

    listeners.add(DONE, lambda _: listeners.add(DONE, late))
    await listeners.dispatch(event())
    assert order == []
    await listeners.dispatch(event())
    assert order == ["late"]


async def test_remove_all_and_remove_what_is_not_there() -> None:
    calls: list[int] = []
    listeners = Listeners(GA)
    listeners.remove(DONE)
    listeners.remove(DONE, print)
    listeners.add(DONE, lambda _: calls.append(1))
    listeners.add(DONE, lambda _: calls.append(2))
    listeners.remove(DONE)
    await listeners.dispatch(event())
    assert calls == []


@pytest.mark.parametrize("thing", [None, 7, "function", {"call": "me"}, [print]])
async def test_no_function_is_taken_and_fails_at_dispatch(thing: object) -> None:
    listeners = Listeners(GA)
    listeners.add(DONE, thing)
    with pytest.raises(
        ScenarioError, match=f"listener of OpenAI.RealtimeAPI.ResponseDone is a {type(thing).__name__}"
    ):
        await listeners.dispatch(event())


async def test_no_function_can_be_removed_again() -> None:
    listeners, thing = Listeners(GA), {"call": "me"}
    listeners.add(DONE, thing)
    listeners.remove(DONE, thing)
    await listeners.dispatch(event())


async def test_a_raise_is_a_scenario_error_with_its_cause() -> None:
    listeners = Listeners(GA)
    listeners.add(DONE, lambda _: {}["missing"])
    with pytest.raises(ScenarioError, match="raised KeyError") as caught:
        await listeners.dispatch(event())
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.reason == "ScenarioFailed"


async def test_a_listener_that_does_not_end() -> None:
    listeners = Listeners(GA, HandlerRules(timeout=0.01))
    listeners.add(DONE, lambda _: asyncio.Event().wait())
    with pytest.raises(ScenarioError, match=r"listener .*test_a_listener_that_does_not_end.* did not end within"):
        await listeners.dispatch(event())


async def test_a_listener_that_waits_for_something_cancelled() -> None:
    async def waits(_: Any) -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    listeners = Listeners(GA)
    listeners.add(DONE, waits)
    with pytest.raises(ScenarioError, match="was cancelled by something"):
        await listeners.dispatch(event())


async def test_a_dispatch_that_is_cancelled_is_no_scenario_error() -> None:
    listeners = Listeners(GA)
    listeners.add(DONE, lambda _: asyncio.Event().wait())
    dispatch = asyncio.create_task(listeners.dispatch(event()))
    await asyncio.sleep(0)
    dispatch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dispatch


async def test_a_listeners_own_timeout_is_not_ours() -> None:
    async def gives_up(_: Any) -> None:
        raise TimeoutError("mine")

    listeners = Listeners(GA)
    listeners.add(DONE, gives_up)
    with pytest.raises(ScenarioError, match="raised TimeoutError: mine"):
        await listeners.dispatch(event())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("response.done", "OpenAI.RealtimeAPI.ResponseDone"),
        ("OpenAI.RealtimeAPI.ResponseDnoe", "did you mean 'OpenAI.RealtimeAPI.ResponseDone'"),
        ("SessionCreated", "did you mean 'OpenAI.RealtimeAPI.SessionCreated'"),
        ("OpenAI.Beta.RealtimeAPI.SessionCreated", "did you mean 'OpenAI.RealtimeAPI.SessionCreated'"),
        ("WebSocketMediaEndet", "did you mean 'OpenAI.Events.WebSocketMediaEnded'"),
        ("zzz", "see RealtimeAPIEvents"),
    ],
)
def test_a_name_that_never_fires_is_refused(name: str, hint: str) -> None:
    listeners = Listeners(GA)
    with pytest.raises(UnknownEventError, match=hint):
        listeners.add(name, print)
    with pytest.raises(UnknownEventError, match=hint):
        listeners.remove(name)


def test_each_shape_knows_its_own_names() -> None:
    for name in [*beta.RealtimeAPIEvents, *beta.Events]:
        Listeners(BETA).add(name, print)
    with pytest.raises(UnknownEventError):
        Listeners(BETA).add(RealtimeAPIEvents.ConversationItemAdded, print)


async def test_a_flood_fails_the_scenario_only_where_somebody_listens() -> None:
    listeners, failed = Listeners(GA), list[ScenarioError]()
    dispatcher = Dispatcher(listeners, 1, 3, failed.append)
    for _ in range(10):
        dispatcher.put(event())
    assert failed == []
    listeners.add(DONE, lambda _: None)
    dispatcher.put(event())
    assert "3 events wait" in str(failed[0])
