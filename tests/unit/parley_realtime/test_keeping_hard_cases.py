"""Losses at the worst moments: what is asked again, what is said again, and what providers do differently."""

from __future__ import annotations

from typing import Any

import pytest
from kept import SESSION, Kept, second
from local_session import Harness
from parley_local.core.settings import Shape
from parley_realtime.errors import QuotaError, UnavailableError
from parley_realtime.protocol.restore import Refusal, RestoreCheck, RestorePlan

BY_HAND = {"audio": {"input": {"turn_detection": None, "transcription": {"model": "w"}}}}
ASIDE = {"conversation": "none", "metadata": {"topic": "mood"}}


def aside(kept: Kept, response_id: str, event_id: str) -> None:
    kept.client("response.create", event_id=event_id, response=ASIDE)
    kept.server("response.created", response={"id": response_id, "conversation_id": None})


def truncate(item_id: str, milliseconds: int = 500) -> dict[str, Any]:
    kind = "conversation.item.truncate"
    return {"type": kind, "item_id": item_id, "content_index": 0, "audio_end_ms": milliseconds}


# What is asked again


def test_a_response_outside_the_conversation_is_asked_for_again_while_the_caller_speaks() -> None:
    kept = Kept()
    aside(kept, "r1", "e1")
    kept.answer("r2")
    kept.server("input_audio_buffer.speech_started", item_id="u1", audio_start_ms=0)
    assert kept.lost() == [{"type": "response.create", "response": ASIDE}]


def test_a_waiting_request_outside_the_conversation_does_not_stand_for_the_question() -> None:
    kept = Kept()
    kept.answer("r1")
    kept.client("response.create", event_id="e1", response=ASIDE)
    sent = kept.lost()
    assert [each.get("response") for each in sent] == [None, ASIDE]


def test_a_waiting_question_does_not_stand_for_a_response_outside_the_conversation() -> None:
    kept = Kept()
    aside(kept, "r1", "e1")
    kept.client("response.create", event_id="e2")
    assert [each.get("response") for each in kept.lost()] == [ASIDE, None]


def test_two_responses_outside_the_conversation_are_both_asked_for_again() -> None:
    kept = Kept()
    aside(kept, "r1", "e1")
    aside(kept, "r2", "e2")
    assert [each.get("response") for each in kept.lost()] == [ASIDE, ASIDE]


def test_an_answer_to_speech_does_not_confirm_a_request_outside_the_conversation() -> None:
    kept = Kept()
    kept.client("response.create", event_id="e1", response=ASIDE)
    kept.answer("r1", "a1", "all of it", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    assert [each.get("response") for each in kept.lost()] == [ASIDE]


def test_providers_that_do_not_tell_the_conversation_confirm_in_order() -> None:
    kept = Kept()
    kept.client("response.create", event_id="e1", response=ASIDE)
    kept.server("response.created", response={"id": "r1"})
    assert len(kept.keeper.outstanding) == 0


# The caller's audio


def test_a_rotation_takes_along_all_of_a_turn_that_the_client_ends_itself() -> None:
    kept = Kept(BY_HAND)
    kept.keeper.tape.append(second(4, 7))
    assert b"".join(kept.move(rotation=True)) == second(4, 7)


def test_no_rotation_while_the_provider_alone_holds_the_beginning_of_a_turn() -> None:
    kept = Kept(BY_HAND)
    kept.keeper.tape.append(second(6))
    assert not kept.keeper.settled
    kept.client("input_audio_buffer.clear", event_id="e1")
    kept.server("input_audio_buffer.cleared")
    assert kept.keeper.settled


def test_a_long_turn_is_carried_over_though_it_is_longer_than_what_is_held_of_others() -> None:
    kept = Kept(BY_HAND)
    kept.keeper.tape.append(second(4, 3))
    kept.client("input_audio_buffer.commit", event_id="e1")
    kept.server("input_audio_buffer.committed", item_id="u1")
    kept.keeper.lost(b"", "x")
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan), plan
    assert plan.ids == ("u1",)


def test_a_transcription_carries_over_no_items_and_hears_again_what_was_not_transcribed() -> None:
    kept = Kept(answers=False)
    kept.keeper.tape.append(second(1, 1) + second(1, 2) + second(1, 3))
    kept.turn("u1", 0, 1000, words="one")
    kept.turn("u2", 1000, 2000)
    kept.loss = kept.keeper.lost(b"", "x")
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan)
    assert plan.creates == ()
    assert kept.keeper.carried(plan, rotation=False) == [second(1, 2) + second(1, 3)]
    assert [event["item_id"] for event in kept.loss.closings] == ["u2"]


def test_a_transcription_hears_several_turns_again_in_their_order() -> None:
    kept = Kept(answers=False)
    kept.keeper.tape.append(second(0.5, 1) + second(0.5, 2))
    kept.turn("u1", 0, 500)
    kept.turn("u2", 500, 1000)
    assert kept.lost() == [second(0.5, 1) + second(0.5, 2)]
    assert kept.keeper.history.canonical() == []


# Items that the new connection does not hold


def test_what_is_not_carried_over_is_truncated_and_deleted_without_the_provider() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    kept.move()
    for event in (truncate("a1"), {"type": "conversation.item.delete", "item_id": "a1"}):
        made = kept.keeper.shorten(event, "y")
        assert made is not None, event
        word, sent = made
        assert word["type"] == event["type"] + "d"
        assert sent == []
    assert kept.keeper.history.get("a1") is None


def test_an_item_that_went_with_its_connection_is_truncated_without_the_provider() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "")
    kept.lost()
    made = kept.keeper.shorten(truncate("a1"), "y")
    assert made is not None
    assert made[1] == []


def test_an_item_behind_one_that_is_gone_goes_to_the_end() -> None:
    kept = Kept()
    kept.user("u1")
    item = {"id": "o1", "type": "function_call_output", "call_id": "c1", "output": "1"}
    kept.client("conversation.item.create", event_id="e1", item=item, previous_item_id="gone")
    kept.client("conversation.item.create", event_id="e2", item={**item, "id": "o2"}, previous_item_id="u1")
    kept.client("conversation.item.create", event_id="e3", item={**item, "id": "o3"}, previous_item_id="o1")
    assert [each.get("previous_item_id") for each in kept.lost()] == [None, "u1", "o1"]


def test_an_item_that_is_made_anew_under_an_old_name_is_seen() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "one two three four", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    kept.move()
    made = kept.keeper.shorten(truncate("a1"), "y")
    assert made is not None
    item = made[1][1]["item"]
    assert not kept.server("conversation.item.deleted", item_id="a1")
    assert not kept.server("conversation.item.added", item=item)
    assert kept.server("conversation.item.deleted", item_id="a1")
    kept.client("conversation.item.create", event_id="e9", item=item)
    assert kept.server("conversation.item.added", item=item)
    assert len(kept.keeper.outstanding) == 0


def test_the_echo_of_a_shortened_item_stays_hidden_while_a_rotation_is_planned() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1", "a1", "one two three four", whole=True)
    kept.server("response.done", response={"id": "r1", "status": "completed"})
    kept.move()
    kept.keeper.shorten(truncate("a1"), "y")
    kept.keeper.plan()
    assert not kept.server("conversation.item.deleted", item_id="a1")
    assert kept.keeper.history.get("a1") is not None


# Providers that do it differently


def check_of(*names: str) -> RestoreCheck:
    creates = tuple({"item": {"id": name, "type": "message"}} for name in names)
    return RestoreCheck(RestorePlan(None, creates))


def echo(item_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "conversation.item.added", "item": {"id": item_id, "type": "message"}, **fields}


def test_echoes_in_another_order_are_fine_when_they_say_the_right_places() -> None:
    check = check_of("a", "b", "c")
    for item_id, previous in (("b", "a"), ("a", None), ("c", "b")):
        check.server(echo(item_id, previous_item_id=previous))
    assert check.complete


def test_echoes_in_order_that_say_other_places_fail_the_restoration() -> None:
    check = check_of("a", "b", "c")
    for item_id, previous in (("a", None), ("b", "a"), ("c", "a")):
        check.server(echo(item_id, previous_item_id=previous))
    assert not check.complete
    assert "another place" in str(check.failed)


def test_a_list_of_tools_between_the_items_disturbs_nothing() -> None:
    check = check_of("a", "b")
    check.server(echo("a", previous_item_id=None))
    tools = {"id": "mcpl_1", "type": "mcp_list_tools"}
    check.server({"type": "conversation.item.added", "item": tools, "previous_item_id": "a"})
    check.server(echo("b", previous_item_id="mcpl_1"))
    assert check.complete


def test_a_provider_that_gives_items_names_of_its_own_is_found_out_at_once() -> None:
    check = check_of("a", "b")
    check.server(echo("item_0001"))
    assert "a name of its own" in str(check.failed)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "slow down"}, QuotaError),
        ({"type": "server_error", "code": None, "message": "try again"}, UnavailableError),
        ({"type": "server_error", "code": "internal_error", "message": "try again"}, UnavailableError),
    ],
)
@pytest.mark.parametrize("event_id", [None, "parley_restore_1_0"])
def test_trouble_of_the_provider_is_no_refusal(error: Any, kind: type, event_id: str | None) -> None:
    check = check_of("a")
    check.server({"type": "error", "error": {**error, "event_id": event_id}})
    assert check.failed is None
    assert isinstance(check.trouble, kind)
    assert check.trouble.retryable
    assert not check.complete


def test_a_used_up_quota_while_restoring_is_final_and_says_so() -> None:
    check = check_of("a")
    check.server({"type": "error", "error": {"code": "insufficient_quota", "message": "pay"}})
    assert isinstance(check.trouble, QuotaError)
    assert not check.trouble.retryable


def test_ten_thousand_items_are_bounded_and_told_quickly() -> None:
    kept = Kept()
    for number in range(10_000):
        kept.user(f"u{number}")
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan)
    assert len(plan.creates) == 1000
    assert kept.keeper.history.forgotten == 9000
    check = RestoreCheck(plan)
    previous = None
    for create in plan.creates:
        check.server(echo(create["item"]["id"], previous_item_id=previous))
        previous = create["item"]["id"]
    assert check.complete


def test_a_caller_without_transcription_is_still_refused_with_the_reason() -> None:
    kept = Kept({"audio": {"input": {"turn_detection": SESSION["audio"]["input"]["turn_detection"]}}})
    kept.turn("u1", 0, 1000)
    plan = kept.keeper.plan()
    assert isinstance(plan, Refusal)


def test_calls_of_the_providers_own_tools_and_their_approvals_are_carried_over() -> None:
    kept = Kept()
    tools = {"id": "l1", "type": "mcp_list_tools", "server_label": "s", "tools": []}
    asked = {"id": "p1", "type": "mcp_approval_request", "server_label": "s", "name": "f", "arguments": "{}"}
    allowed = {"id": "p2", "type": "mcp_approval_response", "approval_request_id": "p1", "approve": True}
    call = {"id": "m1", "type": "mcp_call", "server_label": "s", "name": "f", "arguments": "{}"}
    kept.server("conversation.item.added", item=tools)
    kept.user("u1")
    for item in (asked, allowed, call):
        kept.server("conversation.item.added", item={**item, "status": "in_progress"})
    kept.server("response.mcp_call_arguments.done", item_id="m1", arguments='{"x":1}')
    done = {**call, "arguments": '{"x":1}', "output": "7", "error": None, "status": "completed"}
    kept.server("conversation.item.done", item=done)
    for item in (asked, allowed):
        kept.server("conversation.item.done", item={**item, "status": "completed"})
    kept.server("conversation.item.added", item={**call, "id": "m2", "status": "in_progress"})
    kept.keeper.lost(b"", "x")
    plan = kept.keeper.plan()
    assert isinstance(plan, RestorePlan)
    items = [create["item"] for create in plan.creates]
    assert items[1:] == [asked, allowed, {**call, "arguments": '{"x":1}', "output": "7"}]
    provider = Harness(Shape.GA, pace=0.0)
    check = RestoreCheck(plan)
    for create in plan.creates:
        for event in provider.send(create["type"], event_id=create["event_id"], item=create["item"]):
            check.server(event)
    assert check.complete, check.failed


def test_a_session_without_turn_detection_by_volume_is_asked_like_any_other() -> None:
    kept = Kept({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}, "transcription": {}}}})
    kept.keeper.tape.append(second(2))
    kept.turn("u1", 0, 1000, words="what time is it")
    assert [each["type"] for each in kept.lost() if not isinstance(each, bytes)] == ["response.create"]


def test_half_a_written_answer_is_over_and_asked_for_again() -> None:
    kept = Kept()
    kept.user("u1")
    kept.answer("r1")
    item = {"id": "a1", "type": "message", "role": "assistant", "content": []}
    kept.server("response.output_item.added", response_id="r1", item=item)
    ids = {"response_id": "r1", "item_id": "a1", "content_index": 0}
    kept.server("response.output_text.delta", **ids, delta="half of ")
    assert [each["type"] for each in kept.lost()] == ["response.create"]
    assert kept.keeper.history.canonical()[-1]["words"] == "half of "
