"""Which error a refusal is: from an `error` event, a close code with its reason, or an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parley_realtime.errors import (
    AuthenticationError,
    BetaShapeDisabled,
    ModelRefusedError,
    ProtocolError,
    ProviderError,
    QuotaError,
    SessionExpired,
    UnavailableError,
)

_AUTH = frozenset({"invalid_api_key", "invalid_authentication", "missing_api_key", "authentication_error"})
_MODEL = frozenset({"invalid_model", "missing_model", "model_not_found", "model_not_supported"})
OUT_OF_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_RATE = frozenset({"rate_limit_exceeded", "too_many_requests", "rate_limit_error"})
_PROTOCOL_CLOSES = frozenset({1002, 1003, 1007, 1008, 1009, 1010})


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The inside of an `error` event."""

    type: str
    code: str | None
    message: str

    @staticmethod
    def of(payload: Mapping[str, Any], *, private: bool = False) -> ErrorDetail:
        """From a raw `error` event; whatever is missing or of the wrong kind is left empty.

        `private`: the message, which may repeat what was said, is left out.
        """
        error = payload.get("error")
        error = error if isinstance(error, Mapping) else {}
        kind, code, message = error.get("type"), error.get("code"), error.get("message")
        return ErrorDetail(
            kind if isinstance(kind, str) else "",
            code if isinstance(code, str) and code else None,
            message[:500] if isinstance(message, str) and not private else "",
        )


def from_close(
    code: int, reason: str, last_error: ErrorDetail | None, *, ready: bool, private: bool = False
) -> ProviderError:
    """The error of a connection that the provider ended. `ready`: a session had been created before.

    `private`: the error's text repeats none of the provider's.
    """
    word = last_error.code if last_error else None
    if word is None and "." in reason and " " not in reason:
        word = reason.rsplit(".", 1)[1] or None
    told = "" if private else (last_error.message if last_error else "") or reason
    said = f" ({told})" if told else ""
    if word is None and code == 3000:
        return AuthenticationError(f"the provider refused the credentials{said}", close_code=code)
    if code >= 3000 or (last_error is not None and not ready) or word == "session_expired":
        if (known := from_code(word, said, code)) is not None:
            return known
        if code == 3000:
            return AuthenticationError(
                f"the provider refused the credentials{said}", code=word, close_code=code
            )
        if code == 4004:
            return ModelRefusedError(f"the provider refused the model{said}", code=word, close_code=code)
        if 4000 <= code < 5000:
            return ProtocolError(f"the provider refused the connection{said}", code=word, close_code=code)
    if code == 1001 and "maximum duration" in reason:
        return SessionExpired(
            f"the provider's session time is over{said}", code="session_expired", close_code=code
        )
    if code in _PROTOCOL_CLOSES:
        return ProtocolError(
            f"the provider closed the connection with code {code}{said}", code=word, close_code=code
        )
    return UnavailableError(
        f"the provider closed the connection with code {code}{said}", code=word, close_code=code
    )


def from_code(word: str | None, said: str, close_code: int | None) -> ProviderError | None:
    """The error that the provider's error code `word` stands for, if it is one that ends a connection."""
    if word is None:
        return None
    if word in _AUTH:
        return AuthenticationError(
            f"the provider refused the credentials{said}", code=word, close_code=close_code
        )
    if word in _MODEL:
        return ModelRefusedError(f"the provider refused the model{said}", code=word, close_code=close_code)
    if word in OUT_OF_QUOTA:
        text = f"the provider's quota is used up{said}"
        return QuotaError(text, code=word, close_code=close_code, retryable=False)
    if word in _RATE:
        return QuotaError(f"the provider limits the rate{said}", code=word, close_code=close_code)
    if word == "session_expired":
        return SessionExpired(f"the provider's session time is over{said}", code=word, close_code=close_code)
    if word == "beta_api_shape_disabled":
        text = f"the provider no longer speaks the beta shape: use the GA client{said}"
        return BetaShapeDisabled(text, code=word, close_code=close_code)
    return None


def from_status(status: int, body: str) -> ProviderError:
    """The error of a handshake that was answered by an HTTP status other than 101."""
    said = f" ({body})" if body else ""
    text = f"the provider answered the WebSocket handshake with HTTP {status}{said}"
    if status in (401, 403, 407):
        return AuthenticationError(text, code=f"http_{status}")
    if status == 404:
        return ModelRefusedError(text, code="http_404")
    if status in (402, 429):
        return QuotaError(text, code=f"http_{status}", retryable=status == 429)
    if status in (408, 425) or status >= 500:
        return UnavailableError(text, code=f"http_{status}")
    return ProtocolError(text, code=f"http_{status}")
