"""Numbers in texts of strangers: digits that `int` refuses, and more digits than it takes."""

from __future__ import annotations

import pytest
from parley_client.nats_tool import _seconds
from parley_client.webhook import WebhookRefused, verify_webhook
from parley_worker.codec.events_pb import parse_journal_id
from parley_worker.codec.media_json import whole
from parley_worker.transport.webhook import _retry_after

odd = pytest.mark.parametrize("digits", ["\u00b2", "9" * 5000, "-1", "", "1_0"])


@odd
def test_a_journal_id(digits: str) -> None:
    assert parse_journal_id(f"uid.{digits}.1") is None
    assert parse_journal_id(f"uid.1.{digits}") is None


@odd
def test_a_whole_number_of_a_media_frame(digits: str) -> None:
    assert whole({"chunk": digits}, "chunk") is None


@odd
def test_a_wait_that_a_webhook_asks_for(digits: str) -> None:
    waits = _retry_after(digits, 0.0)
    assert waits is None or waits >= 0


@odd
def test_the_time_a_nats_tool_has(digits: str) -> None:
    assert _seconds({"Parley-Timeout-Ms": digits}) > 0


@odd
def test_the_time_of_a_webhook(digits: str) -> None:
    headers = {"webhook-id": "1", "webhook-timestamp": digits, "webhook-signature": "v1,x"}
    with pytest.raises(WebhookRefused, match="timestamp"):
        verify_webhook("key", headers, b"")
