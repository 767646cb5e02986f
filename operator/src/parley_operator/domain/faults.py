"""What can be wrong with a call of the session service, as values that any transport can carry."""

from __future__ import annotations

from enum import StrEnum


class FaultCode(StrEnum):
    """Kinds of faults, named as gRPC's status codes are."""

    INVALID = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    EXISTS = "ALREADY_EXISTS"
    PRECONDITION = "FAILED_PRECONDITION"
    EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


class Fault(Exception):
    """A call that is refused.

    `reason` is one word for machines, `field` the path of the field at fault, empty when there is none,
    `str()` the words for people. None of them ever holds a token or a ticket.
    """

    def __init__(self, code: FaultCode, reason: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.field = field


def invalid(field: str, message: str, reason: str = "field-invalid") -> Fault:
    """A field of the request that cannot be used; `message` says the value and the remedy."""
    return Fault(FaultCode.INVALID, reason, f"{field}: {message}", field)
