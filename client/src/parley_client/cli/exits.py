"""Exit codes: what each error of the SDK means to a shell."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from parley_client.errors import (
    AudioError,
    CallLost,
    ConnectError,
    MissingProgram,
    ParleyError,
    ProtocolError,
    SessionNotFound,
    SessionNotReady,
    StreamError,
    UsageError,
)


class Exit(IntEnum):
    """The codes that `parley` ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CANNOT_CONNECT = 4
    MISSING_PROGRAM = 5
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.OK: "done; the session ended as it should",
    Exit.FAILED: "the session failed (its endReason is printed), or a part of embedded mode died",
    Exit.USAGE: "wrong arguments or an unusable file",
    Exit.NOT_FOUND: "no such session, Secret or event stream",
    Exit.CANNOT_CONNECT: "not reachable, refused, not ready, or the call was lost",
    Exit.MISSING_PROGRAM: "a program is not installed; the command that installs it is printed",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}
GOOD_ENDS: Final = frozenset({"CallerHangup", "AgentHangup", "ScenarioCompleted"})

_BY_ERROR: Final[tuple[tuple[type[ParleyError], Exit], ...]] = (
    (AudioError, Exit.USAGE),
    (UsageError, Exit.USAGE),
    (SessionNotFound, Exit.NOT_FOUND),
    (SessionNotReady, Exit.CANNOT_CONNECT),
    (ConnectError, Exit.CANNOT_CONNECT),
    (StreamError, Exit.CANNOT_CONNECT),
    (CallLost, Exit.CANNOT_CONNECT),
    (ProtocolError, Exit.CANNOT_CONNECT),
    (MissingProgram, Exit.MISSING_PROGRAM),
)


def exit_of(error: ParleyError) -> Exit:
    """Return the code for an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.FAILED)


def table() -> str:
    """The codes as text for the help."""
    lines = [f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()]
    return "\n\n".join(["[bold]Exit codes[/]", *lines])
