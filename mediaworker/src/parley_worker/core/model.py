"""What a session is: its configuration, states, end reasons and report. Pure data, shared by every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from parley_realtime.formats import DEFAULT_FORMAT, FORMATS

from parley_worker.core.agent import (
    Behaviour,
    MediaAccess,
    RecordingConfig,
    RecoveryConfig,
    ScenarioConfig,
    ToolRoute,
)
from parley_worker.core.saved import HandOver
from parley_worker.core.secret import Secret as Secret
from parley_worker.core.usage import Usage as Usage


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One placement of one session. `uid` and `attempt` are the key, namespace and name are for people."""

    namespace: str
    name: str
    uid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """Where the speech-to-speech service is.

    `api_version` is "ga" or "beta"; `type` is "openai", "azure" or "custom".
    """

    url: str
    api_version: str
    model: str
    api_key: Secret = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_pem: str = field(default="", repr=False)
    type: str = "custom"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Seconds, all above 0: defaults are filled in before a session is made."""

    max_duration: float
    idle_timeout: float
    attach_timeout: float
    reattach_timeout: float


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may attach: no ticket is needed when `ticket_sha256` is empty. Unix seconds."""

    ticket_sha256: bytes
    ticket_expires_at: float | None = None


REALTIME_FORMATS = {audio.beta_name: audio.name for audio in FORMATS.values()}
"""What the realtime library calls each format that a session's spec may name."""
PROVIDER_AUDIO = tuple(REALTIME_FORMATS)
DEFAULT_PROVIDER_AUDIO = DEFAULT_FORMAT.beta_name


class RestoreMode(StrEnum):
    """What becomes of the conversation of an earlier attempt; the words stand in the journal."""

    RESUME = "resume"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """How a session goes on that was placed before. `journal_last` is what was last known of its journal."""

    mode: RestoreMode
    journal_last: int = 0
    hand_over: HandOver | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a configuration was made from: a generation of the VoiceSession, and a revision of an agent."""

    generation: int = 0
    agent: str = ""
    agent_revision: str = ""
    agent_generation: int = 0


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Everything a session needs. `provider_audio` is one of PROVIDER_AUDIO, or "" for pcm16."""

    key: SessionKey
    provider: ProviderConfig
    session: Mapping[str, object] = field(repr=False)
    greet: bool
    limits: LimitsConfig
    access: AccessConfig
    privacy: bool = False
    provider_audio: str = ""
    behaviour: Behaviour = field(default_factory=Behaviour)
    tools: tuple[ToolRoute, ...] = ()
    scenario: ScenarioConfig | None = None
    recording: RecordingConfig | None = None
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    media_access: MediaAccess = field(default_factory=MediaAccess)
    trace: bool = False
    origin: Origin = Origin()
    restore: RestoreConfig | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The changeable part of a configuration, as a later generation of the VoiceSession asks for it."""

    generation: int
    session: Mapping[str, object] = field(repr=False)
    tools: tuple[ToolRoute, ...]
    limits: LimitsConfig


class SessionState(Enum):
    """The life of a session on a worker."""

    CONNECTING = "connecting"
    """The provider is being connected and configured."""
    READY = "ready"
    """Waits for the first caller."""
    ACTIVE = "active"
    """A caller is attached."""
    DETACHED = "detached"
    """The caller is gone and may come back."""
    ENDED = "ended"
    """Over. Nothing follows."""


TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.CONNECTING: frozenset({SessionState.READY, SessionState.ENDED}),
    SessionState.READY: frozenset({SessionState.ACTIVE, SessionState.ENDED}),
    SessionState.ACTIVE: frozenset({SessionState.DETACHED, SessionState.ENDED}),
    SessionState.DETACHED: frozenset({SessionState.ACTIVE, SessionState.ENDED}),
    SessionState.ENDED: frozenset(),
}


class EndReason(StrEnum):
    """Why a session ended: the closed list of `VoiceSession.status.endReason`."""

    CALLER_HANGUP = "CallerHangup"
    AGENT_HANGUP = "AgentHangup"
    SCENARIO_COMPLETED = "ScenarioCompleted"
    SCENARIO_FAILED = "ScenarioFailed"
    TERMINATED = "Terminated"
    MAX_DURATION = "MaxDuration"
    IDLE_TIMEOUT = "IdleTimeout"
    ATTACH_TIMEOUT = "AttachTimeout"
    REATTACH_TIMEOUT = "ReattachTimeout"
    QUEUE_TIMEOUT = "QueueTimeout"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NO_CAPACITY = "NoCapacity"
    PROVIDER_AUTH_FAILED = "ProviderAuthFailed"
    PROVIDER_MODEL_REFUSED = "ProviderModelRefused"
    PROVIDER_QUOTA = "ProviderQuota"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    PROVIDER_PROTOCOL_ERROR = "ProviderProtocolError"
    WORKER_LOST = "WorkerLost"
    SHARD_LOST = "ShardLost"
    DRAIN_DEADLINE = "DrainDeadline"
    INVALID_SPEC = "InvalidSpec"
    INTERNAL = "Internal"


@dataclass(frozen=True, slots=True)
class SessionReport:
    """The state of a session as the worker tells it. Times are Unix seconds, None for not yet.

    `departed`: it has ended here and lives elsewhere, so its end is told without a reason. `untold`: it has
    ended and wrote nothing, since it was handed over and nobody came.
    """

    key: SessionKey
    state: SessionState
    end_reason: EndReason | None = None
    end_message: str = ""
    client_id: str = ""
    web_socket_id: str = ""
    shard: int = 0
    ready_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage = field(default_factory=Usage)
    journal_first: int = 0
    journal_last: int = 0
    origin: Origin = Origin()
    update_refused: str = ""
    recovery_degraded: bool = False
    migratable: bool = False
    departed: bool = False
    untold: bool = False
