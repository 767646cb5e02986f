"""What handlers give back, and which requests are a worker's."""

from __future__ import annotations

import base64
import json
import logging
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_client.tool_handlers import ToolCall, ToolError, error_output, parse_arguments, run_handler
from parley_client.webhook import WebhookRefused, sign_webhook, verify_webhook

KEY = "whsec_" + base64.b64encode(b"thirty-two bytes of a signing key").decode()
NOW = 1_800_000_000
CALL = ToolCall("f", "c", {"a": 1})
BODY = json.dumps(
    {
        "type": "tool.call",
        "name": "f",
        "call_id": "call_1",
        "arguments": {"n": 1},
        "deadline": "2027-01-15T08:00:10.000Z",
        "session": {"uid": "u", "attempt": 2, "namespace": "ns", "name": "first"},
    }
).encode()


def headers(body: bytes = BODY, key: str = KEY, at: int = NOW) -> dict[str, str]:
    identity = "u.2.call_1"
    return {
        "Webhook-Id": identity,
        "webhook-timestamp": str(at),
        "Webhook-Signature": sign_webhook(key, identity, at, body),
    }


def verify(given: dict[str, str], body: bytes = BODY, key: str = KEY) -> ToolCall:
    return verify_webhook(key, given, body, wall=lambda: float(NOW))


def test_a_signed_request_is_a_call() -> None:
    call = verify(headers())
    assert call == ToolCall("f", "call_1", {"n": 1}, "u.2.call_1", "u", "ns", "first", 2, NOW + 10.0)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = sign_webhook(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    given = {k: v for k, v in headers().items() if k.lower() != name}
    with pytest.raises(WebhookRefused, match=name):
        verify(given)


@pytest.mark.parametrize("at", [NOW - 301, NOW + 301])
def test_old_requests_and_those_of_the_future_are_refused(at: int) -> None:
    with pytest.raises(WebhookRefused, match="300 s"):
        verify(headers(at=at))
    assert verify(headers(at=NOW - 299)).name == "f"


def test_another_key_or_body_is_refused_and_one_of_several_signatures_will_do() -> None:
    with pytest.raises(WebhookRefused, match="signature"):
        verify(headers(key="other"))
    with pytest.raises(WebhookRefused, match="signature"):
        verify(headers(), BODY + b" ")
    several = headers()
    several["Webhook-Signature"] = "v1,nonsense v1a,x " + several["Webhook-Signature"]
    assert verify(several).name == "f"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", BODY.replace(b'"f"', b"null", 1)[:-1], b"[" * 9999]
)
def test_a_body_that_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRefused, match="no call"):
        verify(headers(body), body)


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()),
    st.binary(),
)
def test_nothing_unsigned_passes(given: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookRefused):
        verify(given, body)


async def test_results_become_text() -> None:
    async def later(call: ToolCall) -> object:
        return {"ä": call.arguments["a"]}

    assert await run_handler(later, CALL) == '{"ä": 1}'
    assert await run_handler(lambda call: "as it is", CALL) == "as it is"
    assert await run_handler(lambda call: None, CALL) == "null"


async def test_a_plain_function_runs_beside_the_loop() -> None:
    names = []
    await run_handler(lambda call: names.append(threading.current_thread()), CALL)
    assert names[0] is not threading.main_thread()


async def test_an_object_whose_call_is_async_is_awaited() -> None:
    class Handler:
        async def __call__(self, call: ToolCall) -> str:
            return threading.current_thread().name

    assert await run_handler(Handler(), CALL) == threading.current_thread().name


async def test_errors_are_told_without_their_text(caplog: pytest.LogCaptureFixture) -> None:
    def crash(call: ToolCall) -> None:
        raise KeyError("inside")

    def refuse(call: ToolCall) -> None:
        raise ToolError("closed today")

    with caplog.at_level(logging.ERROR), pytest.raises(ToolError, match=r"^'f' failed$"):
        await run_handler(crash, CALL)
    assert "inside" in caplog.text
    with pytest.raises(ToolError, match=r"^closed today$"):
        await run_handler(refuse, replace(CALL, name="g"))


def test_arguments_are_an_object() -> None:
    assert parse_arguments("f", "") == {}
    assert parse_arguments("f", '{"a": [1]}') == {"a": [1]}
    for text in ("[]", "{", "1", "[" * 9999):
        with pytest.raises(ToolError, match="not a JSON object"):
            parse_arguments("f", text)


def test_an_error_is_bounded() -> None:
    assert len(json.loads(error_output("failed", "x" * 5000))["error"]["message"]) == 300
