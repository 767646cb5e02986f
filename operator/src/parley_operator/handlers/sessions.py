"""One VoiceSession: gather what a decision needs, take it, carry it out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from parley_operator.api.constants import SESSION
from parley_operator.api.v1alpha1 import (
    text_at,
)
from parley_operator.domain.checks import Problem
from parley_operator.domain.decide import Act, Decision, after_refusal, decide
from parley_operator.domain.ledger import Load
from parley_operator.domain.model import (
    ELSEWHERE,
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    Placement,
    SessionReport,
    WorkerView,
)
from parley_operator.domain.observation import Fate, Observation, Plan, Subject
from parley_operator.domain.phases import EndReason
from parley_operator.domain.subjects import (
    bound_placement,
    subject_of,
)
from parley_operator.ports import Conflict

from .context import Context
from .line import PoolName, WaitingLine
from .plans import gather_plan
from .queue import DOOM, Key
from .tickets import Ticket, ensure_ticket, read_ticket, secret_name, write_endpoint

log = logging.getLogger(__name__)
SHUN_SECONDS = 1.0


class SessionReconciler:
    """Keeps, beside the cache, only what is under way: placements and the line of those who wait."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._placements: dict[str, Placement] = {}
        self._by_worker: dict[str, dict[str, Key]] = {}
        self._digests: dict[str, bytes] = {}
        self._refused: dict[str, str] = {}
        # Sessions older than this process, whose ticket was looked for.
        self._looked: set[str] = set()
        self._started = context.clock.now()
        self.line = WaitingLine()

    # -- what other parts ask

    def keys_on(self, worker: str) -> list[Key]:
        return list(self._by_worker.get(worker, {}).values())

    def placement_of(self, uid: str) -> Placement | None:
        return self._placements.get(uid)

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        placement = self._placements.pop(uid, None)
        if placement is not None:
            self._by_worker.get(placement.worker, {}).pop(uid, None)
        self._context.ledger.release(uid)
        self._digests.pop(uid, None)
        self._refused.pop(uid, None)
        self._looked.discard(uid)
        self.line.leave(uid)

    def restore(self) -> None:
        """Before the first placement: take back what earlier decisions promised."""
        for key, body in self._context.cache.of_kind(SESSION):
            subject, _ = subject_of(body)
            placement = bound_placement(subject.status)
            if placement is not None and not subject.over:
                self._remember(key, subject.uid, placement)

    # -- reconcile

    async def reconcile(self, key: Key) -> float | None:
        """Returns seconds until the next look; `None` when an event will tell."""
        body = self._context.cache.get(SESSION, key.namespace, key.name)
        if body is None:
            return None
        subject, problem = subject_of(body)
        seen = await self._gather(key, subject, problem)
        decision = decide(seen)
        self._count_refusal(seen)
        again = await self._apply(key, seen, decision)
        return again if again is not None else decision.again

    async def _gather(self, key: Key, subject: Subject, problem: Problem | None) -> Observation:
        context = self._context
        now = context.clock.now()
        placement, report = await self._find(key, subject)
        view = context.links.view(placement.worker) if placement else None
        seen = Observation(
            subject,
            now,
            placement=placement,
            report=report,
            fate=_fate(view, placement),
            silent_for=view.silent_for if view else 0.0,
            lost_after=context.settings.worker_lost_after,
            node=view.node if view else "",
            journal_degraded=bool(view and view.journal_degraded),
            ticket_hash=self._digest(subject).hex(),
            ticket_secret=secret_name(subject.name),
        )
        settled = placement is not None and (placement.confirmed or report is not None)
        if subject.over or settled:
            self.line.leave(subject.uid)
            return seen
        plan = problem or await gather_plan(self._context, subject)
        if isinstance(plan, Problem):
            self.line.leave(subject.uid)
            return replace(seen, plan=plan)
        return self._with_queue(key, replace(seen, plan=plan), (plan.pool_namespace, plan.pool_name))

    def _with_queue(self, key: Key, seen: Observation, pool: PoolName) -> Observation:
        views = [view for view in self._context.links.views() if (view.namespace, view.pool) == pool]
        loads = tuple(self._context.ledger.loads(views, self._context.clock.monotonic()))
        position = 0
        if seen.placement is None:
            position = self.line.join(seen.subject.uid, pool, seen.subject.created, key)
        return replace(seen, loads=loads, position=position, workers=sum(v.answers for v in views))

    async def _find(self, key: Key, subject: Subject) -> tuple[Placement | None, SessionReport | None]:
        """Where the session is: known here, written in its status, reported by a worker, or noted on its
        ticket."""
        uid = subject.uid
        placement = self._placements.get(uid) or bound_placement(subject.status)
        owner, report = self._reported(uid, placement)
        if placement is None and owner is not None and report is not None:
            placement = Placement(
                owner.name, owner.instance_id, report.attempt, since=self._context.clock.now()
            )
        earlier = subject.created <= self._started + 2 and uid not in self._looked
        if placement is None and not subject.over and earlier and subject.spec and subject.spec.ticket:
            self._looked.add(uid)
            ticket = await read_ticket(self._context.store, subject)
            placement = ticket.placement if ticket else None
        if placement is not None and report is not None:
            placement = replace(
                placement,
                confirmed=True,
                endpoint=report.endpoint or placement.endpoint,
                tls_server_name=report.tls_server_name or placement.tls_server_name,
            )
            self._context.ledger.release(uid)
        if placement is not None and not subject.over:
            self._remember(key, uid, placement)
            if not placement.confirmed:
                self._context.ledger.restore(uid, placement.worker, placement.instance_id)
            if subject.spec and subject.spec.ticket and uid not in self._digests:
                await self._load_digest(subject)
        return placement, report

    def _reported(
        self, uid: str, placement: Placement | None
    ) -> tuple[WorkerView | None, SessionReport | None]:
        if placement is not None:
            view = self._context.links.view(placement.worker)
            if view is None or view.instance_id != placement.instance_id:
                return view, None
            report = view.sessions.get(uid)
            return view, report if report and report.attempt == placement.attempt else None
        found = [(view, view.sessions[uid]) for view in self._context.links.views() if uid in view.sessions]
        return max(found, key=lambda pair: (pair[1].attempt, pair[1].live), default=(None, None))

    async def _load_digest(self, subject: Subject) -> None:
        known = str(subject.status.get("ticketHash", ""))
        if known:
            self._digests[subject.uid] = bytes.fromhex(known)
            return
        ticket = await read_ticket(self._context.store, subject)
        if ticket is not None:
            self._digests[subject.uid] = ticket.digest

    def _digest(self, subject: Subject) -> bytes:
        return self._digests.get(subject.uid, b"")

    def _remember(self, key: Key, uid: str, placement: Placement) -> None:
        before = self._placements.get(uid)
        if before is not None and before.worker != placement.worker:
            self._by_worker.get(before.worker, {}).pop(uid, None)
        self._placements[uid] = placement
        self._by_worker.setdefault(placement.worker, {})[uid] = key

    # -- carrying out

    async def _apply(self, key: Key, seen: Observation, decision: Decision) -> float | None:
        if decision.status:
            await self._write(key, seen, decision)
        if decision.act is Act.PLACE and decision.load is not None:
            return await self._place(key, seen, decision.load)
        if decision.act is Act.ASK_AGAIN and seen.placement is not None:
            return await self._admit(key, seen, seen.placement)
        if decision.act is Act.FORGET:
            return await self._move_on(key, seen)
        if decision.act is Act.TERMINATE:
            await self.terminate(seen.subject.uid, "the VoiceSession is over")
        elif decision.act is Act.DELETE:
            subject = seen.subject
            await self._context.store.delete(SESSION, subject.namespace, subject.name, subject.uid)
        return None

    async def _write(self, key: Key, seen: Observation, decision: Decision) -> None:
        subject = seen.subject
        known = self._context.cache.get(SESSION, key.namespace, key.name)
        if known is None or text_at(known, "metadata", "uid") != subject.uid:
            return
        try:
            body = await self._context.store.patch_status(SESSION, known, decision.status)
        except Conflict:
            # Somebody was faster: look again, at the newest.
            fresh = await self._context.store.get(SESSION, key.namespace, key.name)
            if fresh is not None:
                self._context.cache.put(SESSION, fresh)
            self._context.queue.add(key)
            return
        reason = decision.status.get("endReason")
        if body is None:
            self._context.cache.drop(SESSION, known)
            self._context.queue.add(Key(DOOM, "", subject.uid))
            return
        self._context.cache.put(SESSION, body)
        if isinstance(reason, str):
            self.forget(subject.uid)
            self._context.metrics.ended(reason)
            self._context.queue.add_after(key, 0.01)

    async def _place(self, key: Key, seen: Observation, load: Load) -> float | None:
        view = self._context.links.view(load.worker)
        if view is None:
            return 0.1
        attempt = seen.subject.status.get("attempt")
        noted = self._placements.get(seen.subject.uid)
        number = noted.attempt if noted else attempt if isinstance(attempt, int) else 0
        placement = Placement(
            load.worker,
            load.instance_id,
            max(1, number),
            endpoint=view.media_endpoint,
            tls_server_name=view.tls_server_name,
            since=seen.now,
        )
        return await self._offer(key, seen, load, placement)

    async def _offer(self, key: Key, seen: Observation, load: Load, placement: Placement) -> float | None:
        uid = seen.subject.uid
        # Others decided meanwhile: the ledger of this moment counts, and reserving follows without a pause.
        fresh = self._context.links.view(load.worker)
        now_load = self._context.ledger.load(fresh, self._context.clock.monotonic()) if fresh else None
        if now_load is None or now_load.free < 1 or now_load.instance_id != placement.instance_id:
            return 0.05
        self._context.ledger.reserve(uid, now_load)
        self._remember(key, uid, placement)
        self.line.leave(uid)
        return await self._admit(key, seen, placement)

    async def _admit(self, key: Key, seen: Observation, placement: Placement) -> float | None:
        plan, subject = seen.plan, seen.subject
        if not isinstance(plan, Plan):
            return 1.0
        ticket: Ticket | None = None
        if plan.spec.ticket:
            try:
                ticket = await self._ticket(subject, placement)
            except Conflict:
                self._unplace(subject.uid)
                log.warning("%s/%s: Secret %s is taken", key.namespace, key.name, secret_name(subject.name))
                return 2.0
        digest = ticket.digest if ticket else b""
        request = AdmitRequest(
            namespace=subject.namespace,
            name=subject.name,
            uid=subject.uid,
            attempt=placement.attempt,
            instance_id=placement.instance_id,
            provider=plan.provider,
            session_json=plan.session_json,
            greet=plan.greet,
            limits=plan.spec.limits,
            ticket_sha256=digest,
            privacy=plan.spec.privacy,
            provider_audio=plan.spec.provider_format,
        )
        outcome = await self._context.links.admit(placement.worker, request)
        self._context.metrics.admitted(outcome.verdict.value)
        return await self._answered(key, seen, placement, outcome, ticket)

    async def _ticket(self, subject: Subject, placement: Placement) -> Ticket:
        context = self._context
        ca = context.control_ca() if placement.tls_server_name else b""
        ticket = await ensure_ticket(context.store, subject, placement, ca, context.new_ticket)
        self._digests[subject.uid] = ticket.digest
        return ticket

    async def _answered(
        self, key: Key, seen: Observation, placement: Placement, outcome: AdmitOutcome, ticket: Ticket | None
    ) -> float | None:
        uid, context = seen.subject.uid, self._context
        if outcome.verdict is AdmitVerdict.ADMITTED:
            done = replace(
                placement,
                confirmed=True,
                shard=outcome.shard,
                endpoint=outcome.endpoint,
                tls_server_name=outcome.tls_server_name,
                since=context.clock.now(),
            )
            self._remember(key, uid, done)
            context.metrics.placed(context.clock.now() - seen.subject.created)
            if ticket is not None:
                await write_endpoint(context.store, seen.subject, ticket, done)
            return 0.05
        if outcome.verdict is AdmitVerdict.UNKNOWN:
            log.warning("%s/%s: no answer of worker %s", key.namespace, key.name, placement.worker)
            return 0.5
        if outcome.verdict in ELSEWHERE:
            until = context.clock.monotonic() + SHUN_SECONDS
            context.ledger.shun(placement.worker, placement.instance_id, until)
            self._unplace(uid)
            return 0.02
        if outcome.verdict is AdmitVerdict.STALE_LEADER:
            log.error("worker %s knows a newer operator than this one", placement.worker)
            self._unplace(uid)
            return 5.0
        decision = after_refusal(replace(seen, placement=None), outcome)
        await self._write(key, seen, decision)
        return None

    def _unplace(self, uid: str) -> None:
        """The worker surely does not have the session: it waits again, under the same attempt number."""
        placement = self._placements.pop(uid, None)
        if placement is not None:
            self._by_worker.get(placement.worker, {}).pop(uid, None)
        self._context.ledger.release(uid)

    async def _move_on(self, key: Key, seen: Observation) -> float | None:
        """The instance that was asked is gone: the next attempt may go elsewhere."""
        subject, old = seen.subject, seen.placement
        self._unplace(subject.uid)
        if old is None:
            return 0.0
        loads = [load for load in seen.loads if load.free > 0 and load.instance_id != old.instance_id]
        if not loads:
            self._remember(key, subject.uid, old)
            left = subject.created + (subject.spec.limits.queue_timeout if subject.spec else 0) - seen.now
            if left > 0:
                return 0.5
            lost = AdmitOutcome(
                AdmitVerdict.STALE_ATTEMPT, f"worker {old.worker} was lost while it was asked"
            )
            ending = after_refusal(replace(seen, placement=None), lost)
            status = {**ending.status, "endReason": EndReason.WORKER_LOST.value}
            await self._write(key, seen, replace(ending, status=status))
            return None
        load = min(loads, key=lambda item: (item.free, item.worker))
        view = self._context.links.view(load.worker)
        placement = Placement(
            load.worker,
            load.instance_id,
            old.attempt + 1,
            endpoint=view.media_endpoint if view else "",
            tls_server_name=view.tls_server_name if view else "",
            since=seen.now,
        )
        return await self._offer(key, seen, load, placement)

    async def terminate(self, uid: str, message: str) -> bool:
        """End the session wherever it lives. True when no worker has it any more."""
        placement = self._placements.get(uid)
        clear = True
        for worker, attempt in self._holders(uid, placement):
            found = await self._context.links.terminate(worker, uid, attempt, "Terminated", message)
            self._context.metrics.terminated(found)
            clear = clear and found is not None
        return clear

    def _holders(self, uid: str, placement: Placement | None) -> Iterable[tuple[str, int]]:
        holders = {
            view.name: view.sessions[uid].attempt
            for view in self._context.links.views()
            if uid in view.sessions and view.sessions[uid].live
        }
        if placement is not None:
            view = self._context.links.view(placement.worker)
            if _fate(view, placement) in (Fate.ANSWERS, Fate.SILENT):
                report = view.sessions.get(uid) if view else None
                if report is None or report.live:
                    holders[placement.worker] = placement.attempt
        return list(holders.items())

    def _count_refusal(self, seen: Observation) -> None:
        if isinstance(seen.plan, Problem) and self._refused.get(seen.subject.uid) != seen.plan.reason:
            self._refused[seen.subject.uid] = seen.plan.reason
            self._context.metrics.refused(seen.plan.reason)


def _fate(view: WorkerView | None, placement: Placement | None) -> Fate:
    if placement is None:
        return Fate.ANSWERS
    if view is None or (view.dead and not view.connected):
        return Fate.GONE
    if view.instance_id and view.instance_id != placement.instance_id:
        return Fate.RESTARTED
    return Fate.ANSWERS if view.answers else Fate.SILENT
