"""Messages of the worker as the SDK gives them, and the words of the command for them."""

from __future__ import annotations

import json

import pytest
from parley.media.v1 import media_pb2 as pb
from parley_client import ConversationEvent, Transfer
from parley_client.cli.console import describe
from parley_client.codec import event_from_pb
from parley_client.session_events import parse_scenario_log


def test_every_message_of_the_worker_is_known() -> None:
    kinds = [field.name for field in pb.ConverseResponse.DESCRIPTOR.oneofs_by_name["message"].fields]
    for kind in set(kinds) - {"started"}:
        response = pb.ConverseResponse()
        getattr(response, kind).SetInParent()
        if kind == "event":
            response.event.event_json = "{}"
        assert event_from_pb(response) is not None, kind


def test_a_transfer_says_where_to() -> None:
    response = pb.ConverseResponse(transfer=pb.Transfer(target="tel:+431234", note="a refund"))
    event = event_from_pb(response)
    assert event == Transfer("tel:+431234", "a refund")
    assert describe(event) == "the agent asks for a transfer to tel:+431234"


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (
            {"status": "failed", "status_details": {"error": {"code": "e", "message": "No such model."}}},
            "the provider could not answer: No such model.",
        ),
        ({"status": "failed", "status_details": None}, "the provider could not answer: no details"),
        ({"status": "completed", "status_details": None}, ""),
        ({"status": "cancelled", "status_details": {"reason": "turn_detected"}}, ""),
    ],
)
def test_an_answer_that_failed_says_why(response: dict[str, object], words: str) -> None:
    event = event_from_pb(
        pb.ConverseResponse(
            event=pb.ConversationEvent(
                sequence=1, type="response.done", event_json=json.dumps({"response": response})
            )
        )
    )
    assert isinstance(event, ConversationEvent)
    assert describe(event) == words


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (b'{"sequence": "4", "scenarioLog": {"level": "info", "text": "1: yes"}}', ("info", "1: yes")),
        (b'{"scenarioLog": {"level": "info"}}', ("info", "")),
        (b'{"transcript": {"text": "hello"}}', None),
        (b'{"scenarioLog": 1}', None),
        (b"[1]", None),
        (b"no json", None),
    ],
)
def test_lines_of_a_scenario_are_found_in_the_journal(payload: bytes, line: tuple[str, str] | None) -> None:
    assert parse_scenario_log(payload) == line
