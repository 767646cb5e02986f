"""Where sessions are or may be: what this process decided, what status, tickets and workers say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from parley_operator.api.constants import SESSION
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.model import Placement, SessionReport, SessionState, WorkerView
from parley_operator.domain.observation import Fate, Subject
from parley_operator.domain.recovery import attempt_floor
from parley_operator.domain.subjects import bound_placement, subject_of

from .context import Context
from .plans import pools_of
from .queue import Key
from .tickets import Ticket, read_ticket, write_endpoint

# A worker on a node that is not ready counts as gone when nobody heard it for so long.
UNREACHABLE_SILENT = 5.0


class PlacementBook:
    """By session uid; everything is forgotten when the session is over or deleted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._placements: dict[str, Placement] = {}
        self._by_worker: dict[str, dict[str, Key]] = {}
        self._attempts: dict[str, int] = {}
        self._digests: dict[str, bytes] = {}
        # The endpoints that the ticket Secret names: for callers and for telephony.
        self._told: dict[str, tuple[str, str]] = {}
        # Final reports outlive the link that brought them: the pod may be gone before the status is written.
        self._ends: dict[str, tuple[str, str, SessionReport]] = {}
        # The last word of a live session: its worker may take it along when it goes.
        self._last: dict[str, SessionReport] = {}
        # Sessions older than this process, whose note of an unanswered Admit was looked for.
        self._looked: set[str] = set()
        self._started = context.clock.now()

    def get(self, uid: str) -> Placement | None:
        return self._placements.get(uid)

    def keys_on(self, worker: str) -> list[Key]:
        return list(self._by_worker.get(worker, {}).values())

    def remember(self, key: Key, uid: str, placement: Placement) -> None:
        before = self._placements.get(uid)
        if before is not None and before.worker != placement.worker:
            self._leave_worker(before.worker, uid)
        self._placements[uid] = placement
        self._attempts[uid] = max(placement.attempt, self._attempts.get(uid, 0))
        self._by_worker.setdefault(placement.worker, {})[uid] = key

    def unplace(self, uid: str) -> None:
        """The worker surely does not have the session: it waits again, under the same attempt number."""
        placement = self._placements.pop(uid, None)
        if placement is not None:
            self._leave_worker(placement.worker, uid)
        self._context.ledger.release(uid)

    def lose(self, uid: str) -> None:
        """The place is lost, or may be: the next one gets a higher attempt, and nothing older counts."""
        placement = self._placements.get(uid)
        if placement is not None:
            self._attempts[uid] = max(placement.attempt, self._attempts.get(uid, 0)) + 1
        self.unplace(uid)

    def _leave_worker(self, worker: str, uid: str) -> None:
        keys = self._by_worker.get(worker, {})
        keys.pop(uid, None)
        if not keys:
            self._by_worker.pop(worker, None)

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        self.unplace(uid)
        for known in (self._digests, self._told, self._attempts, self._ends, self._last):
            known.pop(uid, None)
        self._looked.discard(uid)

    def restore(self) -> Iterator[None]:
        """Before the first placement: take back what earlier decisions promised; one session at a time."""
        for key, body in self._context.cache.of_kind(SESSION):
            yield
            subject, _ = subject_of(body)
            placement = bound_placement(subject.status)
            if placement is None or subject.over:
                continue
            if not placement.confirmed:
                placement = replace(placement, since=self._context.clock.now())
                self._promise(subject, placement)
            self.remember(key, subject.uid, placement)

    def _promise(self, subject: Subject, placement: Placement) -> None:
        ledger = self._context.ledger
        ledger.restore(subject.uid, placement.worker, placement.instance_id, subject.namespace)

    def next_attempt(self, subject: Subject) -> int:
        """The number for a placement that follows no lost one; it never falls."""
        return max(1, self._floor(subject))

    def _floor(self, subject: Subject) -> int:
        """Attempts below are over, whatever is heard of them."""
        return max(self._attempts.get(subject.uid, 0), attempt_floor(subject.status))

    def newest_attempt(self, subject: Subject) -> int:
        """The highest number that was ever tried, as far as anybody tells."""
        heard = max((view.sessions[subject.uid].attempt for view in self._tellers(subject.uid)), default=0)
        return max(heard, self._floor(subject))

    def skip_attempt(self, uid: str, attempt: int) -> None:
        """A worker has seen a higher number than `attempt`."""
        self._attempts[uid] = max(attempt + 1, self._attempts.get(uid, 0))

    # -- tickets

    def digest(self, uid: str) -> bytes:
        return self._digests.get(uid, b"")

    def ticket_made(self, uid: str, ticket: Ticket) -> None:
        self._digests[uid] = ticket.digest
        self._told[uid] = (ticket.endpoint, ticket.telephony_endpoint)

    async def tell_caller(self, subject: Subject, placement: Placement | None) -> None:
        """Have the ticket Secret name the worker's endpoint before the status does. Raises `StoreError`."""
        if placement is None or not placement.confirmed or subject.over:
            return
        written = (
            text_at(subject.status, "worker", "endpoint"),
            text_at(subject.status, "telephonyEndpoint"),
        )
        now = (placement.endpoint, placement.telephony_endpoint)
        if now in (written, self._told.get(subject.uid)) or not placement.endpoint:
            return
        if subject.spec is None or not subject.spec.ticket:
            return
        ticket = await read_ticket(self._context.store, subject)
        if ticket is not None:
            await write_endpoint(self._context.store, subject, ticket, placement)
        self._told[subject.uid] = now

    async def _load_digest(self, subject: Subject) -> None:
        known = str(subject.status.get("ticketHash", ""))
        if known:
            self._digests[subject.uid] = bytes.fromhex(known)
            return
        ticket = await read_ticket(self._context.store, subject)
        if ticket is not None:
            self._digests[subject.uid] = ticket.digest

    # -- reports

    def foreseen(self, worker: str, report: SessionReport) -> bool:
        """Whether it says only what the answer of the Admit says: that the worker has the session, and
        connects."""
        placement = self._placements.get(report.uid)
        if placement is None or report.state is not SessionState.CONNECTING:
            return False
        return (placement.worker, placement.attempt, report.attempt) == (worker, 1, 1)

    def ended(self, worker: str, report: SessionReport) -> None:
        """Keep a final report until the status is written; of sessions that exist and are not over."""
        body = self._context.cache.get(SESSION, report.namespace, report.name)
        view = self._context.links.view(worker)
        if body is None or view is None or text_at(body, "metadata", "uid") != report.uid:
            return
        kept = self._ends.get(report.uid)
        older = kept is not None and kept[2].attempt > report.attempt
        if not older and not report.departed and not subject_of(body)[0].over:
            self._ends[report.uid] = (worker, view.instance_id, report)

    def last(self, uid: str, placement: Placement | None) -> SessionReport | None:
        """What was last heard of the placement, also of a worker that is gone."""
        found = self._last.get(uid)
        fits = found is not None and placement is not None and found.attempt == placement.attempt
        return found if fits else None

    def _tellers(self, uid: str) -> list[WorkerView]:
        """The workers that speak of the session, live or over."""
        views = (self._context.links.view(worker) for worker in self._context.ledger.tellers(uid))
        return [view for view in views if view is not None and uid in view.sessions]

    def _reported(
        self, subject: Subject, placement: Placement | None
    ) -> tuple[WorkerView | None, SessionReport | None]:
        uid, links = subject.uid, self._context.links
        if placement is not None:
            view = links.view(placement.worker)
            report = view.sessions.get(uid) if view and view.instance_id == placement.instance_id else None
            if report is None or report.attempt != placement.attempt or report.departed:
                report = self._kept_end(uid, placement)
            return view, report
        # Only workers that may have been asked are believed.
        pools = pools_of(self._context, subject)
        found = [
            (view, view.sessions[uid])
            for view in self._tellers(uid)
            if (view.namespace, view.pool) in pools
            # What is heard of an attempt that is over means nothing.
            and view.sessions[uid].attempt >= self._floor(subject)
            and not view.sessions[uid].departed
        ]
        return max(found, key=lambda pair: (pair[1].attempt, pair[1].live), default=(None, None))

    def _heir(self, subject: Subject, placement: Placement) -> tuple[WorkerView, SessionReport] | None:
        """Who has the session under a higher attempt, when the worker of `placement` has it no more."""
        if fate_of(self._context.links.view(placement.worker), placement) is Fate.SILENT:
            return None
        owner, report = self._reported(subject, None)
        if owner is None or report is None or not report.live or report.attempt <= placement.attempt:
            return None
        return owner, report

    def _live_report(self, uid: str) -> SessionReport | None:
        reports = (view.sessions[uid] for view in self._tellers(uid))
        return next((report for report in reports if report.live), None)

    def _kept_end(self, uid: str, placement: Placement) -> SessionReport | None:
        worker, instance, report = self._ends.get(uid, ("", "", None))
        fits = (worker, instance) == (placement.worker, placement.instance_id)
        return report if fits and report is not None and report.attempt == placement.attempt else None

    async def find(self, key: Key, subject: Subject) -> tuple[Placement | None, SessionReport | None]:
        """Where the session is: known here, written in its status, reported by a worker, or noted before
        an Admit."""
        uid = subject.uid
        bound = bound_placement(subject.status)
        if bound is not None and bound.attempt < self._floor(subject):
            bound = None
        placement = self._placements.get(uid)
        if placement is not None and placement.attempt < attempt_floor(subject.status):
            # Another place was sought since: by this process, or by one that led in between.
            self.unplace(uid)
            placement = None
        placement = placement or (bound if bound and bound.confirmed else None)
        owner, report = self._reported(subject, placement)
        if placement is not None and placement.confirmed and report is None and not subject.over:
            heir = self._heir(subject, placement)
            if heir is not None:
                # It was moved by an operator that did not live to write so.
                placement, (owner, report) = None, heir
        if placement is None and owner is not None and report is not None:
            now = self._context.clock.now()
            placement = Placement(owner.name, owner.instance_id, report.attempt, since=now)
        if subject.over:
            # Nowhere may it go on, whoever has it and under whatever attempt.
            return placement, self._live_report(uid) or report
        if placement is None:
            placement = await self._noted(subject, bound)
        if placement is not None and report is not None:
            self._last[uid] = report
            placement = _confirmed(placement, report)
            self._context.ledger.release(uid)
        if placement is not None:
            self.remember(key, uid, placement)
            if not placement.confirmed:
                self._promise(subject, placement)
            if subject.spec and subject.spec.ticket and uid not in self._digests:
                await self._load_digest(subject)
        return placement, report

    async def _noted(self, subject: Subject, bound: Placement | None) -> Placement | None:
        """Whom an earlier process asked without living to see the answer; looked for once."""
        earlier = subject.created <= self._started + 2 and subject.uid not in self._looked
        if not earlier or subject.spec is None:
            return None
        self._looked.add(subject.uid)
        if subject.spec.ticket:
            ticket = await read_ticket(self._context.store, subject)
            bound = ticket.placement if ticket else None
        if bound is not None and bound.attempt < self._floor(subject):
            bound = None
        return replace(bound, since=self._context.clock.now()) if bound else None

    def is_lost(self, uid: str) -> bool:
        """The session lived on a worker that is gone."""
        placement = self._placements.get(uid)
        if placement is None or not placement.confirmed:
            return False
        view = self._context.links.view(placement.worker)
        return fate_of(view, placement) in (Fate.GONE, Fate.RESTARTED)

    def holders(self, uid: str) -> Iterable[tuple[str, int]]:
        """Workers that have the session or may have it, with the attempt."""
        placement = self._placements.get(uid)
        holders = {
            view.name: view.sessions[uid].attempt for view in self._tellers(uid) if view.sessions[uid].live
        }
        if placement is not None:
            view = self._context.links.view(placement.worker)
            if fate_of(view, placement) in (Fate.ANSWERS, Fate.SILENT):
                report = view.sessions.get(uid) if view else None
                if report is None or report.live:
                    holders[placement.worker] = placement.attempt
        return list(holders.items())


def _confirmed(placement: Placement, report: SessionReport) -> Placement:
    """The placement as its worker tells it."""
    told = (
        report.endpoint or placement.endpoint,
        report.tls_server_name or placement.tls_server_name,
        report.telephony_endpoint or placement.telephony_endpoint,
    )
    known = (placement.endpoint, placement.tls_server_name, placement.telephony_endpoint)
    if placement.confirmed and told == known:
        return placement
    endpoint, name, telephony = told
    return replace(
        placement, confirmed=True, endpoint=endpoint, tls_server_name=name, telephony_endpoint=telephony
    )


def fate_of(view: WorkerView | None, placement: Placement | None) -> Fate:
    if placement is None:
        return Fate.ANSWERS
    cut_off = view is not None and view.unreachable and view.silent_for >= UNREACHABLE_SILENT
    if view is None or ((view.dead or cut_off) and not view.connected):
        return Fate.GONE
    if view.instance_id and view.instance_id != placement.instance_id:
        return Fate.RESTARTED
    return Fate.ANSWERS if view.answers else Fate.SILENT
