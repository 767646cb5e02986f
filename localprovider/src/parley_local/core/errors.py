"""Requests the provider refuses, with the codes of the protocol."""

from __future__ import annotations

from typing import Any


class InvalidRequest(Exception):
    """One client event that is refused; the connection goes on."""

    def __init__(self, code: str | None, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def body(self, client_event_id: str | None) -> dict[str, Any]:
        """The `error` member of an `error` event."""
        return error_body(self.code, self.message, self.param, client_event_id)


def error_body(code: str | None, message: str, param: str | None, event_id: str | None) -> dict[str, Any]:
    return {
        "type": "invalid_request_error",
        "code": code,
        "message": message,
        "param": param,
        "event_id": event_id,
    }


def invalid_value(param: str, value: object, remedy: str) -> InvalidRequest:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidRequest("invalid_value", f"Invalid value for '{param}': {shown}. {remedy}", param)


def unknown_parameter(param: str) -> InvalidRequest:
    return InvalidRequest("unknown_parameter", f"Unknown parameter: '{param}'.", param)


def missing(param: str) -> InvalidRequest:
    return InvalidRequest("missing_required_parameter", f"Missing required parameter: '{param}'.", param)
