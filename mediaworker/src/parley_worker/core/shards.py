"""Which shard takes a session, when one counts as lost, and how soon it is started again: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from parley_worker.core.admission import Refusal, RefusalReason

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0


class ShardState(Enum):
    """The life of a shard's place; its processes come and go."""

    STARTING = "starting"
    """A process was started and does not serve yet."""
    UP = "up"
    """It serves."""
    DOWN = "down"
    """Its process is gone; the next one waits for its turn."""
    STOPPED = "stopped"
    """The worker goes away."""


TRANSITIONS: dict[ShardState, frozenset[ShardState]] = {
    ShardState.STARTING: frozenset({ShardState.UP, ShardState.DOWN, ShardState.STOPPED}),
    ShardState.UP: frozenset({ShardState.DOWN, ShardState.STOPPED}),
    ShardState.DOWN: frozenset({ShardState.STARTING, ShardState.STOPPED}),
    ShardState.STOPPED: frozenset(),
}


class LossCause(StrEnum):
    """How a shard was lost; the words are also metric labels."""

    START = "start"
    """It never came to serve."""
    EXIT = "exit"
    """It ended by itself."""
    SIGNAL = "signal"
    """It was killed, by the kernel or by somebody."""
    SILENT = "silent"
    """It gave no sign of life and was killed for it."""


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard as admission sees it. `overloaded` names what is short there, and is empty when nothing is."""

    index: int
    state: ShardState
    capacity: int
    sessions: int = 0
    overloaded: str = ""

    @property
    def open(self) -> bool:
        return self.state is ShardState.UP and not self.overloaded


def share(total: int, count: int, index: int) -> int:
    """The part of `total` that shard `index` of `count` has; the parts differ by 1 at most."""
    return total // count + (index < total % count)


def choose(views: Sequence[ShardView], preferred: int | None = None) -> int | Refusal:
    """The shard with the fewest sessions among those that are open and have room.

    `preferred` is taken whenever it is open: an older attempt of the session makes room there. A refusal says
    what is short: for now (OVERLOADED), or until a session ends (FULL).
    """
    open_views = [view for view in views if view.open]
    if any(view.index == preferred for view in open_views):
        assert preferred is not None
        return preferred
    roomy = [view for view in open_views if view.sessions < view.capacity]
    if roomy:
        return min(roomy, key=lambda view: (view.sessions, view.index)).index
    up = [view for view in views if view.state is ShardState.UP]
    if not up:
        return Refusal(RefusalReason.OVERLOADED, "no shard of the worker is up")
    lagging = [view for view in up if view.overloaded and view.sessions < view.capacity]
    if lagging:
        return Refusal(RefusalReason.OVERLOADED, f"shard {lagging[0].index}: {lagging[0].overloaded}")
    places = sum(view.capacity for view in up)
    return Refusal(RefusalReason.FULL, f"all {places} places of the worker are taken: try another one")


class Silence:
    """How long nothing was heard of a shard, as far as the listener was awake to hear it.

    A listener that slept (a stopped process, a suspended machine) must not take its own sleep for the shard's
    silence: between two looks at most `most` seconds are counted.
    """

    def __init__(self, now: float, most: float) -> None:
        self._looked, self._most = now, most
        self.seconds = 0.0

    def heard(self) -> None:
        self.seconds = 0.0

    def look(self, now: float) -> float:
        """Count the time since the last look; the silence so far, in seconds."""
        self.seconds += min(max(0.0, now - self._looked), self._most)
        self._looked = now
        return self.seconds


class Pauses:
    """How long to wait before a lost shard is started again: 0.1 s, doubling up to 30 s.

    A process that served for a minute begins anew.
    """

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, served: float) -> float:
        """The pause after a process that served that many seconds."""
        if served >= STEADY_SECONDS:
            self._next = FIRST_PAUSE
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE)
        return pause
