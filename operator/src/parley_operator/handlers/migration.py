"""Moves live sessions away from workers that drain, at a quiet moment, unheard by their callers.

Reserve a place, have the old worker hold still and hand over, admit the next attempt elsewhere, wait until it
is ready, tell the old worker where its caller is to go. Only then does the new place count; the session's own
reconciliation writes it down. Whatever fails before leaves the session where it is: the old worker goes on by
itself, the new attempt is ended. An operator that dies in between is mended by `PlacementBook` and `Fence`:
the attempt that is bound stays while it lives, else the one that took over is adopted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, replace

from parley_operator.api.constants import SESSION
from parley_operator.domain.checks import Problem
from parley_operator.domain.migration import (
    AT_ONCE,
    READY_WITHIN,
    is_to_move,
    new_home,
    patience_of,
    pause_after,
)
from parley_operator.domain.model import (
    AdmitRequest,
    AdmitVerdict,
    MigrateOutcome,
    Placement,
    SessionReport,
    SessionState,
    WorkerView,
)
from parley_operator.domain.observation import Observation, Plan, Subject
from parley_operator.domain.placement.ledger import Row
from parley_operator.domain.recovery import attempt_floor, restore_of
from parley_operator.domain.subjects import subject_of

from .admits import admit_request
from .context import Context
from .fence import Fence
from .placements import PlacementBook
from .plans import weigh
from .queue import MIGRATE, Key

log = logging.getLogger(__name__)
_LOOK_EVERY = 0.02
_BUSY_PAUSE = 0.5
# How often an unanswered Moved is repeated: it says the same again.
_TELLS = 3


class MoveFailed(Exception):
    """The session stays where it is; in words why."""


@dataclass(slots=True)
class _Tries:
    failures: int = 0
    not_before: float = 0.0
    newest: int = 0


@dataclass(frozen=True, slots=True)
class _Move:
    """One session on its way."""

    key: Key
    subject: Subject
    old: Placement
    new: Placement
    plan: Plan


class Migrator:
    """The handler of keys `MIGRATE`."""

    def __init__(self, context: Context, book: PlacementBook, fence: Fence) -> None:
        self._context = context
        self._book = book
        self._fence = fence
        self._tries: dict[str, _Tries] = {}
        self._busy: Counter[str] = Counter()

    def consider(self, key: Key, seen: Observation) -> None:
        """Have a session looked at that is to leave its worker."""
        uid = seen.subject.uid
        if uid in self._fence.moving:
            return
        if seen.subject.over or not seen.leaving:
            self._tries.pop(uid, None)
        elif not seen.subject.deleting:
            view = self._context.links.view(seen.placement.worker) if seen.placement else None
            wanted = is_to_move(seen.subject.spec, seen.placement, seen.report, view, seen.now)
            if wanted:
                self._context.queue.add(Key(MIGRATE, key.namespace, key.name))

    def newest(self, uid: str) -> int:
        """The highest attempt that moves tried, 0 for none: it may live, whether it was heard of or not."""
        tries = self._tries.get(uid)
        return tries.newest if tries is not None else 0

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        self._tries.pop(uid, None)

    async def migrate(self, key: Key) -> float | None:
        """Move the session; seconds until the next try, `None` when it is done or not needed."""
        found = self._wanted(key)
        if found is None:
            return None
        subject, old, view = found
        uid, clock = subject.uid, self._context.clock
        tries = self._tries.setdefault(uid, _Tries())
        if clock.monotonic() < tries.not_before:
            return tries.not_before - clock.monotonic()
        most = max(1, self._context.settings.concurrency // 2)
        if self._busy[view.name] >= AT_ONCE or self._busy.total() >= most:
            return _BUSY_PAUSE
        self._busy[view.name] += 1
        self._fence.moving.add(uid)
        try:
            await self._move(key, subject, old, view, tries)
        except MoveFailed as why:
            tries.failures += 1
            pause = pause_after(tries.failures)
            tries.not_before = clock.monotonic() + pause
            self._context.metrics.migrated("failed")
            log.warning("%s/%s: stays on worker %s: %s", key.namespace, key.name, view.name, why)
            return pause
        finally:
            self._fence.moving.discard(uid)
            self._busy[view.name] -= 1
            self._busy += Counter()
            self._context.ledger.release(_promise(uid))
            self._context.queue.add(Key(SESSION, key.namespace, key.name))
        self._tries.pop(uid, None)
        self._context.metrics.migrated("moved")
        return None

    def _wanted(self, key: Key) -> tuple[Subject, Placement, WorkerView] | None:
        body = self._context.cache.get(SESSION, key.namespace, key.name)
        if body is None:
            return None
        subject, _ = subject_of(body)
        old = self._book.get(subject.uid)
        view = self._context.links.view(old.worker) if old else None
        report = view.sessions.get(subject.uid) if view else None
        now = self._context.clock.now()
        if subject.over or subject.deleting or subject.uid in self._fence.moving:
            return None
        if old is None or view is None or not is_to_move(subject.spec, old, report, view, now):
            return None
        return subject, old, view

    async def _move(
        self, key: Key, subject: Subject, old: Placement, view: WorkerView, tries: _Tries
    ) -> None:
        weighed = await weigh(self._context, subject)
        if isinstance(weighed, Problem):
            raise MoveFailed(weighed.message)
        row = new_home(self._context.desk, weighed.choices, old.worker, self._context.clock.monotonic())
        home = self._context.links.view(row.worker) if row else None
        if row is None or home is None or home.instance_id != row.instance_id:
            raise MoveFailed("no other worker has room")
        self._context.ledger.reserve(_promise(subject.uid), subject.namespace, row.worker)
        tries.newest = max(tries.newest, self._book.newest_attempt(subject)) + 1
        move = _Move(key, subject, old, _place(row, home, tries.newest), weighed.plans[row.pool])
        given = await self._hand_over(move, view)
        new = await self._admit(move, given)
        try:
            await self._take_over(replace(move, new=new))
        except MoveFailed:
            await self._call_off(move)
            raise

    async def _hand_over(self, move: _Move, view: WorkerView) -> MigrateOutcome:
        uid, patience = move.subject.uid, patience_of(view, self._context.clock.now())
        given = await self._context.links.migrate(view.name, uid, move.old.attempt, patience)
        if not given.ready:
            raise MoveFailed(given.message or "the old worker does not hand the session over")
        return given

    async def _admit(self, move: _Move, given: MigrateOutcome) -> Placement:
        outcome = await self._context.links.admit(move.new.worker, self._request(move, given))
        self._context.metrics.admitted(outcome.verdict.value)
        if outcome.verdict is AdmitVerdict.UNKNOWN:
            await self._call_off(move)
        if outcome.verdict is not AdmitVerdict.ADMITTED:
            raise MoveFailed(f"worker {move.new.worker} does not take it: {outcome.verdict.value}")
        return replace(
            move.new,
            confirmed=True,
            shard=outcome.shard,
            endpoint=outcome.endpoint,
            tls_server_name=outcome.tls_server_name,
            telephony_endpoint=outcome.telephony_endpoint,
            since=self._context.clock.now(),
        )

    def _request(self, move: _Move, given: MigrateOutcome) -> AdmitRequest:
        journal = {
            "stream": given.journal_stream,
            "first": given.journal_first,
            "last": given.journal_last,
        }
        restore = restore_of(move.plan.spec, {"journal": journal}, move.new.attempt, given.hand_over)
        digest = self._book.digest(move.subject.uid)
        return admit_request(move.subject, move.plan, move.new, digest, restore)

    async def _take_over(self, move: _Move) -> None:
        """From ready to told. Raises `MoveFailed` as long as there is a way back."""
        await self._ready(move)
        self._check_wanted(move)
        links, uid = self._context.links, move.subject.uid
        told: bool | None = None
        for _ in range(_TELLS):
            told = await links.moved(move.old.worker, uid, move.old.attempt, move.new)
            if told is not None:
                break
        if told is False:
            raise MoveFailed("the old worker went on: it was told too late")
        if told is None and self._old_lives(move):
            # Whether it heard us will show: what it reports decides, see `PlacementBook.find`.
            log.warning("%s/%s: worker %s did not answer", move.key.namespace, move.key.name, move.old.worker)
            return
        self._check_wanted(move)
        self._book.remember(move.key, uid, move.new)
        self._fence.told(uid, move.old.worker, move.old.attempt)
        log.info(
            "%s/%s: moved from worker %s to %s",
            move.key.namespace,
            move.key.name,
            move.old.worker,
            move.new.worker,
        )

    async def _ready(self, move: _Move) -> None:
        clock, uid = self._context.clock, move.subject.uid
        until = clock.monotonic() + READY_WITHIN
        while clock.monotonic() < until:
            report = self._report(move.new, uid)
            if report is not None and report.state is SessionState.ENDED:
                raise MoveFailed(f"it ended on worker {move.new.worker}: {report.end_reason}")
            if report is not None and report.state is not SessionState.CONNECTING:
                return
            await asyncio.sleep(_LOOK_EVERY)
        raise MoveFailed(f"it was not ready on worker {move.new.worker} within {READY_WITHIN:.0f} s")

    def _report(self, place: Placement, uid: str) -> SessionReport | None:
        view = self._context.links.view(place.worker)
        if view is None or view.instance_id != place.instance_id:
            return None
        report = view.sessions.get(uid)
        return report if report is not None and report.attempt == place.attempt else None

    def _check_wanted(self, move: _Move) -> None:
        """Raises `MoveFailed` for a session that ended, or that was placed anew, while it moved."""
        if not self._still_wanted(move):
            raise MoveFailed("the session ended or was placed anew meanwhile")

    def _still_wanted(self, move: _Move) -> bool:
        body = self._context.cache.get(SESSION, move.key.namespace, move.key.name)
        if body is None:
            return False
        subject, _ = subject_of(body)
        if subject.uid != move.subject.uid or subject.over or subject.deleting:
            return False
        place = self._book.get(subject.uid)
        known = place is not None and (place.worker, place.attempt) in (_whose(move.old), _whose(move.new))
        return known and attempt_floor(subject.status) <= move.new.attempt

    def _old_lives(self, move: _Move) -> bool:
        view = self._context.links.view(move.old.worker)
        return view is not None and view.instance_id == move.old.instance_id and not view.dead

    async def _call_off(self, move: _Move) -> None:
        found = await self._context.links.terminate(
            move.new.worker, move.subject.uid, move.new.attempt, "WorkerLost", "the session stays where it is"
        )
        self._context.metrics.terminated(found)


def _place(row: Row, home: WorkerView, attempt: int) -> Placement:
    return Placement(
        row.worker,
        row.instance_id,
        attempt,
        endpoint=home.media_endpoint,
        tls_server_name=home.tls_server_name,
        telephony_endpoint=home.telephony_endpoint,
    )


def _whose(place: Placement) -> tuple[str, int]:
    return place.worker, place.attempt


def _promise(uid: str) -> str:
    """Under which name the ledger keeps the place that a session is to move to."""
    return f"{uid}/move"
