"""What the reconcilers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parley_operator.api.constants import AGENT, POD, POOL, SESSION
from parley_operator.clock import Clock
from parley_operator.domain.placement.desk import Desk
from parley_operator.domain.placement.ledger import Ledger
from parley_operator.domain.placement.strays import StrayRules
from parley_operator.domain.watches import WatchHealth
from parley_operator.ports import Store, WorkerLinks
from parley_operator.telemetry.metrics import Metrics

from .cache import ObjectCache
from .event_posting import EventLevel, EventPoster
from .notices import Notices
from .queue import KeyedQueue
from .reaper import Reaper
from .revisions import Revisions


@dataclass(frozen=True, slots=True)
class ReconcilerSettings:
    """Times in seconds."""

    default_pool_namespace: str = "default"
    worker_lost_after: float = 60.0
    concurrency: int = 32
    snapshot_wait: float = 5.0
    # Nodes are read, so that pods leave those that are about to go.
    nodes: bool = False
    sweep_every: float = 5.0
    # Everything is listed again this often, since a watch may lose a deletion when it breaks.
    resync_every: float = 300.0
    # The API server is asked how many objects there are this often, to notice a watch that tells nothing.
    count_every: float = 15.0
    # A watch that owes a change for so long is helped out by a list.
    relist_after: float = 20.0
    strays: StrayRules = field(default_factory=StrayRules)


@dataclass(slots=True)
class Context:
    """Shared by the reconcilers of one process; lives on one event loop."""

    store: Store
    links: WorkerLinks
    clock: Clock
    metrics: Metrics
    settings: ReconcilerSettings
    new_ticket: Callable[[], str]
    control_ca: Callable[[], bytes]
    cache: ObjectCache = field(default_factory=ObjectCache)
    queue: KeyedQueue = field(default_factory=KeyedQueue)
    desk: Desk = field(default_factory=Desk)
    notices: Notices = field(default_factory=Notices)
    watches: WatchHealth = field(default_factory=lambda: WatchHealth((SESSION, AGENT, POOL, POD)))
    reaper: Reaper = field(init=False)
    revisions: Revisions = field(default_factory=Revisions)
    events: EventPoster = field(init=False)
    event_level: EventLevel = EventLevel.ALL

    def __post_init__(self) -> None:
        self.reaper = Reaper(self.store, lambda: len(self.queue) > self.settings.concurrency)
        self.cache.listener = self.notices.observed
        self.events = EventPoster(self.store, self.clock, level=self.event_level, counted=self.metrics.event)

    @property
    def ledger(self) -> Ledger:
        return self.desk.ledger
