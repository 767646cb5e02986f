"""Everything that can go wrong for a user of the SDK, as one tree.

Messages name the thing, the value and the remedy. No message ever holds a ticket or a resume token.
"""

from __future__ import annotations


class ParleyError(Exception):
    """Base of every error of this package."""


class UsageError(ParleyError):
    """The caller of this package asked for something that cannot be (a wrong format, a missing argument)."""


class AudioError(UsageError):
    """An audio file or frame cannot be used; the message names it and says why."""


class SessionNotFound(ParleyError):
    """There is no such VoiceSession, or its ticket Secret is gone."""


class SessionNotReady(ParleyError):
    """The VoiceSession exists and cannot be attached to now.

    Attributes:
        phase: the phase of its status, empty when it has none yet.
    """

    def __init__(self, message: str, *, phase: str = "") -> None:
        super().__init__(message)
        self.phase = phase


class ConnectError(ParleyError):
    """The worker could not be reached before the deadline."""


class TlsError(ConnectError):
    """The worker's certificate was refused (wrong name, unknown authority), or it speaks no TLS."""


class StreamError(ParleyError):
    """The worker ended this leg with an error status.

    Attributes:
        status: the gRPC status word, such as `UNAUTHENTICATED`.
        reason: the `parley-reason` word of the trailing metadata, empty when there was none.
        message: what happened, for people.
    """

    def __init__(self, status: str, message: str, *, reason: str = "") -> None:
        super().__init__(f"{status}{f' ({reason})' if reason else ''}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class AttachRefused(StreamError):
    """The worker refused the attach: a wrong, used or expired ticket, a format, a session that is over."""


class ServiceError(StreamError):
    """The session service refused a call.

    Attributes:
        status, reason, message: as of `StreamError`.
        field: the field of the request at fault; empty when none is.
    """

    def __init__(self, status: str, message: str, *, reason: str = "", field: str = "") -> None:
        super().__init__(status, message, reason=reason)
        self.field = field


class InvalidRequest(ServiceError, UsageError):
    """The session service was asked for something that cannot be; `field` names what."""


class ProtocolError(ParleyError):
    """The other side is no Parley worker, or breaks the contract of `parley.media.v1`."""


class CallLost(ParleyError):
    """The stream was cut and could not be resumed before the deadline."""


class SlowConsumer(ParleyError):
    """Events were not taken from the call and its bounded queue is full."""


class MissingProgram(ParleyError):
    """A program that embedded mode needs is not installed.

    Attributes:
        program: its name.
        remedy: the command that installs it.
    """

    def __init__(self, program: str, remedy: str) -> None:
        super().__init__(f"{program} is not installed; install it with: {remedy}")
        self.program = program
        self.remedy = remedy


class ProcessDied(ParleyError):
    """A child process of embedded mode ended by itself.

    Attributes:
        process: which one.
        status: its exit status (negative: the signal).
    """

    def __init__(self, process: str, status: int, tail: str) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        super().__init__(f"{process} {how}" + (f"; its last words:\n{tail}" if tail else ""))
        self.process = process
        self.status = status
