"""What a session wants done. The runner does it, in order, without waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from parley_worker.core.agent import ToolRoute
from parley_worker.core.events import AttachRequest, LegRefusal, MovedAway
from parley_worker.core.leg_codec import LegFormat
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import EndReason, SessionState
from parley_worker.core.records import EventRecord
from parley_worker.core.scenario import Cue
from parley_worker.core.units import UnitOrder


class ClearReason(Enum):
    """Why agent audio was thrown away."""

    BARGE_IN = "barge-in"
    REQUESTED = "requested"
    OVERFLOW = "overflow"
    RECONNECT = "reconnect"
    """The provider was lost in the middle of an answer; it is asked again."""


# Messages to the caller


@dataclass(frozen=True, slots=True)
class Started:
    """The leg is attached."""

    session_uid: str
    attempt: int
    resume_token: str = field(repr=False)
    input_format: LegFormat
    output_format: LegFormat
    mode: PlayoutMode
    output_delay_ms: float


@dataclass(frozen=True, slots=True)
class Clear:
    """Throw away audio up to this epoch."""

    epoch: int
    reason: ClearReason


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in the agent's audio."""

    name: str
    epoch: int
    item_id: str
    content_index: int
    position_ms: int


@dataclass(frozen=True, slots=True)
class ConversationEvent:
    """A server event for the caller, numbered within the session's attempt."""

    sequence: int
    attempt: int
    type: str
    event_json: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker goes away at this Unix time."""

    deadline_unix: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """Whoever connects the caller is asked to move the call."""

    target: str
    note: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over."""

    reason: EndReason
    message: str


ToLeg = Started | Clear | Mark | ConversationEvent | Draining | MovedAway | Transfer | Ended

# Effects


@dataclass(frozen=True, slots=True)
class SendProvider:
    """A client event for the provider."""

    event: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SendLeg:
    """A message for the attached leg."""

    message: ToLeg


@dataclass(frozen=True, slots=True)
class Publish:
    """A record for NATS."""

    record: EventRecord


@dataclass(frozen=True, slots=True)
class AttachMedia:
    """Carry audio between this leg and the provider."""

    request: AttachRequest


@dataclass(frozen=True, slots=True)
class DetachMedia:
    """Hold agent audio; nobody listens."""


@dataclass(frozen=True, slots=True)
class ClearMedia:
    """Drop agent audio that waits, and what these responses still send. Tells the caller nothing."""

    responses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnitCommand:
    """An order to a media unit of the session; what becomes of it comes back as `events.UnitEvent`."""

    order: UnitOrder


@dataclass(frozen=True, slots=True)
class CutMedia:
    """What the caller heard of a content part: nothing of it past `audio_end_ms`."""

    item_id: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class TellScenario:
    """Something that the session's scenario may be waiting for."""

    cue: Cue


@dataclass(frozen=True, slots=True)
class DropLeg:
    """End the leg: with its refusal, or with OK after an Ended."""

    refusal: LegRefusal | None
    cause: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The session's report has changed."""

    state: SessionState


@dataclass(frozen=True, slots=True)
class CallTool:
    """A service is to answer a function call until `deadline` (monotonic seconds); `arguments` is a JSON
    object."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    route: ToolRoute
    deadline: float


@dataclass(frozen=True, slots=True)
class CancelTool:
    """Nobody waits for this call's result any more."""

    call_id: str


@dataclass(frozen=True, slots=True)
class ObserveTool:
    """A function call is over: the kind of its route, `ok` or its error code, and how long it took."""

    route: str
    outcome: str
    seconds: float


class Measure(Enum):
    """Numbers for the metrics, in seconds unless they count."""

    PROVIDER_CONNECTED = "provider_connected"
    PROVIDER_ERROR = "provider_error"
    FIRST_AUDIO = "first_audio"
    BARGE_IN = "barge_in"
    RECORDING = "recording"
    RECONNECTED = "reconnected"
    """Seconds without a WebSocket; the word is its cause."""
    RESTORE_REFUSED = "restore_refused"
    RECONNECT_FAILED = "reconnect_failed"
    RATE_LIMIT_LEFT = "rate_limit_left"
    """The share that is left, 0 to 1; the word is the limit's name."""


@dataclass(frozen=True, slots=True)
class Observe:
    """One number for a metric; `word` is a label from a closed list."""

    measure: Measure
    value: float = 0.0
    word: str = ""


Effect = (
    SendProvider
    | SendLeg
    | Publish
    | AttachMedia
    | DetachMedia
    | ClearMedia
    | CutMedia
    | UnitCommand
    | TellScenario
    | DropLeg
    | StateChanged
    | Observe
    | CallTool
    | CancelTool
    | ObserveTool
)
