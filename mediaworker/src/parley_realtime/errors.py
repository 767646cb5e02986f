"""What can go wrong, as one tree.

    RealtimeError
     +- ProviderError               the far side refused, failed or vanished
     |   +- AuthenticationError     ProviderAuthFailed
     |   +- ModelRefusedError       ProviderModelRefused
     |   +- QuotaError              ProviderQuota
     |   +- UnavailableError        ProviderUnavailable
     |   |   +- ConnectTimeout
     |   |   +- SessionExpired
     |   +- ProtocolError           ProviderProtocolError
     |       +- BetaShapeDisabled
     +- ScenarioError               ScenarioFailed: a handler was no function, raised, or did not end
     +- ConnectAborted              Terminated: close() ended the attempt
     +- ClientStateError            Internal: a call at a time when it cannot work
     +- OutgoingQueueFull           Internal: more client events than the provider takes

`reason` is the word a session's `endReason` uses. No message holds a key.
"""

from __future__ import annotations

from typing import ClassVar


class RealtimeError(Exception):
    """Base of all errors of this library.

    `reason`: the endReason word. `retryable`: whether the same call may succeed later without a change.
    `code`: the provider's error code, if it gave one. `close_code`: WebSocket close code, if there was one.
    """

    reason: ClassVar[str] = "Internal"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        close_code: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.close_code = close_code
        if retryable is not None:
            self.retryable = retryable


class ProviderError(RealtimeError):
    """The provider refused, failed or vanished."""

    reason = "ProviderUnavailable"


class AuthenticationError(ProviderError):
    """The provider did not accept the credentials."""

    reason = "ProviderAuthFailed"


class ModelRefusedError(ProviderError):
    """The provider does not have the model, or not for these credentials."""

    reason = "ProviderModelRefused"


class QuotaError(ProviderError):
    """Too many requests (retryable), or the account is out of quota (not retryable)."""

    reason = "ProviderQuota"
    retryable = True


class UnavailableError(ProviderError):
    """Not resolvable, not reachable, overloaded, gone silent, or closed on us."""

    reason = "ProviderUnavailable"
    retryable = True


class ConnectTimeout(UnavailableError):
    """TCP, TLS, the upgrade and the first session event together took longer than `connect_timeout`."""


class SessionExpired(UnavailableError):
    """The provider's time limit of a session was reached; a new connection may be opened."""


class ProtocolError(ProviderError):
    """The provider sent what the protocol does not allow, or does not speak the shape we asked for."""

    reason = "ProviderProtocolError"


class BetaShapeDisabled(ProtocolError):
    """The provider no longer speaks the beta shape; use the GA client."""


class ScenarioError(RealtimeError):
    """A handler was not a function, raised, or took too long; `__cause__` is what it raised."""

    reason = "ScenarioFailed"


class ConnectAborted(RealtimeError):
    """`close()` was called while `connect()` was pending."""

    reason = "Terminated"


class ClientStateError(RealtimeError):
    """The client is not in a state in which this call can work."""


class OutgoingQueueFull(RealtimeError):
    """The bounded queue of client events is full: the provider reads slower than events are made."""


class InvalidEventError(ValueError):
    """A client event that cannot be sent as given; the message names the field and the remedy."""


class UnknownEventError(ValueError):
    """A listener was registered for an event that never fires; the message names the nearest one."""
