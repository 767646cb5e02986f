"""A function of an agent as a webhook: is the request the worker's, and what does it ask for?

The signature is that of Standard Webhooks; any of its libraries verifies it as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from .errors import ParleyError
from .tool_handlers import ToolCall

KEY_PREFIX: Final = "whsec_"
REPLAY_SECONDS: Final = 300.0


class WebhookRefused(ParleyError):
    """The request is not to be answered: answer 401. The message says why and holds no secret."""


def verify_webhook(
    key: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    window: float = REPLAY_SECONDS,
    wall: Callable[[], float] = time.time,  # noqa: TID251 - the default of an argument
) -> ToolCall:
    """The call that a request makes, once its signature is found to be good.

    Args:
        key: the signing key of the route's Secret: `whsec_<base64>`, or any text.
        headers: of the request; names in any case.
        body: as it came, not parsed and written again.
        window: how old or how far ahead a request may be, in seconds. Within it one could come twice:
            `call.key` is the same then.
        wall: gives Unix seconds.

    Raises:
        WebhookRefused: unsigned, signed by another key, too old, or no call of a tool.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        identity, stamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split()
    except KeyError as error:
        raise WebhookRefused(f"the header {error.args[0]} is missing") from None
    if not stamp.isdecimal() or len(stamp) > 12:
        raise WebhookRefused("the header webhook-timestamp is no number of seconds")
    if abs(wall() - int(stamp)) > window:
        raise WebhookRefused(f"the request is more than {window:g} s old or ahead")
    expected = sign_webhook(key, identity, int(stamp), body)
    if not any(hmac.compare_digest(expected.encode(), signature.encode()) for signature in signatures):
        raise WebhookRefused("the signature is not of this key and this body")
    return _call(identity, body)


def sign_webhook(key: str, identity: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a request."""
    secret = key.encode()
    if key.startswith(KEY_PREFIX):
        try:
            secret = base64.b64decode(key.removeprefix(KEY_PREFIX), validate=True)
        except binascii.Error:
            secret = key.encode()
    signed = b".".join((identity.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _call(identity: str, body: bytes) -> ToolCall:
    try:
        call: dict[str, Any] = json.loads(body)
        session = call["session"]
        return ToolCall(
            str(call["name"]),
            str(call["call_id"]),
            dict(call["arguments"]),
            key=identity,
            session_uid=str(session["uid"]),
            namespace=str(session["namespace"]),
            session=str(session["name"]),
            attempt=int(session["attempt"]),
            deadline_unix=datetime.fromisoformat(call["deadline"]).timestamp(),
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise WebhookRefused("the body is no call of a tool") from error
