"""What a session is told. Ids and random values come with the event; times are given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parley_worker.core.audio import AudioFormat
from parley_worker.core.leg_codec import LegCodec, LegFormat
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import EndReason, Wanted
from parley_worker.core.restored import Reach, Restored
from parley_worker.core.scenario import ScenarioCommand
from parley_worker.core.tool_routing import ToolProblem
from parley_worker.core.units import UnitEventKind

DTMF_DIGITS = frozenset("0123456789*#ABCD")
CLIENT_EVENT_TYPES = frozenset(
    {
        "session.update",
        "response.create",
        "response.cancel",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
    }
)
"""Client events that callers, the operator and scenarios may send to the provider."""


class Status(StrEnum):
    """The gRPC statuses a leg can end with, by name."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    ABORTED = "ABORTED"
    CANCELLED = "CANCELLED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class LegRefusal:
    """Why a leg ends with an error: status, word for machines, sentence, and the field that is wrong."""

    status: Status
    reason: str
    message: str
    field: str = ""


class CredentialKind(StrEnum):
    """What the caller showed."""

    TICKET = "ticket"
    RESUME = "resume_token"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """A caller's Start, checked for form.

    `input_format` and `output_format` are of the samples that the session hears and gives; with a codec the
    leg carries its packets instead. `playout_buffer_ms` is 0 to 5000. `mark_interval_ms` asks for marks
    within the audio that the caller returns as it hears them; 0 for ends of parts only. `answers_clear` is
    false where no Cleared ever comes, `moves_calls` where nobody takes a Transfer, `follows_moves` where a
    caller cannot attach elsewhere. `events` are patterns of `EventFilter`. `last_event_attempt` 0 is that of
    the session; `heard` is how far the agent was heard on an earlier leg.
    """

    credential: CredentialKind
    input_format: AudioFormat
    output_format: AudioFormat
    mode: PlayoutMode
    playout_buffer_ms: int = 0
    last_event_sequence: int = 0
    session_uid: str = ""
    credential_sha256: bytes = field(default=b"", repr=False)
    mark_interval_ms: int = 0
    answers_clear: bool = True
    moves_calls: bool = True
    input_codec: LegCodec | None = None
    output_codec: LegCodec | None = None
    follows_moves: bool = True
    last_event_attempt: int = 0
    heard: Reach | None = None
    events: tuple[str, ...] = ()

    @property
    def input_carried(self) -> LegFormat:
        """What the caller's frames hold."""
        return self.input_format if self.input_codec is None else self.input_codec.format

    @property
    def output_carried(self) -> LegFormat:
        """What frames for the caller hold."""
        return self.output_format if self.output_codec is None else self.output_codec.format

    @property
    def output_codec_delay_ms(self) -> float:
        """How much later than its frame says the agent is heard, besides resampling."""
        return 0.0 if self.output_codec is None else self.output_codec.delay_ms


# What a caller says


@dataclass(frozen=True, slots=True)
class Dtmf:
    """A key; `digit` is one of DTMF_DIGITS."""

    digit: str = field(repr=False)
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the caller's player has come in a part."""

    item_id: str
    content_index: int
    played_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class MarkPlayed:
    """The answer to a mark."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """The answer to a Clear."""

    epoch: int
    item_id: str
    content_index: int
    played_ms: int


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """A Realtime client event, already parsed; checked by the session."""

    event: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientEventInvalid:
    """A client event that could not be parsed; `message` says why."""

    message: str


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The result of a function call."""

    call_id: str
    output: str = field(repr=False)
    no_response: bool = False


@dataclass(frozen=True, slots=True)
class ClearRequest:
    """Silence, please."""


@dataclass(frozen=True, slots=True)
class Hangup:
    """The caller ends the session."""

    note: str = field(default="", repr=False)


LegCommand = (
    Dtmf
    | Progress
    | MarkPlayed
    | Cleared
    | ClientEvent
    | ClientEventInvalid
    | ToolOutput
    | ClearRequest
    | Hangup
)

# What else happens


@dataclass(frozen=True, slots=True)
class ProviderOpened:
    """The WebSocket is open and the provider has greeted."""

    client_id: str
    web_socket_id: str


@dataclass(frozen=True, slots=True)
class ProviderMessage:
    """A server event; never audio."""

    payload: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConnectHeld:
    """Others are before this session: it waits for its turn to connect its provider."""


@dataclass(frozen=True, slots=True)
class ConnectBegan:
    """It is its turn: the time to connect counts from here."""


@dataclass(frozen=True, slots=True)
class ProviderLost:
    """The provider cannot be reached, refused, or is gone. `message` holds no secret."""

    reason: EndReason
    message: str
    close_code: int = 1006


@dataclass(frozen=True, slots=True)
class ProviderReconnecting:
    """The provider's WebSocket is lost and a new one is tried. `reason` is an endReason word.

    `cut`: the agent was in the middle of an answer. `delay` is seconds, `attempt` counts from 1.
    """

    reason: str
    attempt: int
    delay: float
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ProviderReconnected:
    """A new WebSocket holds the conversation. `cause` is `lost` or `rotation`, `gap` seconds without one."""

    web_socket_id: str
    cause: str
    gap: float
    items: int


@dataclass(frozen=True, slots=True)
class RestoreRefused:
    """The conversation cannot be carried over to a new WebSocket; `reason` names the remedy, no content."""

    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderTraced:
    """A frame to or from the provider, as JSON without secrets and audio. `direction`: `sent`, `received`."""

    direction: str
    frame_json: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LegAttached:
    """A leg that passed `Session.check_attach`. `resume_token` is new and random; `resume_sha256` are the
    digests of all tokens that are good from now on."""

    request: AttachRequest
    resume_token: str = field(repr=False)
    resume_sha256: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class LegLost:
    """The leg is gone. `cause` as in events.v1.LegDetached."""

    cause: str


@dataclass(frozen=True, slots=True)
class LegSaid:
    """A caller's message, audio aside."""

    command: LegCommand


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """The first audio of an answer went to the caller."""

    response_id: str


@dataclass(frozen=True, slots=True)
class PartSent:
    """The end of a content part, or a point of it that is to be marked, went to the caller's stream."""

    item_id: str
    content_index: int
    epoch: int
    position_ms: float


@dataclass(frozen=True, slots=True)
class OutputOverflow:
    """More agent audio waits than the session may hold."""


@dataclass(frozen=True, slots=True)
class UnitEvent:
    """Something happened to a media unit. `message` holds no secret; the other fields are as `kind` says."""

    unit: str
    kind: UnitEventKind
    tag: str = ""
    message: str = ""
    url: str = ""
    duration_ms: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class ScenarioReady:
    """The scenario has started, and listens."""


@dataclass(frozen=True, slots=True)
class ScenarioFailed:
    """The scenario cannot start or has failed.

    `message` says what and where and holds no content; `text` is that of the user's exception.
    """

    message: str
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ScenarioSaid:
    """What the scenario asks for."""

    command: ScenarioCommand


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A service has answered a function call."""

    call_id: str
    output: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolFailed:
    """A service has no result for a function call."""

    call_id: str
    problem: ToolProblem


@dataclass(frozen=True, slots=True)
class TerminateRequested:
    """Somebody ends the session."""

    reason: EndReason
    message: str


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """An instruction of the operator."""

    client_event: Mapping[str, Any] | None = field(default=None, repr=False)
    clear: bool = False


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The operator wants another configuration."""

    wanted: Wanted


@dataclass(frozen=True, slots=True)
class UpdateUnsendable:
    """An update of the configuration is no event that any provider could take."""

    event_id: str
    message: str


@dataclass(frozen=True, slots=True)
class ConversationRestored:
    """What an earlier placement left, before the provider is connected."""

    restored: Restored = field(repr=False)


@dataclass(frozen=True, slots=True)
class Departed:
    """The session lives elsewhere: it ends here, and nobody is told. `cause` is `moved` or `stale`."""

    cause: str


@dataclass(frozen=True, slots=True)
class Doubted:
    """The process slept: a record is to be written, so that a newer attempt is found out about."""


@dataclass(frozen=True, slots=True)
class MovedAway:
    """The caller is to attach there, and send its audio again from this frame on (0 for none), and its other
    messages from that number on (0: not known)."""

    endpoint: str
    tls_server_name: str
    attempt: int
    resend_from: int = 0
    resend_messages_from: int = 0


@dataclass(frozen=True, slots=True)
class DrainAnnounced:
    """The worker is going away at `deadline_unix`."""

    deadline_unix: float


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """`next_deadline()` has come."""


Event = (
    ConnectHeld
    | ConnectBegan
    | ProviderOpened
    | ProviderMessage
    | ProviderLost
    | ProviderReconnecting
    | ProviderReconnected
    | RestoreRefused
    | ProviderTraced
    | LegAttached
    | LegLost
    | LegSaid
    | FirstFrame
    | PartSent
    | OutputOverflow
    | UnitEvent
    | ScenarioReady
    | ScenarioFailed
    | ScenarioSaid
    | ToolReturned
    | ToolFailed
    | TerminateRequested
    | CommandReceived
    | ConfigChanged
    | UpdateUnsendable
    | ConversationRestored
    | Departed
    | Doubted
    | MovedAway
    | DrainAnnounced
    | DeadlineReached
)
