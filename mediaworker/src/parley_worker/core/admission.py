"""Who gets a place on this worker, and which messages come too late: pure decisions, no I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Generic, TypeVar

ENDED_SECONDS = 15 * 60.0
ENDED_COUNT = 1024
TRY_ANOTHER = ": try another worker"

T = TypeVar("T")


class WorkerState(Enum):
    """The life of a worker."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.READY, WorkerState.DRAINING, WorkerState.STOPPED}),
    WorkerState.READY: frozenset({WorkerState.DRAINING, WorkerState.STOPPED}),
    WorkerState.DRAINING: frozenset({WorkerState.STOPPED}),
    WorkerState.STOPPED: frozenset(),
}


class RefusalReason(StrEnum):
    """Why a worker says no; the words are also metric labels."""

    FULL = "Full"
    DRAINING = "Draining"
    INVALID = "Invalid"
    STALE_LEADER = "StaleLeader"
    STALE_ATTEMPT = "StaleAttempt"
    WRONG_INSTANCE = "WrongInstance"
    ENDED = "Ended"
    OVERLOADED = "Overloaded"


@dataclass(frozen=True, slots=True)
class Fence:
    """Who sends a message (epoch of the leader) and for whom it is meant (instance of the worker process)."""

    leader_epoch: int
    worker_instance_id: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The worker's no, for machines and for people."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True)
class Place:
    """The worker's yes. `new` is false for a repeated request; `replaces`: an older attempt must end."""

    new: bool
    replaces: bool = False


class EndedMemory(Generic[T]):
    """What ended lately, by uid: at most 1024 entries and 15 minutes, the oldest forgotten first."""

    def __init__(self, count: int = ENDED_COUNT, seconds: float = ENDED_SECONDS) -> None:
        self._count, self._seconds = count, seconds
        self._entries: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, uid: str, value: T, now: float) -> None:
        self._entries.pop(uid, None)
        self._entries[uid] = (now, value)
        self._forget(now)

    def get(self, uid: str, now: float) -> T | None:
        self._forget(now)
        entry = self._entries.get(uid)
        return entry[1] if entry else None

    def values(self, now: float) -> Iterator[T]:
        self._forget(now)
        return iter([value for _, value in self._entries.values()])

    def _forget(self, now: float) -> None:
        while self._entries:
            uid, (at, _) = next(iter(self._entries.items()))
            if len(self._entries) <= self._count and now - at < self._seconds:
                return
            del self._entries[uid]


class Admission:
    """The places of one worker.

    Every `now` is monotonic seconds. A request that repeats the uid and attempt of a live session gets the
    same yes, while draining too. Fences are checked first: nothing stale changes anything.
    """

    def __init__(self, capacity: int, instance: str) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        self.instance = instance
        self._state = WorkerState.STARTING
        self._epoch = 0
        self._live: dict[str, int] = {}
        self._leaving: set[tuple[str, int]] = set()
        self._ended: EndedMemory[int] = EndedMemory()
        self.total = 0
        """Places given so far."""

    @property
    def state(self) -> WorkerState:
        return self._state

    @property
    def sessions(self) -> int:
        """Places taken, those of replaced attempts that have not ended yet included."""
        return len(self._live) + len(self._leaving)

    def become(self, state: WorkerState) -> bool:
        """Move to `state`; false when the worker is already there or past it."""
        if state not in TRANSITIONS[self._state]:
            return False
        self._state = state
        return True

    def check(self, fence: Fence, *, instance_optional: bool = False) -> Refusal | None:
        """Refuse a message of a stale leader or for another process; remember the highest epoch seen."""
        meant_for = fence.worker_instance_id
        if meant_for != self.instance and not (instance_optional and not meant_for):
            return Refusal(
                RefusalReason.WRONG_INSTANCE,
                f"fence.worker_instance_id is {meant_for!r}, this process is {self.instance!r}: watch it",
            )
        if fence.leader_epoch < self._epoch:
            return Refusal(
                RefusalReason.STALE_LEADER,
                f"fence.leader_epoch is {fence.leader_epoch}, {self._epoch} was seen: a newer leader leads",
            )
        self._epoch = fence.leader_epoch
        return None

    def check_attempt(self, uid: str, attempt: int, now: float) -> Refusal | None:
        """Refuse an attempt that is lower than one seen for the uid."""
        seen = max(self._live.get(uid, 0), self._ended.get(uid, now) or 0)
        if attempt < seen:
            return Refusal(
                RefusalReason.STALE_ATTEMPT,
                f"session.attempt is {attempt}, attempt {seen} was seen for this session",
            )
        return None

    def admit(
        self, uid: str, attempt: int, fence: Fence, now: float, overloaded: str | None = None
    ) -> Place | Refusal:
        """Take a place or say why not. `overloaded` names what is short, when something is."""
        refusal = self.check(fence) or self.check_attempt(uid, attempt, now)
        if refusal:
            return refusal
        held = self._live.get(uid)
        if held == attempt:
            return Place(new=False)
        if self._ended.get(uid, now) == attempt:
            return Refusal(RefusalReason.ENDED, f"attempt {attempt} of this session was here and has ended")
        if self._state in (WorkerState.DRAINING, WorkerState.STOPPED):
            return Refusal(RefusalReason.DRAINING, "the worker is draining: try another one")
        if self._state is WorkerState.STARTING:
            return Refusal(RefusalReason.OVERLOADED, "the worker is starting: try again when it is ready")
        if overloaded:
            return Refusal(RefusalReason.OVERLOADED, f"{overloaded}{TRY_ANOTHER}")
        if held is None and self.sessions >= self.capacity:
            return Refusal(
                RefusalReason.FULL, f"all {self.capacity} places of the worker are taken: try another one"
            )
        if held is not None:
            self._leaving.add((uid, held))
        self._live[uid] = attempt
        self.total += 1
        return Place(new=True, replaces=held is not None)

    def ended(self, uid: str, attempt: int, now: float) -> None:
        """Give the place of a session back; a replaced attempt leaves the newer one alone."""
        held = self._live.get(uid)
        if held == attempt:
            del self._live[uid]
            self._ended.put(uid, attempt, now)
        else:
            self._leaving.discard((uid, attempt))

    def withdraw(self, uid: str, attempt: int) -> None:
        """Take a new place back as if it had never been given; an attempt that it replaced keeps its own."""
        if self._live.get(uid) != attempt:
            return
        del self._live[uid]
        self.total -= 1
        older = max((held for known, held in self._leaving if known == uid), default=None)
        if older is not None:
            self._leaving.discard((uid, older))
            self._live[uid] = older
