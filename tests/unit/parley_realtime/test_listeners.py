"""Registration and dispatch rules, without a connection."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
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
    with pytest.raises(
        ScenarioError, match=r"listener .*test_a_listener_that_does_not_end.* did not end within"
    ):
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


class Clock:
    """A clock that listeners wind."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestLimits:
    def slow(self, seconds: float) -> tuple[Clock, Any]:
        clock = Clock()

        def takes_long(_: Any) -> None:
            clock.now += seconds

        return clock, takes_long

    async def test_a_sync_listener_over_its_second_is_named(self) -> None:
        clock, takes_long = self.slow(1.5)
        listeners = Listeners(GA, HandlerRules(), clock)
        listeners.add(DONE, takes_long)
        with pytest.raises(ScenarioError) as caught:
            await listeners.dispatch(event())
        assert "TestLimits.slow.<locals>.takes_long of OpenAI.RealtimeAPI.ResponseDone" in str(caught.value)
        assert "kept the event loop for 1.5 s, more than sync_handler_timeout 1 s" in str(caught.value)

    async def test_a_second_is_allowed(self) -> None:
        clock, takes_long = self.slow(1.0)
        listeners = Listeners(GA, HandlerRules(), clock)
        listeners.add(DONE, takes_long)
        await listeners.dispatch(event())

    async def test_the_limit_is_a_parameter(self) -> None:
        clock, takes_long = self.slow(1.5)
        listeners = Listeners(GA, HandlerRules(sync_timeout=2), clock)
        listeners.add(DONE, takes_long)
        await listeners.dispatch(event())

    async def test_an_async_listener_that_blocks_before_its_first_await(self) -> None:
        clock, takes_long = self.slow(1.5)

        def blocks_then_waits(_: Any) -> Any:
            takes_long(None)
            return asyncio.sleep(0)

        listeners = Listeners(GA, HandlerRules(), clock)
        listeners.add(DONE, blocks_then_waits)
        with pytest.raises(ScenarioError, match="kept the event loop"):
            await listeners.dispatch(event())

    async def test_who_blocks_is_told_while_it_blocks(self, caplog: pytest.LogCaptureFixture) -> None:
        """The listener ends when the log has named it: without that it would never end."""
        told = threading.Event()
        caplog.handler.emit = _then(caplog.handler.emit, told.set)  # type: ignore[method-assign]
        listeners = Listeners(GA, HandlerRules(sync_timeout=0.01, on_error="log"))

        def blocks(_: Any) -> None:
            assert told.wait(30)

        listeners.add(DONE, blocks)
        await listeners.dispatch(event())
        first = caplog.records[0].getMessage()
        assert "blocks of OpenAI.RealtimeAPI.ResponseDone has kept the event loop for 0.01 s" in first
        assert "still does, at threading.py" in first


def _then(first: Any, second: Any) -> Any:
    def both(record: logging.LogRecord) -> None:
        first(record)
        second()

    return both


class TestLogOnly:
    async def test_what_raises_or_takes_too_long_is_logged_and_the_others_go_on(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        order: list[str] = []

        def broken(_: Any) -> None:
            raise ValueError("mine")

        listeners = Listeners(GA, HandlerRules(timeout=0.01, on_error="log"))
        listeners.add(DONE, broken)
        listeners.add(DONE, lambda _: asyncio.Event().wait())
        listeners.add(DONE, lambda _: order.append("last"))
        await listeners.dispatch(event())
        await listeners.dispatch(event())
        assert order == ["last", "last"]
        assert caplog.text.count("broken of OpenAI.RealtimeAPI.ResponseDone raised ValueError: mine") == 2
        assert caplog.text.count("did not end within 0.01 s") == 2

    async def test_what_is_no_function_ends_the_scenario_all_the_same(self) -> None:
        listeners = Listeners(GA, HandlerRules(on_error="log"))
        listeners.add(DONE, "no function")
        with pytest.raises(ScenarioError, match="is a str"):
            await listeners.dispatch(event())

    @pytest.mark.parametrize("policy", ["end", "log"])
    async def test_private_rules_repeat_no_text(self, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
        def broken(_: Any) -> None:
            raise ValueError("what the caller said")

        listeners = Listeners(GA, HandlerRules(on_error=policy, private=True))
        listeners.add(DONE, broken)
        if policy == "log":
            await listeners.dispatch(event())
            assert "broken of OpenAI.RealtimeAPI.ResponseDone raised ValueError" in caplog.text
        else:
            with pytest.raises(ScenarioError, match=r"raised ValueError$") as caught:
                await listeners.dispatch(event())
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
        assert "what the caller said" not in caplog.text


async def test_removed_and_added_again_during_a_dispatch_is_called_from_the_next_event_on() -> None:
    order: list[str] = []
    listeners = Listeners(GA)

    def second(_: Any) -> None:
        order.append("second")

    def first(_: Any) -> None:
        order.append("first")
        if order == ["first"]:
            listeners.remove(DONE, second)
            listeners.add(DONE, second)

    listeners.add(DONE, first)
    listeners.add(DONE, second)
    await listeners.dispatch(event())
    assert order == ["first"]
    await listeners.dispatch(event())
    assert order == ["first", "first", "second"]


class Callable_:
    def __call__(self, _: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (event, "event"),
        (functools.partial(functools.partial(event, "x"), 1), "event"),
        (Callable_(), "Callable_"),
        (TestLimits().slow, "TestLimits.slow"),
        (print, "builtins.print"),
    ],
)
def test_handlers_have_names(callback: object, name: str) -> None:
    assert handler_name(callback).endswith(name)


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
