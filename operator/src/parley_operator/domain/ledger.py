"""The reservation ledger: how many places of which worker are taken or promised.

It is rebuilt from the workers' snapshots at every reading; what it adds are reservations, the places
promised to
sessions whose Admit is under way. A worker that does not answer counts as full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .model import WorkerState, WorkerView


@dataclass(frozen=True, slots=True)
class Load:
    """A worker with its free places; `used` counts live sessions and reservations, each uid once."""

    worker: str
    instance_id: str
    capacity: int
    used: int
    silent: bool

    @property
    def free(self) -> int:
        return 0 if self.silent else max(0, self.capacity - self.used)


class Ledger:
    """Reservations by session uid. Not thread-safe; lives on the reconciler's event loop."""

    def __init__(self) -> None:
        self._reserved: dict[str, tuple[str, str]] = {}
        self._shunned: dict[str, tuple[str, float]] = {}

    def load(self, view: WorkerView, now: float) -> Load:
        promised = {uid for uid, place in self._reserved.items() if place == (view.name, view.instance_id)}
        instance, until = self._shunned.get(view.name, ("", 0.0))
        shunned = instance == view.instance_id and now < until
        takes = view.answers and view.state is WorkerState.READY and not shunned
        used = len(view.live_uids | promised)
        return Load(view.name, view.instance_id, view.capacity, used, not takes)

    def loads(self, views: Iterable[WorkerView], now: float) -> list[Load]:
        return [self.load(view, now) for view in views]

    def reserve(self, uid: str, load: Load) -> None:
        """Promise a place. Raises `ValueError` when none is free, which would be a fault of the caller."""
        if uid not in self._reserved and load.free < 1:
            raise ValueError(f"worker {load.worker} has no free place")
        self._reserved[uid] = (load.worker, load.instance_id)

    def restore(self, uid: str, worker: str, instance_id: str) -> None:
        """Promise again what was promised before a restart, even beyond what is free."""
        self._reserved[uid] = (worker, instance_id)

    def release(self, uid: str) -> None:
        self._reserved.pop(uid, None)

    def shun(self, worker: str, instance_id: str, until: float) -> None:
        """Take the worker at its word that it is full, until its next report can be trusted again."""
        self._shunned[worker] = (instance_id, until)

    def forget_worker(self, worker: str) -> None:
        self._shunned.pop(worker, None)
        for uid in [uid for uid, place in self._reserved.items() if place[0] == worker]:
            del self._reserved[uid]

    @property
    def reservations(self) -> int:
        return len(self._reserved)


def choose_packed(loads: Sequence[Load]) -> Load | None:
    """The fullest worker that still has a place; the name decides between equals."""
    fitting = [load for load in loads if load.free > 0]
    return min(fitting, key=lambda load: (load.free, load.worker), default=None)


def free_places(loads: Iterable[Load]) -> int:
    return sum(load.free for load in loads)
