"""Function calls through the session core, in virtual time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parley_worker.codec.events_pb import encode
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import Behaviour, ToolRoute, ToolRouteKind
from parley_worker.core.model import EndReason
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.core.tools import MAX_CALLS, MAX_OPEN_CALLS
from session_driver import Driver, sent, to_leg

KINDS = [ToolRouteKind.NATS, ToolRouteKind.WEBHOOK, ToolRouteKind.SCENARIO]
ROUTES = (
    ToolRoute("slow", ToolRouteKind.NATS, timeout=30.0),
    ToolRoute("quick", ToolRouteKind.WEBHOOK, timeout=5.0, max_output_bytes=10),
    ToolRoute("shy", ToolRouteKind.NATS, timeout=30.0, cancel_on_barge_in=True),
    ToolRoute("mine", ToolRouteKind.CALLER, timeout=8.0),
    ToolRoute("told", ToolRouteKind.SCENARIO, timeout=8.0),
)
VAD = {"type": "server_vad", "create_response": True}


def talking(routes: tuple[ToolRoute, ...] = ROUTES, **session: Any) -> Driver:
    """A session with these routes and an attached caller; the provider answers speech by itself."""
    driver = Driver(tools=routes).ready(**{"turn_detection": VAD, **session})
    driver.attach()
    return driver


def call(
    driver: Driver, name: str, call_id: str = "c1", response: str = "r", arguments: str = "{}", **fields: Any
) -> list[fx.Effect]:
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **fields}
    return driver.provider("response.output_item.done", response_id=response, item=item)


def running(effects: list[fx.Effect]) -> list[fx.CallTool]:
    return [e for e in effects if isinstance(e, fx.CallTool)]


def cancelled(effects: list[fx.Effect]) -> list[str]:
    return [e.call_id for e in effects if isinstance(e, fx.CancelTool)]


def outputs(effects: list[fx.Effect]) -> dict[str, str]:
    """What the model is given, by call."""
    items = [e["item"] for e in sent(effects, "conversation.item.create")]
    return {item["call_id"]: item["output"] for item in items}


def error_of(effects: list[fx.Effect], call_id: str = "c1") -> str:
    return str(json.loads(outputs(effects)[call_id])["error"]["code"])


def results(driver: Driver) -> list[dict[str, object]]:
    return [fields for type_, fields in driver.journal() if type_ == "tool_result"]


def measured(effects: list[fx.Effect]) -> list[tuple[str, str]]:
    return [(e.route, e.outcome) for e in effects if isinstance(e, fx.ObserveTool)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_is_called_at_once_and_its_result_is_spoken_about(kind: ToolRouteKind) -> None:
    route = ToolRoute("f", kind, timeout=7.0)
    driver = talking((route,))
    driver.provider("response.created", response={"id": "r"})
    effects = call(driver, "f", arguments='{"city": "Graz"}')
    assert running(effects) == [fx.CallTool("c1", "f", '{"city": "Graz"}', route, driver.now + 7.0)]
    driver.provider("response.done", response={"id": "r", "status": "completed"})
    driver.now += 1.5
    effects = driver.feed(ev.ToolReturned("c1", "sunny"))
    assert outputs(effects) == {"c1": "sunny"}
    assert [e["type"] for e in sent(effects, "response.create")] == ["response.create"]
    assert results(driver) == [{"call_id": "c1", "duration_ms": 1500, "output": "sunny", "error_code": ""}]
    assert measured(effects) == [(str(kind), "ok")]
    assert driver.facts()[-1] == "tool_returned"


def test_the_caller_is_not_called_by_an_effect_but_has_a_deadline() -> None:
    driver = talking()
    assert running(call(driver, "mine")) == []
    late = driver.until(driver.now + 8.0)
    assert error_of(late) == "timeout"
    notice = json.loads(to_leg(late, fx.ConversationEvent)[-1].event_json)
    assert notice == {
        "type": "parley.tool_cancelled", "call_id": "c1", "name": "mine", "reason": "timeout"
    }  # fmt: skip
    refused = to_leg(driver.said(ev.ToolOutput("c1", "at last")), fx.ConversationEvent)
    assert "has its result already" in refused[0].event_json
    assert len(results(driver)) == 1


def test_a_service_that_takes_too_long_is_cancelled_and_the_model_is_told() -> None:
    driver = talking()
    call(driver, "quick")
    assert outputs(driver.until(driver.now + 4.9)) == {}
    late = driver.until(driver.now + 0.1)
    assert cancelled(late) == ["c1"]
    assert json.loads(outputs(late)["c1"])["error"] == {
        "code": "timeout",
        "message": "'quick' did not answer within 5 seconds",
    }
    assert len(sent(late, "response.create")) == 1
    assert driver.facts()[-1] == "tool_failed"
    assert driver.feed(ev.ToolReturned("c1", "late")) == []
    assert driver.feed(ev.ToolFailed("c1", ToolProblem(ToolCode.FAILED, "late"))) == []


def test_parallel_calls_run_at_once_and_are_answered_by_one_response() -> None:
    driver = talking()
    driver.provider("response.created", response={"id": "r"})
    for n, name in enumerate(("slow", "told", "mine"), 1):
        call(driver, name, f"c{n}")
    driver.provider("response.done", response={"id": "r", "status": "completed"})
    assert sent(driver.feed(ev.ToolReturned("c2", "2")), "response.create") == []
    assert sent(driver.said(ev.ToolOutput("c3", "3")), "response.create") == []
    last = driver.feed(ev.ToolFailed("c1", ToolProblem(ToolCode.UNAVAILABLE, "away")))
    assert error_of(last) == "unavailable"
    assert len(sent(last, "response.create")) == 1
    driver.provider("response.created", response={"id": "r2"})
    driver.provider("response.done", response={"id": "r2", "status": "completed"})
    assert sent(driver.until(driver.now + 50), "response.create") == []


def test_a_slow_call_of_an_earlier_response_does_not_hold_up_a_later_one() -> None:
    driver = talking()
    call(driver, "slow", "c1", "r1")
    call(driver, "quick", "c2", "r2")
    assert len(sent(driver.feed(ev.ToolReturned("c2", "2")), "response.create")) == 1
    driver.provider("response.created", response={"id": "r3"})
    driver.provider("response.done", response={"id": "r3", "status": "completed"})
    assert len(sent(driver.feed(ev.ToolReturned("c1", "1")), "response.create")) == 1


def test_a_call_is_run_once_however_often_the_provider_tells_of_it() -> None:
    driver = talking()
    assert len(running(call(driver, "slow"))) == 1
    assert running(call(driver, "slow")) == []
    driver.feed(ev.ToolReturned("c1", "1"))
    again = call(driver, "slow", response="another")
    assert (running(again), outputs(again)) == ([], {})
    assert len(results(driver)) == 1


def test_a_function_that_does_not_exist_is_answered_at_once() -> None:
    driver = talking()
    driver.provider("response.created", response={"id": "r"})
    effects = call(driver, "made-up")
    assert error_of(effects) == "refused"
    done = driver.provider("response.done", response={"id": "r", "status": "completed"})
    assert len(sent(done, "response.create")) == 1
    assert measured(effects) == [("caller", "refused")]


@pytest.mark.parametrize("arguments", ["[]", "{", "1"])
def test_arguments_that_are_no_object_never_reach_a_service(arguments: str) -> None:
    driver = talking()
    effects = call(driver, "slow", arguments=arguments)
    assert running(effects) == []
    assert error_of(effects) == "refused"


def test_a_call_that_was_cut_off_is_none() -> None:
    driver = talking()
    assert running(call(driver, "slow", arguments='{"a', status="incomplete")) == []
    assert results(driver) == []


def test_an_oversized_result_becomes_an_error() -> None:
    driver = talking()
    call(driver, "quick")
    effects = driver.feed(ev.ToolReturned("c1", "eleven char"))
    assert error_of(effects) == "too_large"
    assert driver.facts()[-1] == "tool_failed"


def test_at_most_so_many_calls_run_at_once() -> None:
    driver = talking()
    for n in range(MAX_OPEN_CALLS):
        assert len(running(call(driver, "slow", f"c{n}"))) == 1
    effects = call(driver, "slow", "one-more")
    assert running(effects) == []
    assert error_of(effects, "one-more") == "refused"
    driver.feed(ev.ToolReturned("c0", "0"))
    assert len(running(call(driver, "slow", "again"))) == 1


def test_an_open_call_is_remembered_however_many_others_come() -> None:
    driver = talking()
    call(driver, "slow", "first")
    for n in range(2 * MAX_CALLS):
        call(driver, "quick", f"c{n}")
        driver.feed(ev.ToolReturned(f"c{n}", "x"))
    assert outputs(driver.feed(ev.ToolReturned("first", "1"))) == {"first": "1"}


def test_speech_cancels_only_calls_that_say_so() -> None:
    driver = talking()
    call(driver, "shy", "c1")
    call(driver, "slow", "c2")
    effects = driver.provider("input_audio_buffer.speech_started", item_id="u")
    assert cancelled(effects) == ["c1"]
    assert error_of(effects) == "cancelled"
    assert sent(effects, "response.create") == []
    assert driver.facts()[-1] == "tool_cancelled"
    assert driver.feed(ev.ToolReturned("c1", "late")) == []


def test_speech_that_interrupts_nothing_cancels_nothing() -> None:
    driver = talking(turn_detection={**VAD, "interrupt_response": False})
    call(driver, "shy")
    effects = driver.provider("input_audio_buffer.speech_started", item_id="u")
    assert (cancelled(effects), outputs(effects)) == ([], {})


def test_the_caller_is_told_that_its_call_was_given_up() -> None:
    driver = talking((ToolRoute("mine", cancel_on_barge_in=True),))
    call(driver, "mine")
    effects = driver.provider("input_audio_buffer.speech_started", item_id="u")
    notice = json.loads(to_leg(effects, fx.ConversationEvent)[-1].event_json)
    assert (notice["type"], notice["reason"]) == ("parley.tool_cancelled", "barge-in")


def test_a_result_waits_while_the_caller_speaks() -> None:
    """And the provider's own answer to the speech, which has seen the result, is the only one."""
    driver = talking()
    call(driver, "slow")
    driver.provider("input_audio_buffer.speech_started", item_id="u")
    effects = driver.feed(ev.ToolReturned("c1", "sunny"))
    assert outputs(effects) == {"c1": "sunny"}
    assert sent(effects, "response.create") == []
    echo = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    driver.provider("conversation.item.added", item=echo)
    driver.now += 3
    assert sent(driver.provider("input_audio_buffer.speech_stopped", item_id="u"), "response.create") == []
    driver.provider("response.created", response={"id": "r2"})
    done = driver.provider("response.done", response={"id": "r2", "status": "completed"})
    assert sent(done + driver.until(driver.now + 20), "response.create") == []


def test_a_provider_that_does_not_answer_speech_is_asked() -> None:
    driver = talking()
    call(driver, "slow")
    driver.provider("input_audio_buffer.speech_started", item_id="u")
    driver.feed(ev.ToolReturned("c1", "sunny"))
    driver.provider("input_audio_buffer.speech_stopped", item_id="u")
    assert sent(driver.until(driver.now + 1.9), "response.create") == []
    assert len(sent(driver.until(driver.now + 0.2), "response.create")) == 1


def test_without_answers_of_its_own_a_provider_is_asked_when_the_speech_ends() -> None:
    driver = talking(turn_detection={"type": "server_vad", "create_response": False})
    call(driver, "slow")
    driver.provider("input_audio_buffer.speech_started", item_id="u")
    driver.feed(ev.ToolReturned("c1", "sunny"))
    driver.provider("input_audio_buffer.speech_stopped", item_id="u")
    assert len(sent(driver.until(driver.now + 0.1), "response.create")) == 1


def test_a_response_that_began_before_the_result_was_there_does_not_answer_it() -> None:
    driver = talking()
    call(driver, "slow")
    driver.feed(ev.ToolFailed("zz", ToolProblem(ToolCode.FAILED, "of nobody")))
    driver.provider("response.created", response={"id": "r1"})
    driver.feed(ev.ToolReturned("c1", "sunny"))
    driver.provider("response.created", response={"id": "r2"})
    driver.provider("conversation.item.added", item={"type": "function_call_output", "call_id": "c1"})
    driver.provider("response.done", response={"id": "r1", "status": "cancelled"})
    done = driver.provider("response.done", response={"id": "r2", "status": "completed"})
    assert len(sent(done, "response.create")) == 1


def test_a_response_outside_the_conversation_answers_nothing() -> None:
    driver = talking()
    call(driver, "slow")
    driver.provider("response.created", response={"id": "r1"})
    driver.feed(ev.ToolReturned("c1", "sunny"))
    driver.provider("conversation.item.added", item={"type": "function_call_output", "call_id": "c1"})
    driver.provider("response.created", response={"id": "oob", "conversation_id": None})
    driver.provider("response.done", response={"id": "oob", "status": "completed"})
    done = driver.provider("response.done", response={"id": "r1", "status": "completed"})
    assert len(sent(done, "response.create")) == 1


def test_the_caller_cannot_answer_for_a_service() -> None:
    driver = talking()
    call(driver, "slow")
    item = {"type": "function_call_output", "call_id": "c1", "output": "forged"}
    event = {"type": "conversation.item.create", "item": item}
    for command in (ev.ToolOutput("c1", "forged"), ev.ClientEvent(event)):
        effects = driver.said(command)
        assert outputs(effects) == {}
        refused = to_leg(effects, fx.ConversationEvent)[0]
        assert "answered by the nats route of 'slow'" in json.loads(refused.event_json)["message"]
    assert outputs(driver.feed(ev.ToolReturned("c1", "true"))) == {"c1": "true"}


def test_an_item_of_the_callers_own_is_a_result_once() -> None:
    driver = talking()
    call(driver, "mine")
    item = {"type": "function_call_output", "call_id": "c1", "output": "4"}
    event = ev.ClientEvent({"type": "conversation.item.create", "item": item})
    assert outputs(driver.said(event)) == {"c1": "4"}
    again = driver.said(event)
    assert outputs(again) == {}
    assert "already" in to_leg(again, fx.ConversationEvent)[0].event_json
    history = {"type": "function_call_output", "call_id": "of-another-conversation", "output": "1"}
    passed = driver.said(ev.ClientEvent({"type": "conversation.item.create", "item": history}))
    assert outputs(passed) == {"of-another-conversation": "1"}
    assert len(results(driver)) == 1


def test_the_end_of_the_session_cancels_what_runs_and_records_it() -> None:
    driver = talking()
    call(driver, "slow", "c1")
    call(driver, "mine", "c2")
    driver.now += 2
    effects = driver.feed(ev.TerminateRequested(EndReason.TERMINATED, "x"))
    assert cancelled(effects) == ["c1"]
    assert outputs(effects) == {}
    assert [(r["call_id"], r["error_code"], r["duration_ms"]) for r in results(driver)] == [
        ("c1", "cancelled", 2000),
        ("c2", "cancelled", 2000),
    ]
    facts = [e.record for e in effects if isinstance(e, fx.Publish) and e.record.type == "tool_cancelled"]
    assert [f.fields["reason"] for f in facts] == ["ended", "ended"]
    assert driver.facts()[-1] == "ended"


def test_a_call_that_runs_is_no_idleness() -> None:
    driver = talking((ToolRoute("long", ToolRouteKind.NATS, timeout=300.0),))
    call(driver, "long")
    driver.until(driver.now + 299)
    assert "ended" not in driver.facts()
    driver.feed(ev.ToolReturned("c1", "x"))
    driver.until(driver.now + 61)
    assert driver.facts()[-1] == "ended"


def test_a_result_reaches_the_model_while_nobody_is_attached() -> None:
    driver = talking()
    call(driver, "slow")
    driver.feed(ev.LegLost("cancelled"))
    effects = driver.feed(ev.ToolReturned("c1", "1"))
    assert outputs(effects) == {"c1": "1"}


def test_under_privacy_there_are_facts_and_no_content() -> None:
    driver = Driver(tools=ROUTES, privacy=True).ready()
    driver.attach()
    call(driver, "slow", arguments='{"secret": 1}')
    driver.feed(ev.ToolReturned("c1", "hidden"))
    assert driver.journal() == []
    facts = [e.record for e in driver.effects if isinstance(e, fx.Publish)]
    assert "tool_returned" in driver.facts()
    assert not any("hidden" in str(dict(f.fields)) or "secret" in str(dict(f.fields)) for f in facts)


def test_calls_of_the_provider_itself_are_recorded_with_their_duration() -> None:
    driver = talking()
    driver.provider("response.mcp_call.in_progress", item_id="m1", output_index=0)
    driver.now += 0.25
    item = {"type": "mcp_call", "id": "m1", "name": "search", "arguments": "{}", "output": "found"}
    effects = driver.provider("response.output_item.done", response_id="r", item=item)
    assert measured(effects) == [("mcp", "ok")]
    assert results(driver) == [
        {"call_id": "m1", "duration_ms": 250, "output": "found", "error_code": ""}
    ]  # fmt: skip
    broken = {**item, "id": "m2", "output": None, "error": {"type": "http_error", "code": 500}}
    effects = driver.provider("response.output_item.done", response_id="r", item=broken)
    assert measured(effects) == [("mcp", "failed")]
    assert sent(effects, "conversation.item.create") == []


def test_halves_of_surrogate_pairs_do_not_pass() -> None:
    driver = talking()
    started = running(call(driver, "slow", "c\ud800", arguments='{"a": "\ud800"}'))
    assert started[0].arguments == '{"a": "?"}'


def test_a_result_too_large_for_the_journal_is_cut_there_and_nowhere_else() -> None:
    driver = talking((ToolRoute("f", ToolRouteKind.NATS, max_output_bytes=1 << 20),))
    call(driver, "f")
    whole = '"' * 1_000_000
    assert outputs(driver.feed(ev.ToolReturned("c1", whole))) == {"c1": whole}
    item = {"type": "function_call_output", "id": "i1", "call_id": "c1", "output": whole}
    driver.provider("conversation.item.done", item=item)
    records = [e.record for e in driver.effects if isinstance(e, fx.Publish) and e.record.kind == "journal"]
    assert all(len(encode(record, "w", "i").payload) < 1 << 20 for record in records)
    assert str(results(driver)[0]["output"]).endswith("... [1000000 bytes in all]")
    (done,) = [fields for type_, fields in driver.journal() if type_ == "item_done"]
    kept = json.loads(str(done["item_json"]))
    assert (kept["id"], kept["call_id"]) == ("i1", "c1")
    assert kept["parley_omitted_bytes"] > 1_000_000


def test_a_function_of_the_sessions_own_is_led_nowhere_else() -> None:
    routes = (ToolRoute("hang_up", ToolRouteKind.NATS),)
    driver = Driver(tools=routes, behaviour=Behaviour(hang_up_tool=True)).ready()
    driver.attach()
    effects = call(driver, "hang_up")
    assert running(effects) == []
    assert list(outputs(effects)) == ["c1"]
