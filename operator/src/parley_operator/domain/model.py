"""What the control plane knows of workers and sessions, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import LimitsSpec

from .conduct import Conduct


def worker_id(namespace: str, name: str) -> str:
    """The key of a worker: pods of two namespaces may have one name. Without a namespace just the name."""
    return f"{namespace}/{name}" if namespace and name else name


class WorkerState(Enum):
    """Life of a worker as it reports it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class SessionState(Enum):
    """Life of a session on a worker."""

    CONNECTING = "connecting"
    READY = "ready"
    ACTIVE = "active"
    DETACHED = "detached"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session used: tokens as the provider counts them, audio in seconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    input_audio_seconds: float = 0.0
    output_audio_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session runs as: the generation of its VoiceSession (0: not known), and its agent's name,
    revision (name of the ControllerRevision) and generation."""

    generation: int = 0
    agent: str = ""
    agent_revision: str = ""
    agent_generation: int = 0


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A session as its worker sees it. Times are unix seconds, 0 when not yet.

    `origin.generation` was judged last; `update_refused` says why that one is not run, empty when it is.
    """

    uid: str
    attempt: int
    namespace: str
    name: str
    state: SessionState
    end_reason: str = ""
    end_message: str = ""
    client_id: str = ""
    web_socket_id: str = ""
    shard: int = 0
    endpoint: str = ""
    tls_server_name: str = ""
    telephony_endpoint: str = ""
    ready_time: float = 0.0
    start_time: float = 0.0
    end_time: float = 0.0
    usage: Usage = Usage()
    journal_stream: str = ""
    journal_first: int = 0
    journal_last: int = 0
    origin: Origin = Origin()
    update_refused: str = ""
    recovery_degraded: bool = False
    migratable: bool = False
    end_untold: bool = False

    @property
    def live(self) -> bool:
        return self.state is not SessionState.ENDED

    @property
    def departed(self) -> bool:
        """The worker has it no more, and does not say how it ended: the session lives elsewhere."""
        return self.state is SessionState.ENDED and not self.end_reason


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the operator knows it now.

    `name` is its `worker_id`. `instance_id` is empty until the first snapshot. `silent_for` is seconds since
    it was last heard; `dead` that its container is known not to run, `vouched` that the kubelet says it does,
    `unreachable` that its node is not ready. `media_endpoint` is where callers will reach it, as far as
    known; `telephony_endpoint` the URL for telephony streams, empty for none. `labels` and `revision` are
    those of its pod, `zone` that of its node; `draining` says that pod or node are to go, until
    `drain_deadline` (unix seconds, 0 while unknown). `parting`: its node is to go,
    others are preferred. `occupied` counts its sessions, also those not reported
    yet; `sessions_total` all since it `started` (unix seconds, 0 while unknown).
    """

    name: str
    namespace: str
    pool: str
    node: str = ""
    instance_id: str = ""
    state: WorkerState = WorkerState.STARTING
    capacity: int = 0
    sessions: Mapping[str, SessionReport] = field(default_factory=dict)
    silent_for: float = 0.0
    connected: bool = False
    dead: bool = False
    media_endpoint: str = ""
    tls_server_name: str = ""
    telephony_endpoint: str = ""
    journal_degraded: bool = False
    revision: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    vouched: bool = False
    unreachable: bool = False
    draining: bool = False
    drain_deadline: float = 0.0
    parting: bool = False
    occupied: int = 0
    started: float = 0.0
    sessions_total: int = 0
    memory_bytes: int = 0

    @property
    def answers(self) -> bool:
        return self.connected and bool(self.instance_id)

    @property
    def leaving(self) -> bool:
        """It takes no sessions any more, and those that it has are better off elsewhere."""
        return self.draining or self.state is WorkerState.DRAINING

    @property
    def live_uids(self) -> frozenset[str]:
        return frozenset(uid for uid, report in self.sessions.items() if report.live)


@dataclass(frozen=True, slots=True)
class ProviderTarget:
    """A provider that the trust rules let through."""

    url: str
    api_version: str
    model: str
    api_key: SecretText = field(repr=False)
    type: str = "custom"
    headers: Mapping[str, str] = field(default_factory=dict)


class RestoreMode(Enum):
    """What becomes of the conversation of a session that is placed again."""

    RESUME = "resume"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Restore:
    """How a worker takes a session over.

    Positions are 0 when not known; `hand_over` is what the earlier worker gave, `None` where it was lost.
    """

    mode: RestoreMode
    journal_stream: str = ""
    journal_first: int = 0
    journal_last: int = 0
    hand_over: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AdmitRequest:
    """Everything a worker needs to run a session, bound to one instance of it."""

    namespace: str
    name: str
    uid: str
    attempt: int
    instance_id: str
    provider: ProviderTarget
    session_json: str
    greet: bool
    limits: LimitsSpec
    ticket_sha256: bytes
    privacy: bool
    provider_audio: str
    conduct: Conduct = field(default_factory=Conduct)
    origin: Origin = Origin()
    restore: Restore | None = None


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """What a live session shall run as from here on, whole."""

    namespace: str
    name: str
    uid: str
    attempt: int
    instance_id: str
    generation: int
    session_json: str = field(repr=False)
    limits: LimitsSpec
    conduct: Conduct


@dataclass(frozen=True, slots=True)
class LastWord:
    """How a session ended that no worker has. `attempt` is its last one, `ended` unix seconds."""

    namespace: str
    name: str
    uid: str
    attempt: int
    reason: str
    message: str
    private: bool
    ended: float
    usage: Usage = Usage()


class AdmitVerdict(StrEnum):
    """How an Admit went.

    UNKNOWN: no answer came, the session may or may not be there. UNREACHABLE: this one was never sent,
    which says nothing of an earlier one.
    """

    ADMITTED = "Admitted"
    UNKNOWN = "Unknown"
    FULL = "Full"
    DRAINING = "Draining"
    OVERLOADED = "Overloaded"
    WRONG_INSTANCE = "WrongInstance"
    INVALID = "Invalid"
    ENDED = "Ended"
    STALE_LEADER = "StaleLeader"
    STALE_ATTEMPT = "StaleAttempt"
    UNREACHABLE = "Unreachable"


# Another worker may be tried after these: the session is surely not on the worker that said so.
ELSEWHERE = frozenset(
    {AdmitVerdict.FULL, AdmitVerdict.DRAINING, AdmitVerdict.OVERLOADED, AdmitVerdict.WRONG_INSTANCE}
)


@dataclass(frozen=True, slots=True)
class AdmitOutcome:
    """A worker's word on an Admit."""

    verdict: AdmitVerdict
    message: str = ""
    shard: int = 0
    endpoint: str = ""
    tls_server_name: str = ""
    telephony_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which worker instance a session was or is being given to."""

    worker: str
    instance_id: str
    attempt: int
    shard: int = 0
    endpoint: str = ""
    tls_server_name: str = ""
    telephony_endpoint: str = ""
    confirmed: bool = False
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class MigrateOutcome:
    """A worker's word on a Migrate.

    `found` is `None` without an answer; `ready`: the session holds still, and `hand_over` is its
    conversation.
    """

    found: bool | None
    ready: bool = False
    hand_over: str = field(default="", repr=False)
    journal_stream: str = ""
    journal_first: int = 0
    journal_last: int = 0
    message: str = ""
