"""What every session runner is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parley_realtime.transport import TransportName, fastest

from parley_worker.clock import Clock
from parley_worker.core.model import SessionReport
from parley_worker.core.records import EventSink
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.scenario import Scenarios
from parley_worker.runtime.tool_calls import ToolServices
from parley_worker.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Bounds of one session; seconds and bytes."""

    connect_timeout: float = 10.0
    """From the start of the connection to `session.updated`."""
    close_timeout: float = 2.0
    """For the provider's close handshake at the end."""
    cleared_timeout: float = 0.2
    """How long a caller may take to answer Clear."""
    output_bytes: int = 8 * 1024 * 1024
    """Agent audio that may wait; more cancels the response."""
    input_burst: float = 10.0
    """Caller audio that may be ahead of real time."""
    replay_events: int = 512
    """Conversation events kept for a caller that comes back..."""
    replay_bytes: int = 1024 * 1024
    """...and their bytes."""
    provider_transport: TransportName = field(default_factory=fastest)
    """What speaks WebSocket with the provider."""


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
    tools: ToolServices = field(default_factory=ToolServices)
    scenarios: Scenarios = field(default_factory=Scenarios)
