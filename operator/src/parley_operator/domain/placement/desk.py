"""The desk: hands out the places of the ledger to those who wait in the lines.

After `serve` nobody waits who could be placed, so a wake-up looks only at what became free. Times are
seconds on one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from parley_operator.domain.model import WorkerView

from .choose import best
from .demand import Choice, Choices, Grant, PoolName, PoolRules, Request
from .ledger import Ledger, Row
from .queue import Line

_UNLIMITED = 1_000_000_000


class WaitReason(StrEnum):
    """Why a session waits."""

    FULL = "Full"
    OVER_QUOTA = "OverQuota"
    NO_MATCH = "NoMatchingWorker"
    NO_WORKER = "NoWorker"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a session stands. `position` 1 is next, of `length` in its line; `waiting` counts all lines.

    `refused`: every pool that it may use refuses it for its quota.
    """

    position: int
    length: int
    waiting: int
    reason: WaitReason
    refused: bool = False


@dataclass(frozen=True, slots=True)
class _Waiter:
    request: Request
    mark: tuple[float, int, str]


class Desk:
    """Lives on the reconciler's event loop."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._rules: dict[PoolName, PoolRules] = {}
        self._lines: dict[PoolName, Line] = {}
        self._waiters: dict[str, _Waiter] = {}
        self._grants: dict[str, Grant] = {}
        # In which order sessions came, kept as long as they may have to wait again.
        self._came: dict[str, int] = {}
        self._next = 0

    # -- pools and workers

    def set_rules(self, pool: PoolName, rules: PoolRules) -> None:
        """What the pool says about placing; the wanted revision is told apart from it."""
        known = self.rules(pool)
        wanted = PoolRules(rules.placement, rules.quotas, known.revision)
        if wanted == known and pool in self._rules:
            return
        self._rules[pool] = wanted
        line = self._lines.get(pool)
        if line is not None:
            line.reweigh()
        self.ledger.dirty.add(pool)

    def forget_rules(self, pool: PoolName) -> None:
        self._rules.pop(pool, None)
        if not self._lines.get(pool, True):
            del self._lines[pool]

    def rules(self, pool: PoolName) -> PoolRules:
        return self._rules.get(pool) or PoolRules()

    def wanted_revision(self, pool: PoolName, revision: str) -> None:
        """The revision that the pool's workers are to have: those that have it are preferred."""
        known = self.rules(pool)
        if known.revision != revision:
            self._rules[pool] = PoolRules(known.placement, known.quotas, revision)

    def see(self, view: WorkerView | None, worker: str) -> None:
        """Take over what is known of a worker; `None`: nothing at the moment."""
        if view is None:
            self.ledger.unsee(worker)
        else:
            self.ledger.see(view)

    # -- sessions

    def want(self, request: Request) -> None:
        """Stand in line; who stands there already keeps the place. `serve` gives places."""
        uid = request.uid
        if uid in self._grants:
            return
        waiter = self._waiters.get(uid)
        if waiter is not None:
            if (waiter.request.choices, waiter.request.urgent) == (request.choices, request.urgent):
                return
            self._leave(waiter)
        if uid not in self._came:
            self._next += 1
            self._came[uid] = self._next
        waiter = _Waiter(request, (request.created, self._came[uid], uid))
        self._waiters[uid] = waiter
        for pool in request.pools:
            self._line(pool).join(request, waiter.mark)
            self.ledger.dirty.add(pool)

    def grant(self, uid: str) -> Grant | None:
        """The place that is kept for the session; one that is no longer to be had is given back."""
        found = self._grants.get(uid)
        if found is None:
            return None
        row = self.ledger.row(found.worker)
        if row is not None and row.open and row.instance_id == found.instance_id:
            return found
        self._give_back(uid)
        return None

    def take(self, uid: str) -> None:
        """The session goes to its place: from now on only the ledger's reservation is kept."""
        self._grants.pop(uid, None)

    def leave(self, uid: str) -> None:
        """The session wants no place now; its turn is remembered."""
        waiter = self._waiters.get(uid)
        if waiter is not None:
            self._leave(waiter)
        self._give_back(uid)

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        self.leave(uid)
        self.ledger.release(uid)
        self._came.pop(uid, None)

    def refused(self, uid: str, worker: str, instance_id: str, now: float, seconds: float) -> float:
        """A worker said no: the session may wait again. Returns until when nobody is sent there."""
        until = self.ledger.shun(worker, instance_id, now, seconds)
        self._grants.pop(uid, None)
        self.ledger.release(uid)
        return until

    def serve(self, now: float) -> list[Request]:
        """Hand out what became free; returns who got a place, in order."""
        self.ledger.expire(now)
        served: list[Request] = []
        while self.ledger.dirty:
            pool = self.ledger.dirty.pop()
            line = self._lines.get(pool)
            if line and self.ledger.has_room(pool):
                served += _Round(self, now).serve(line)
        return served

    def standing(self, uid: str, now: float) -> Standing | None:
        """Where the session stands; `None` when it stands in no line."""
        waiter = self._waiters.get(uid)
        if waiter is None:
            return None
        request = waiter.request
        places = []
        for pool in request.pools:
            line = self._lines[pool]

            def left(namespace: str, pool: PoolName = pool) -> int:
                return self._left(pool, namespace)

            places.append((line.ahead(request, waiter.mark, left) + 1, len(line)))
        position, length = min(places)
        quotas = [self.rules(pool).quota(request.namespace) for pool in request.pools]
        refused = self._exceeded(request) and all(quota.refuse for quota in quotas)
        return Standing(position, length, len(self._waiters), self.why(request), refused)

    def why(self, request: Request) -> WaitReason:
        """Why the session has no place."""
        if self._exceeded(request):
            return WaitReason.OVER_QUOTA
        answering = False
        for choice in request.choices:
            for row in self.ledger.rows(choice.pool):
                if row.open and choice.need.met_by(row.labels, row.zone):
                    return WaitReason.FULL
                answering = answering or row.open
        return WaitReason.NO_MATCH if answering else WaitReason.NO_WORKER

    def _exceeded(self, request: Request) -> bool:
        return not request.urgent and all(self._left(p, request.namespace) < 1 for p in request.pools)

    def waiting(self, pool: PoolName) -> int:
        """How many wait in the line of the pool; who may use several pools waits in all of their lines."""
        return len(self._lines.get(pool, ()))

    def lacking(self, pool: PoolName) -> int:
        """How many wait for the pool that more workers would help: all that their quotas let in."""
        line = self._lines.get(pool)
        if line is None:
            return 0
        return line.urgent + sum(min(count, self._left(pool, space)) for space, count in line.sizes())

    def waiters(self) -> list[Request]:
        """All who wait."""
        return [waiter.request for waiter in self._waiters.values()]

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def grants(self) -> int:
        return len(self._grants)

    # -- inside

    def request(self, uid: str) -> Request:
        """What one who waits asks for."""
        return self._waiters[uid].request

    def _line(self, pool: PoolName) -> Line:
        if pool not in self._lines:
            self._lines[pool] = Line(lambda namespace: self.rules(pool).quota(namespace).weight)
        return self._lines[pool]

    def _leave(self, waiter: _Waiter) -> None:
        del self._waiters[waiter.request.uid]
        for pool in waiter.request.pools:
            self._lines[pool].leave(waiter.request, waiter.mark)

    def _give_back(self, uid: str) -> None:
        if self._grants.pop(uid, None) is not None:
            self.ledger.release(uid)

    def _left(self, pool: PoolName, namespace: str) -> int:
        most = self.rules(pool).quota(namespace).most
        return _UNLIMITED if most is None else max(0, most - self.ledger.used_by(pool, namespace))

    def _place(self, uid: str, row: Row) -> None:
        waiter = self._waiters[uid]
        self._leave(waiter)
        self.ledger.reserve(uid, waiter.request.namespace, row.worker)
        self._grants[uid] = Grant(uid, row.worker, row.instance_id, row.pool)


class _Round:
    """One handing out. Places only become fewer meanwhile: what was not to be had is not looked for again."""

    def __init__(self, desk: Desk, now: float) -> None:
        self._desk = desk
        self._now = now
        self._none: set[Choice] = set()
        self._served: list[Request] = []

    def serve(self, line: Line) -> list[Request]:
        line.serve(self._offer)
        return self._served

    def _offer(self, uid: str, choices: Choices) -> bool:
        request = self._desk.request(uid)
        for choice in choices:
            if choice in self._none:
                continue
            if not request.urgent and self._desk._left(choice.pool, request.namespace) < 1:
                continue
            row = self._best(choice)
            if row is not None:
                self._desk._place(uid, row)
                self._served.append(request)
                return True
        return False

    def _best(self, choice: Choice) -> Row | None:
        ledger = self._desk.ledger
        fitting = (r for r in ledger.roomy(choice.pool, self._now) if choice.need.met_by(r.labels, r.zone))
        row = best(fitting, self._desk.rules(choice.pool))
        if row is None:
            self._none.add(choice)
        return row
