"""What every session runner is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parley_realtime.transport import TransportName, fastest

from parley_worker.clock import Clock
from parley_worker.config_session import SessionSettings
from parley_worker.core.model import SessionReport
from parley_worker.core.records import EventSink
from parley_worker.core.session_budget import BudgetLimits
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.restoring import Restorer
from parley_worker.runtime.scenario import Scenarios
from parley_worker.runtime.setting_up import SettingUp
from parley_worker.runtime.tool_calls import ToolServices
from parley_worker.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Bounds of one session; seconds and bytes."""

    connect_timeout: float = 10.0
    """From the start of the connection to `session.updated`; waiting for the turn to begin it is apart."""
    setup_wait: float = 30.0
    """For that turn."""
    close_timeout: float = 2.0
    """For the provider's close handshake at the end."""
    cleared_timeout: float = 0.2
    """How long a caller may take to answer Clear."""
    output_bytes: int = 8 * 1024 * 1024
    """Agent audio that may wait; more cancels the response."""
    playout_lead_ms: int = 40
    """Of an answer in real time that a caller is given ahead."""
    input_burst: float = 10.0
    """Caller audio that may be ahead of real time."""
    replay_events: int = 512
    """Conversation events kept for a caller that comes back..."""
    replay_bytes: int = 1024 * 1024
    """...and their bytes."""
    provider_transport: TransportName = field(default_factory=fastest)
    """What speaks WebSocket with the provider."""
    congestion: tuple[str, ...] = ()
    """TCP congestion controls to ask for, for the connection with it; empty: the system's."""
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    """What it may take of its shard."""
    frame_bytes: int = 4 * 1024 * 1024
    """Of one message of the provider; a longer one ends the session."""

    @classmethod
    def of(
        cls, settings: SessionSettings, provider_transport: TransportName, congestion: tuple[str, ...] = ()
    ) -> RunnerSettings:
        """As the process was told."""
        return cls(
            connect_timeout=settings.session_connect_timeout,
            setup_wait=settings.setup_wait,
            close_timeout=settings.session_close_timeout,
            cleared_timeout=settings.session_cleared_timeout,
            output_bytes=settings.session_output_bytes,
            playout_lead_ms=settings.session_playout_lead_ms,
            input_burst=settings.session_input_burst,
            replay_events=settings.session_replay_events,
            replay_bytes=settings.session_replay_bytes,
            budget=settings.budget,
            frame_bytes=settings.session_frame_bytes,
            provider_transport=provider_transport,
            congestion=congestion,
        )


@dataclass(frozen=True, slots=True)
class RunnerDeps:
    """Collaborators of a session. `new_id(prefix)` gives a unique id, `random_token()` an unguessable one
    (>= 32
    random bytes, URL-safe). `on_report` is called at every change of state, of identity or of resume
    token."""

    clock: Clock
    sink: EventSink
    metrics: Metrics
    pacer: Pacer
    on_report: Callable[[SessionReport], None]
    new_id: Callable[[str], str]
    random_token: Callable[[], str]
    worker_instance_id: str
    shard: int = 0
    settings: RunnerSettings = field(default_factory=RunnerSettings)
    setting_up: SettingUp = field(default_factory=SettingUp)
    tools: ToolServices = field(default_factory=ToolServices)
    scenarios: Scenarios = field(default_factory=Scenarios)
    restorer: Restorer = field(default_factory=Restorer)
