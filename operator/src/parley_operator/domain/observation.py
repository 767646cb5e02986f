"""Observation: everything a decision about one session needs, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from parley_operator.api.v1alpha1 import SessionSpec

from .checks import Problem
from .conduct import Conduct
from .model import Origin, Placement, ProviderTarget, SessionReport
from .phases import TERMINAL, Phase
from .placement.demand import Grant
from .placement.desk import Standing


class Fate(Enum):
    """What is known of the worker instance that a session was given to."""

    ANSWERS = "answers"
    SILENT = "silent"
    RESTARTED = "restarted"
    GONE = "gone"


_PHASES: Mapping[object, Phase] = {phase.value: phase for phase in Phase}


@dataclass(frozen=True, slots=True)
class Plan:
    """A session that every check let through."""

    spec: SessionSpec
    pool_namespace: str
    pool_name: str
    provider: ProviderTarget
    session_json: str
    greet: bool
    conduct: Conduct = field(default_factory=Conduct)
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, slots=True)
class Subject:
    """The session object. Times are unix seconds; `spec` is `None` when it cannot be parsed; `deleting` when
    somebody's finalizer keeps a deleted object."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: float
    spec: SessionSpec | None
    status: Mapping[str, object] = field(default_factory=dict)
    deleting: bool = False

    @property
    def phase(self) -> Phase:
        return _PHASES.get(self.status.get("phase"), Phase.PENDING)

    @property
    def over(self) -> bool:
        return self.phase in TERMINAL


@dataclass(frozen=True, slots=True)
class Observation:
    """One session and its surroundings at `now` (unix seconds).

    `plan` is `None` when it was not needed (the session is placed, over, or waits). `grant` is a place that
    is kept for the session, `standing` its place in the queue; `refusals` which workers said no, for
    people. `last` is the last report of the placement, also of a worker that is gone. `vouched`: the kubelet
    says that a silent worker runs. `newest_attempt` is the highest that was ever heard of. `leaving`: the
    worker drains, until `drain_deadline` (0 for unknown). `leapt`: so many seconds the clock of `now` was set
    forward while the session waited.
    """

    subject: Subject
    now: float
    plan: Plan | Problem | None = None
    placement: Placement | None = None
    report: SessionReport | None = None
    last: SessionReport | None = None
    fate: Fate = Fate.ANSWERS
    silent_for: float = 0.0
    lost_after: float = 60.0
    grant: Grant | None = None
    standing: Standing | None = None
    refusals: str = ""
    vouched: bool = False
    newest_attempt: int = 0
    leaving: bool = False
    drain_deadline: float = 0.0
    node: str = ""
    journal_degraded: bool = False
    ticket_hash: str = ""
    ticket_secret: str = ""
    worker_pool: str = ""
    leapt: float = 0.0

    @property
    def steady(self) -> float:
        """`now`, had nobody set the clock since the session began to wait: what deadlines are held against,
        so that a clock that leaps ends no session."""
        return self.now - self.leapt

    @property
    def generation(self) -> int:
        """The generation that the status speaks of: the one that the worker judged last, while it runs the
        session."""
        running = self.report.origin.generation if self.report is not None and self.report.live else 0
        return min(running, self.subject.generation) if running else self.subject.generation

    @property
    def private(self) -> bool:
        """Words about the session may hold content that is nobody's business: also where its spec cannot be
        read."""
        return self.subject.spec is None or self.subject.spec.privacy

    @property
    def pool(self) -> str:
        """Name of the pool that the session runs on or waits for; empty when it is not known."""
        return self.plan.pool_name if isinstance(self.plan, Plan) else self.worker_pool
