"""Observation: everything a decision about one session needs, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from parley_operator.api.v1alpha1 import SessionSpec

from .checks import Problem
from .conduct import Conduct
from .model import Placement, ProviderTarget, SessionReport
from .phases import TERMINAL, Phase
from .placement.demand import Grant
from .placement.desk import Standing


class Fate(Enum):
    """What is known of the worker instance that a session was given to."""

    ANSWERS = "answers"
    SILENT = "silent"
    RESTARTED = "restarted"
    GONE = "gone"


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
        try:
            return Phase(str(self.status.get("phase", "Pending")))
        except ValueError:
            return Phase.PENDING

    @property
    def over(self) -> bool:
        return self.phase in TERMINAL


@dataclass(frozen=True, slots=True)
class Observation:
    """One session and its surroundings at `now` (unix seconds).

    `plan` is `None` when it was not needed (the session is placed, over, or waits). `grant` is a place that
    is kept for the session, `standing` its place in the queue; `refusals` which workers said no, for
    people.
    """

    subject: Subject
    now: float
    plan: Plan | Problem | None = None
    placement: Placement | None = None
    report: SessionReport | None = None
    fate: Fate = Fate.ANSWERS
    silent_for: float = 0.0
    lost_after: float = 60.0
    grant: Grant | None = None
    standing: Standing | None = None
    refusals: str = ""
    node: str = ""
    journal_degraded: bool = False
    ticket_hash: str = ""
    ticket_secret: str = ""
