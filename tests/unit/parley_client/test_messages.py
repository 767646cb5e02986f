"""Messages of the worker as the SDK gives them, and the words of the command for them."""

from __future__ import annotations

from parley.media.v1 import media_pb2 as pb
from parley_client import Transfer
from parley_client.cli.console import describe
from parley_client.codec import event_from_pb


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
