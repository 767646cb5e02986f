"""A live session is given another configuration: what the provider is told, and what holds afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley.control.v1 import control_pb2 as pb
from parley_worker.codec import command_pb, control_pb
from parley_worker.core import events as ev
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import EndReason, LimitsConfig, Origin, Wanted
from parley_worker.core.reconfigure import ANSWER_SECONDS, CannotChange, difference
from session_driver import Driver, sent
from worker_core import WorkerCore

LIMITS = LimitsConfig(max_duration=3600, idle_timeout=600, attach_timeout=30, reattach_timeout=20)
LAMP = {"type": "function", "name": "lamp"}


def wanted(generation: int = 2, **more: Any) -> ev.ConfigChanged:
    fields: dict[str, Any] = {"session": {"instructions": "y"}, "tools": (), "limits": LIMITS, **more}
    return ev.ConfigChanged(Wanted(generation, **fields))


def updates(driver: WorkerCore) -> list[Any]:
    """Updates beyond the one that every session begins with."""
    return sent(driver.effects, "session.update")[1:]


def core() -> WorkerCore:
    made = WorkerCore(origin=Origin(1, "desk", "desk-1", 7))
    made.ready().attached()
    return made


def taken(driver: WorkerCore, **session: Any) -> None:
    driver.feed(ev.ProviderMessage({"type": "session.updated", "session": session}))


def refused(driver: WorkerCore, event_id: str) -> None:
    error = {"message": "no such tool", "event_id": event_id}
    driver.feed(ev.ProviderMessage({"type": "error", "error": error}))


def test_only_what_differs_is_sent() -> None:
    before = {"instructions": "x", "audio": {"output": {"speed": 1, "voice": "ash"}}, "tools": [LAMP]}
    after = {"instructions": "x", "audio": {"output": {"speed": 2, "voice": "ash"}}}
    assert difference(before, after) == {"audio": {"output": {"speed": 2}}, "tools": []}
    assert difference(before, before) == {}
    assert difference({}, {"turn_detection": None}) == {"turn_detection": None}
    # A provider replaces these whole, so the unchanged half goes along.
    turn = {"type": "server_vad", "threshold": 0.5}
    changed = difference({"turn_detection": turn}, {"turn_detection": {**turn, "threshold": 0.7}})
    assert changed == {"turn_detection": {"type": "server_vad", "threshold": 0.7}}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"model": "a"}, {"model": "b"}, "session.model cannot be changed"),
        ({"temperature": 1}, {}, "session.temperature cannot be taken back"),
        ({"audio": {"output": {"speed": 1}}}, {"audio": {"output": {}}}, "session.audio.output.speed"),
    ],
)
def test_what_no_update_can_do_is_refused_by_name(before: Any, after: Any, words: str) -> None:
    with pytest.raises(CannotChange, match=words):
        difference(before, after)


def test_an_update_holds_once_the_provider_has_taken_it() -> None:
    driver = core()
    route = ToolRoute("lamp", ToolRouteKind.NATS)
    driver.feed(wanted(session={"instructions": "y", "tools": [LAMP]}, tools=(route,)))
    (update,) = updates(driver)
    assert update["session"] == {"instructions": "y", "tools": [LAMP]}
    assert driver.session.report.origin == Origin(1, "desk", "desk-1", 7)
    taken(driver, tools=[LAMP])
    assert driver.session.report.origin == Origin(2, "desk", "desk-1", 7)
    assert driver.session.report.update_refused == ""
    assert driver.session.config.session["instructions"] == "y"
    assert driver.session._desk.routes.find("lamp") is route


def test_a_refused_update_changes_nothing_and_says_why() -> None:
    driver = core()
    longer = replace(LIMITS, idle_timeout=5)
    driver.feed(wanted(limits=longer))
    refused(driver, updates(driver)[0]["event_id"])
    report = driver.session.report
    assert report.origin.generation == 2
    assert report.update_refused == "the provider refused the update: no such tool"
    assert driver.session.config.session == {"instructions": "x"}
    assert driver.session.config.limits == LIMITS
    # What is asked for next is judged anew.
    driver.feed(wanted(3, session={"instructions": "z"}))
    taken(driver)
    assert (driver.session.report.origin.generation, driver.session.report.update_refused) == (3, "")


def test_a_refusal_after_the_answer_to_another_update_counts() -> None:
    driver = core()
    driver.feed(wanted())
    taken(driver)
    refused(driver, updates(driver)[0]["event_id"])
    assert driver.session.config.session == {"instructions": "x"}
    assert "no such tool" in driver.session.report.update_refused


def test_an_error_of_something_else_decides_nothing() -> None:
    driver = core()
    driver.feed(wanted())
    refused(driver, "evt_of_the_caller")
    assert driver.session.report.origin.generation == 1
    assert driver.session.report.update_refused == ""


def test_limits_change_without_a_word_to_the_provider() -> None:
    driver = core()
    driver.feed(
        wanted(session={"instructions": "x"}, limits=replace(LIMITS, max_duration=30, idle_timeout=900))
    )
    assert updates(driver) == []
    assert driver.session.report.origin.generation == 2
    driver.advance(31)
    assert driver.session.report.end_reason is EndReason.MAX_DURATION
    assert "30 s" in driver.session.report.end_message


def test_what_was_judged_is_not_asked_twice_and_what_runs_is_waited_for() -> None:
    driver = core()
    driver.feed(wanted())
    driver.feed(wanted(3))
    assert len(updates(driver)) == 1
    taken(driver)
    driver.feed(wanted())
    assert len(updates(driver)) == 1


def test_an_update_without_an_answer_may_be_asked_again() -> None:
    driver = core()
    driver.feed(wanted())
    driver.advance(ANSWER_SECONDS + 1)
    assert driver.session.report.origin.generation == 1
    driver.feed(wanted())
    assert len(updates(driver)) == 2


def test_an_event_that_cannot_be_sent_is_a_refusal() -> None:
    driver = core()
    driver.feed(wanted())
    driver.feed(ev.UpdateUnsendable(updates(driver)[0]["event_id"], "tools must be a list"))
    assert driver.session.report.update_refused == "session: tools must be a list"


def test_a_session_that_is_being_connected_is_asked_later() -> None:
    driver = Driver()
    driver.feed(ev.ProviderOpened("c", "s"))
    assert sent(driver.feed(wanted()), "session.update") == []


def test_the_command_on_the_wire() -> None:
    request = pb.CommandRequest()
    request.reconfigure.session_json = '{"instructions":"y"}'
    request.reconfigure.generation = 4
    request.reconfigure.limits.idle_timeout.seconds = 7
    request.reconfigure.tools.add(name="lamp").nats.SetInParent()
    found = command_pb.instruction(request, LIMITS)
    assert isinstance(found, ev.ConfigChanged)
    assert found.wanted.limits == replace(LIMITS, idle_timeout=7)
    assert [route.kind for route in found.wanted.tools] == [ToolRouteKind.NATS]
    request.reconfigure.generation = 0
    with pytest.raises(control_pb.InvalidRequest, match=r"reconfigure\.generation is 0"):
        command_pb.instruction(request, LIMITS)
    request.reconfigure.generation, request.reconfigure.session_json = 4, "[]"
    with pytest.raises(control_pb.InvalidRequest, match=r"reconfigure\.session_json"):
        command_pb.instruction(request, LIMITS)


def test_a_report_says_what_the_session_was_made_from() -> None:
    driver = core()
    message = control_pb.session_report(driver.session.report, control_pb.Endpoint("h:1"))
    assert (message.origin.generation, message.origin.agent, message.origin.agent_generation) == (
        1,
        "desk",
        7,
    )
    assert control_pb.read_session_report(message.SerializeToString()).origin == driver.session.report.origin
