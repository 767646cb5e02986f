"""What a session's scenario may ask for, and what it is told. Pure data: its process is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_worker.core.agent import Line
from parley_worker.core.units import UnitOrder

LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_LOG_CHARACTERS = 4000
MAX_LOGS = 1000
"""Lines that a scenario may log in one session; what comes after is dropped."""
MAX_TARGET_CHARACTERS = 256
MAX_NOTE_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class SayLine:
    """Say a line; `line_ended` with this id tells what became of it."""

    id: str
    line: Line


@dataclass(frozen=True, slots=True)
class DropLines:
    """Forget the lines that wait."""


@dataclass(frozen=True, slots=True)
class SendEvent:
    """A client event for the provider."""

    event: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Throw away agent audio that was not heard, and cancel what is being made."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call; `after_speech`: once everything was heard."""

    after_speech: bool = False


@dataclass(frozen=True, slots=True)
class TransferCall:
    """Ask whoever connects the caller to move the call. Such a gateway hangs up by itself."""

    target: str
    note: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Complete:
    """The scenario has done its work: end the session."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the journal. `level` is one of LOG_LEVELS."""

    level: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OrderUnit:
    """An order to a media unit."""

    order: UnitOrder


ScenarioCommand = (
    SayLine | DropLines | SendEvent | ClearAudio | HangUp | TransferCall | Complete | Log | OrderUnit
)


@dataclass(frozen=True, slots=True)
class Cue:
    """Something that a scenario is told besides the provider's events.

    `to` is `app`, `caller`, `lines` or the name of a media unit, `name` an event of it.
    """

    to: str
    name: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
