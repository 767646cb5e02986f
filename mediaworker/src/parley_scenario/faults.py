"""What to say about an error of a scenario: type, place in the user's code, text."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType

from parley_realtime.errors import InvalidEventError, RealtimeError

from parley_scenario.alarm import HandlerTimeout
from parley_scenario.events import ScenarioMistake

MAX_TEXT_CHARACTERS = 300
_OURS = (ScenarioMistake, InvalidEventError, RealtimeError, HandlerTimeout)
_QUOTED = re.compile(r"['\"].*['\"]", re.DOTALL)
_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INTERNAL = tuple(os.path.join(_PACKAGES, name, "") for name in ("parley_scenario", "parley_realtime"))
_STDLIB = os.path.join(sysconfig.get_path("stdlib"), "")
_SITE = os.path.join(sysconfig.get_path("purelib"), "")


@dataclass(frozen=True, slots=True)
class Fault:
    """`message` says what and where and holds no content; `text` is that of the user's exception."""

    message: str
    text: str = ""


def without_values(message: str) -> str:
    """The message without what it quotes: values that a scenario gave may be content."""
    return _QUOTED.sub("'...'", message)


def fault_of(error: BaseException) -> Fault:
    """What to say about this error."""
    text = " ".join(str(error).split())[:MAX_TEXT_CHARACTERS]
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return Fault(f"{shown_path(error.filename)}:{error.lineno}: {kind}", text.partition(" (")[0])
    place = _place(error)
    message = f"{place}: {kind}" if place else kind
    return (
        Fault(f"{message}: {text}" if text else message) if isinstance(error, _OURS) else Fault(message, text)
    )


def stuck_fault(frame: FrameType | None, seconds: float) -> Fault:
    """Code at `frame` holds the event loop and does not let go."""
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    what = f"HandlerTimeout: held the scenario for more than {seconds:g} s"
    if frame is None:
        return Fault(what)
    return Fault(f"{shown_path(frame.f_code.co_filename)}:{frame.f_lineno}: {what}")


def shown_path(path: str) -> str:
    """A file's name as its user knows it: below the entry of sys.path that it was found in."""
    roots = [os.path.join(os.path.abspath(entry or "."), "") for entry in sys.path]
    fitting = [root for root in roots if path.startswith(root)]
    return path[len(max(fitting, key=len)) :] if fitting else path


def _place(error: BaseException) -> str:
    for trace in _traces(error):
        found = ""
        step: TracebackType | None = trace
        while step is not None:
            code = step.tb_frame.f_code
            if _is_users(code.co_filename):
                found = f"{shown_path(code.co_filename)}:{step.tb_lineno}"
            step = step.tb_next
        if found:
            return found
    return ""


def _traces(error: BaseException) -> Iterator[TracebackType]:
    """The tracebacks of an error and of what led to it."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return
        if seen.__traceback__ is not None:
            yield seen.__traceback__
        seen = seen.__cause__ or seen.__context__


def _is_users(path: str) -> bool:
    if path.startswith("<") or path.startswith(_INTERNAL):
        return False
    return path.startswith(_SITE) or not path.startswith(_STDLIB)
