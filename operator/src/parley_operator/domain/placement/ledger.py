"""The reservation ledger: how many places of which worker are taken or promised.

It follows the workers' reports, and adds reservations: places promised to sessions whose Admit is under
way. A worker that does not answer counts as full. Every change costs what changed, not what there is; only
a worker's snapshot costs its sessions. `dirty` names the pools in which a place may have become free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from parley_operator.domain.model import SessionReport, WorkerState, WorkerView

from .demand import PoolName

SHUN_MOST = 10.0


@dataclass(slots=True)
class Row:
    """A worker. `counted` holds who has a place or the promise of one, each uid once, with its namespace;
    `told` whom it speaks of at all, those that are over included."""

    worker: str
    pool: PoolName
    instance_id: str = ""
    capacity: int = 0
    open: bool = False
    live: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)
    counted: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    revision: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    parting: bool = False

    @property
    def used(self) -> int:
        return len(self.counted)

    @property
    def free(self) -> int:
        return max(0, self.capacity - self.used) if self.open else 0


@dataclass(frozen=True, slots=True)
class _Promise:
    worker: str
    instance_id: str
    namespace: str


class Ledger:
    """Places by worker, reservations by session uid. Not thread-safe; lives on the reconciler's event
    loop.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._pools: dict[PoolName, dict[str, Row]] = {}
        # Of each pool, the workers that are open and have room.
        self._roomy: dict[PoolName, dict[str, Row]] = {}
        self._tally: dict[PoolName, Counter[str]] = {}
        self._reserved: dict[str, _Promise] = {}
        self._promises: dict[str, set[str]] = {}
        self._shunned: dict[str, tuple[str, float]] = {}
        self._strikes: dict[str, int] = {}
        # Of each session, the workers that speak of it.
        self._tellers: dict[str, set[str]] = {}
        self.dirty: set[PoolName] = set()

    # -- what workers say

    def see(self, view: WorkerView) -> None:
        """Take over all that is known of a worker."""
        pool = (view.namespace, view.pool)
        row = self._rows.get(view.name)
        if row is None or row.pool != pool:
            if row is not None:
                self._drop(row)
            row = self._rows[view.name] = Row(view.name, pool)
            self._pools.setdefault(pool, {})[view.name] = row
        if row.instance_id != view.instance_id:
            row.instance_id = view.instance_id
            self._promise_anew(row)
        row.capacity = view.capacity
        row.open = view.answers and view.state is WorkerState.READY and not view.draining
        row.revision, row.zone, row.labels = view.revision, view.zone, view.labels
        row.parting = view.parting
        live = {uid: report.namespace for uid, report in view.sessions.items() if report.live}
        for uid in row.live - live.keys():
            self._leave(row, row.live, uid)
        for uid, namespace in live.items():
            self._enter(row, row.live, uid, namespace)
        for uid in row.told - view.sessions.keys():
            self._hush(row, uid)
        for uid in view.sessions.keys() - row.told:
            self._tell(row, uid)
        self._settle(row)

    def hear(self, worker: str, report: SessionReport) -> None:
        """Take over one report of a worker that has been seen."""
        row = self._rows.get(worker)
        if row is None:
            return
        self._tell(row, report.uid)
        if report.live:
            self._enter(row, row.live, report.uid, report.namespace)
        else:
            self._leave(row, row.live, report.uid)
        self._settle(row)

    def unsee(self, worker: str) -> None:
        """Nothing is known of the worker at the moment; promises stay for when it is seen again."""
        row = self._rows.pop(worker, None)
        if row is not None:
            self._drop(row)

    def forget_worker(self, worker: str) -> None:
        """The worker is gone, and with it what was promised of it."""
        self._shunned.pop(worker, None)
        self._strikes.pop(worker, None)
        for uid in list(self._promises.get(worker, ())):
            self.release(uid)
        self.unsee(worker)

    # -- promises

    def reserve(self, uid: str, namespace: str, worker: str) -> None:
        """Promise a place. Raises `ValueError` when none is free, which would be a fault of the caller."""
        row = self._rows.get(worker)
        mine = self._reserved.get(uid)
        if row is None or (row.free < 1 and (mine is None or mine.worker != worker)):
            raise ValueError(f"worker {worker} has no free place")
        self.restore(uid, worker, row.instance_id, namespace)

    def restore(self, uid: str, worker: str, instance_id: str, namespace: str = "") -> None:
        """Promise again what was promised before a restart, even beyond what is free."""
        wanted = _Promise(worker, instance_id, namespace)
        present = self._reserved.get(uid)
        if present is not None and (present.worker, present.instance_id) == (worker, instance_id):
            return
        self.release(uid)
        self._reserved[uid] = wanted
        self._promises.setdefault(worker, set()).add(uid)
        row = self._rows.get(worker)
        if row is not None and row.instance_id == instance_id:
            self._enter(row, row.promised, uid, namespace)
            self._list(row)

    def release(self, uid: str) -> None:
        promise = self._reserved.pop(uid, None)
        if promise is None:
            return
        others = self._promises[promise.worker]
        others.discard(uid)
        if not others:
            del self._promises[promise.worker]
        row = self._rows.get(promise.worker)
        if row is not None and uid in row.promised:
            self._leave(row, row.promised, uid)
            self._settle(row)

    @property
    def reservations(self) -> int:
        return len(self._reserved)

    # -- distrust

    def shun(self, worker: str, instance_id: str, now: float, seconds: float) -> float:
        """Take the worker at its word that it takes nobody; returns until when.

        One that goes on refusing is left alone for longer and longer, up to `SHUN_MOST` seconds.
        """
        instance, until = self._shunned.get(worker, ("", 0.0))
        if instance == instance_id and now < until:
            return until
        strikes = self._strikes.get(worker, 0)
        until = now + max(seconds, min(SHUN_MOST, seconds * 2.0**strikes))
        self._strikes[worker] = min(strikes + 1, 10)
        self._shunned[worker] = (instance_id, until)
        return until

    def trust(self, worker: str) -> None:
        """It took somebody: the next refusal counts as the first."""
        self._strikes.pop(worker, None)

    def expire(self, now: float) -> None:
        """End the distrust whose time is over."""
        for worker in [worker for worker, (_, until) in self._shunned.items() if now >= until]:
            del self._shunned[worker]
            row = self._rows.get(worker)
            if row is not None:
                self.dirty.add(row.pool)

    # -- what there is

    def row(self, worker: str) -> Row | None:
        return self._rows.get(worker)

    def workers(self) -> set[str]:
        return set(self._rows)

    def rows(self, pool: PoolName) -> Iterator[Row]:
        return iter(self._pools.get(pool, {}).values())

    def roomy(self, pool: PoolName, now: float) -> Iterator[Row]:
        """Workers that would take a session now, as far as known."""
        for row in self._roomy.get(pool, {}).values():
            instance, until = self._shunned.get(row.worker, ("", 0.0))
            if instance != row.instance_id or now >= until:
                yield row

    def has_room(self, pool: PoolName) -> bool:
        """Whether any worker has room, trusted or not."""
        return bool(self._roomy.get(pool))

    def free(self, pool: PoolName, now: float) -> int:
        return sum(row.free for row in self.roomy(pool, now))

    def tellers(self, uid: str) -> tuple[str, ...]:
        """The workers that speak of a session."""
        return tuple(self._tellers.get(uid, ()))

    def used_by(self, pool: PoolName, namespace: str) -> int:
        """Places of the pool that sessions of the namespace have or are promised."""
        tally = self._tally.get(pool)
        return tally[namespace] if tally is not None else 0

    # -- inside

    def _enter(self, row: Row, part: set[str], uid: str, namespace: str) -> None:
        part.add(uid)
        if uid not in row.counted:
            row.counted[uid] = namespace
            self._tally.setdefault(row.pool, Counter())[namespace] += 1

    def _leave(self, row: Row, part: set[str], uid: str) -> None:
        part.discard(uid)
        if uid in row.counted and uid not in row.live and uid not in row.promised:
            self._uncount(row, row.counted.pop(uid))

    def _uncount(self, row: Row, namespace: str) -> None:
        tally = self._tally[row.pool]
        tally[namespace] -= 1
        if tally[namespace] <= 0:
            del tally[namespace]
        # Room for a quota, if not for a place.
        self.dirty.add(row.pool)

    def _tell(self, row: Row, uid: str) -> None:
        row.told.add(uid)
        self._tellers.setdefault(uid, set()).add(row.worker)

    def _hush(self, row: Row, uid: str) -> None:
        row.told.discard(uid)
        others = self._tellers[uid]
        others.discard(row.worker)
        if not others:
            del self._tellers[uid]

    def _promise_anew(self, row: Row) -> None:
        """Another process of the worker: what the one before was promised says nothing of this one."""
        for uid in list(row.promised):
            self._leave(row, row.promised, uid)
        for uid in self._promises.get(row.worker, ()):
            promise = self._reserved[uid]
            if promise.instance_id == row.instance_id:
                self._enter(row, row.promised, uid, promise.namespace)

    def _settle(self, row: Row) -> None:
        if self._list(row):
            self.dirty.add(row.pool)

    def _list(self, row: Row) -> bool:
        """Keep the list of workers with room; returns whether this one has any."""
        if row.free < 1:
            self._roomy.get(row.pool, {}).pop(row.worker, None)
            return False
        self._roomy.setdefault(row.pool, {})[row.worker] = row
        return True

    def _drop(self, row: Row) -> None:
        for namespace in row.counted.values():
            self._uncount(row, namespace)
        for uid in list(row.told):
            self._hush(row, uid)
        for known in (self._pools, self._roomy):
            workers = known.get(row.pool, {})
            workers.pop(row.worker, None)
            if not workers:
                known.pop(row.pool, None)
