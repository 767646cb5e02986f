"""One VoiceSession: gather what a decision needs, take it, carry it out."""

from __future__ import annotations

import logging
from dataclasses import replace

from parley_operator.api.constants import SESSION
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.checks import Problem
from parley_operator.domain.decide import (
    Act,
    Decision,
    after_refusal,
    asking,
    decide,
    lost_while_asked,
    queue_deadline,
)
from parley_operator.domain.ledger import Load, free_places
from parley_operator.domain.model import ELSEWHERE, AdmitOutcome, AdmitRequest, AdmitVerdict, Placement
from parley_operator.domain.observation import Observation, Plan, Subject
from parley_operator.domain.subjects import subject_of
from parley_operator.ports import Conflict

from .context import Context
from .line import PoolName, WaitingLine
from .placements import PlacementBook, fate_of
from .plans import gather_plan
from .queue import DOOM, Key
from .tickets import Ticket, ensure_ticket, secret_name

log = logging.getLogger(__name__)
SHUN_SECONDS = 1.0
STALE_LEADER_PAUSE = 5.0
# The Secret of an older session of the same name may be on its way out.
TICKET_PATIENCE = 10.0


class SessionReconciler:
    """Keeps, beside the cache, only what is under way: placements and the line of those who wait."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.book = PlacementBook(context)
        self._refused: dict[str, str] = {}
        # Those whose every check passed, with their pool: while they wait, nobody reads their Secret again.
        self._accepted: dict[str, PoolName] = {}
        self.line = WaitingLine()

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        self.book.forget(uid)
        self._refused.pop(uid, None)
        self._accepted.pop(uid, None)
        self.line.leave(uid)

    def check_anew(self) -> None:
        """Agents, pools or Secrets changed: those who wait are checked again."""
        self._accepted.clear()

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
        if subject.over and decision.act is not Act.TERMINATE:
            self.forget(subject.uid)
        again = await self._apply(key, seen, decision)
        return again if again is not None else decision.again

    async def _gather(self, key: Key, subject: Subject, problem: Problem | None) -> Observation:
        context = self._context
        now = context.clock.now()
        placement, report = await self.book.find(key, subject)
        await self.book.tell_caller(subject, placement)
        view = context.links.view(placement.worker) if placement else None
        seen = Observation(
            subject,
            now,
            placement=placement,
            report=report,
            fate=fate_of(view, placement),
            silent_for=view.silent_for if view else 0.0,
            lost_after=context.settings.worker_lost_after,
            node=view.node if view else "",
            journal_degraded=bool(view and view.journal_degraded),
            ticket_hash=self.book.digest(subject.uid).hex(),
            ticket_secret=secret_name(subject.name),
        )
        settled = placement is not None and (placement.confirmed or report is not None)
        if subject.over or subject.deleting or settled:
            self.line.leave(subject.uid)
            return seen
        accepted = self._accepted.get(subject.uid)
        if accepted is not None and placement is None and problem is None:
            waiting = self._with_queue(key, seen, accepted)
            if free_places(waiting.loads) <= waiting.position:
                return waiting
        plan = problem or await gather_plan(context, subject)
        if isinstance(plan, Problem):
            self._accepted.pop(subject.uid, None)
            self.line.leave(subject.uid)
            return replace(seen, plan=plan)
        pool = (plan.pool_namespace, plan.pool_name)
        self._accepted[subject.uid] = pool
        return self._with_queue(key, replace(seen, plan=plan), pool)

    def _with_queue(self, key: Key, seen: Observation, pool: PoolName) -> Observation:
        views = [view for view in self._context.links.views() if (view.namespace, view.pool) == pool]
        loads = tuple(self._context.ledger.loads(views, self._context.clock.monotonic()))
        position = 0
        if seen.placement is None:
            position = self.line.join(seen.subject.uid, pool, seen.subject.created, key)
        return replace(seen, loads=loads, position=position, workers=sum(v.answers for v in views))

    def _count_refusal(self, seen: Observation) -> None:
        if isinstance(seen.plan, Problem) and self._refused.get(seen.subject.uid) != seen.plan.reason:
            self._refused[seen.subject.uid] = seen.plan.reason
            self._context.metrics.refused(seen.plan.reason)

    # -- carrying out

    async def _apply(self, key: Key, seen: Observation, decision: Decision) -> float | None:
        if decision.status:
            await self._write(key, seen, decision)
        if decision.act is Act.PLACE and decision.load is not None:
            return await self._place(key, seen, decision.load)
        if decision.act is Act.ASK_AGAIN and seen.placement is not None:
            return await self._admit(key, seen, seen.placement, fresh=False)
        if decision.act is Act.FORGET:
            return await self._move_on(key, seen)
        if decision.act is Act.TERMINATE:
            why = "the VoiceSession was deleted" if seen.subject.deleting else "the VoiceSession is over"
            await self.terminate(seen.subject.uid, why)
        elif decision.act is Act.DELETE:
            self._context.reaper.add(key, seen.subject.uid)
        return None

    async def _write(self, key: Key, seen: Observation, decision: Decision) -> bool:
        """Write the status; false when the object changed meanwhile or is gone, and will be looked at."""
        subject = seen.subject
        reason = decision.status.get("endReason")
        known = self._context.cache.get(SESSION, key.namespace, key.name)
        if known is None or text_at(known, "metadata", "uid") != subject.uid:
            return False
        try:
            body = await self._context.store.patch_status(SESSION, known, decision.status)
        except Conflict:
            # Somebody was faster, or an answer was lost and the repeated write found its own work.
            fresh = await self._context.store.get(SESSION, key.namespace, key.name)
            if fresh is not None:
                self._context.cache.put(SESSION, fresh)
                if isinstance(reason, str) and text_at(fresh, "status", "endReason") == reason:
                    self._over(subject.uid, reason)
            self._context.queue.add(key)
            return False
        if body is None:
            self._context.cache.drop(SESSION, known)
            self._context.queue.add(Key(DOOM, "", subject.uid))
            return False
        self._context.cache.put(SESSION, body)
        if isinstance(reason, str):
            self._over(subject.uid, reason)
            self._context.queue.add_after(key, 0.01)
        return True

    def _over(self, uid: str, reason: str) -> None:
        self.forget(uid)
        self._context.metrics.ended(reason)

    async def _place(self, key: Key, seen: Observation, load: Load) -> float | None:
        return await self._offer(key, seen, load, self.book.next_attempt(seen.subject))

    async def _offer(self, key: Key, seen: Observation, load: Load, attempt: int) -> float | None:
        uid = seen.subject.uid
        # Others decided meanwhile: the ledger of this moment counts, and reserving follows without a pause.
        fresh = self._context.links.view(load.worker)
        now_load = self._context.ledger.load(fresh, self._context.clock.monotonic()) if fresh else None
        if fresh is None or now_load is None or now_load.free < 1:
            return 0.05
        placement = Placement(
            fresh.name,
            fresh.instance_id,
            attempt,
            endpoint=fresh.media_endpoint,
            tls_server_name=fresh.tls_server_name,
            telephony_endpoint=fresh.telephony_endpoint,
            since=seen.now,
        )
        self._context.ledger.reserve(uid, now_load)
        self.book.remember(key, uid, placement)
        self.line.leave(uid)
        return await self._admit(key, seen, placement, fresh=True)

    async def _admit(self, key: Key, seen: Observation, placement: Placement, *, fresh: bool) -> float | None:
        """Note whom to ask, then ask. `fresh`: this placement was never asked about before."""
        plan, subject = seen.plan, seen.subject
        if not isinstance(plan, Plan):
            return 1.0
        ticket: Ticket | None = None
        if plan.spec.ticket:
            try:
                ticket = await self._ticket(subject, placement)
            except Conflict:
                return await self._ticket_taken(key, seen, fresh)
        elif not await self._note(key, seen, placement):
            return 0.1
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
            ticket_sha256=ticket.digest if ticket else b"",
            privacy=plan.spec.privacy,
            provider_audio=plan.spec.provider_format,
            conduct=plan.conduct,
        )
        outcome = await self._context.links.admit(placement.worker, request)
        self._context.metrics.admitted(outcome.verdict.value)
        return await self._answered(key, seen, placement, outcome)

    async def _note(self, key: Key, seen: Observation, placement: Placement) -> bool:
        """Where there is no ticket Secret to write on, the status says who is asked."""
        decision = Decision(status=asking(seen, placement))
        return not decision.status or await self._write(key, seen, decision)

    async def _ticket(self, subject: Subject, placement: Placement) -> Ticket:
        context = self._context
        ca = context.control_ca() if placement.tls_server_name else b""
        ticket = await ensure_ticket(context.store, subject, placement, ca, context.new_ticket)
        self.book.ticket_made(subject.uid, ticket)
        context.notices.ticketed(Key(SESSION, subject.namespace, subject.name), subject.uid, ticket)
        return ticket

    async def _ticket_taken(self, key: Key, seen: Observation, fresh: bool) -> float | None:
        name = secret_name(seen.subject.name)
        log.warning("%s/%s: Secret %s is taken", key.namespace, key.name, name)
        if not fresh:
            # The worker may have the session: it is not given to another one.
            return 1.0
        self.book.unplace(seen.subject.uid)
        until = min(seen.subject.created + TICKET_PATIENCE, queue_deadline(seen))
        if seen.now < until:
            return 0.5
        words = f"metadata.name: Secret {name} exists and is not of this session; delete it or rename one"
        found = replace(seen, placement=None, plan=Problem("TicketSecretTaken", words))
        self._count_refusal(found)
        decision = decide(found)
        if decision.status:
            await self._write(key, found, decision)
        return decision.again

    async def _answered(
        self, key: Key, seen: Observation, placement: Placement, outcome: AdmitOutcome
    ) -> float | None:
        uid, context = seen.subject.uid, self._context
        now = context.clock.now()
        if outcome.verdict is AdmitVerdict.ADMITTED:
            done = replace(
                placement,
                confirmed=True,
                shard=outcome.shard,
                endpoint=outcome.endpoint,
                tls_server_name=outcome.tls_server_name,
                telephony_endpoint=outcome.telephony_endpoint,
                since=now,
            )
            self.book.remember(key, uid, done)
            context.notices.placed(key, uid, done)
            context.metrics.placed(now - seen.subject.created)
            body = context.cache.get(SESSION, key.namespace, key.name)
            if body is None or text_at(body, "metadata", "uid") != uid:
                # Deleted while the worker was asked.
                context.queue.add(Key(DOOM, "", uid))
                return None
            return 0.05
        if outcome.verdict is AdmitVerdict.ENDED:
            # It was there and is over already: its report, under way, says how it ended.
            self.book.remember(key, uid, replace(placement, confirmed=True, since=now))
            return 0.2
        if outcome.verdict is AdmitVerdict.UNKNOWN:
            log.warning("%s/%s: no answer of worker %s", key.namespace, key.name, placement.worker)
            return 0.5
        if outcome.verdict in ELSEWHERE:
            self._shun(uid, placement, SHUN_SECONDS)
            return 0.02
        if outcome.verdict is AdmitVerdict.STALE_LEADER:
            log.error("worker %s knows a newer operator than this one", placement.worker)
            self._shun(uid, placement, STALE_LEADER_PAUSE)
            return 0.5
        decision = after_refusal(replace(seen, placement=None), outcome)
        await self._write(key, seen, decision)
        return None

    def _shun(self, uid: str, placement: Placement, seconds: float) -> None:
        until = self._context.clock.monotonic() + seconds
        self._context.ledger.shun(placement.worker, placement.instance_id, until)
        self.book.unplace(uid)

    async def _move_on(self, key: Key, seen: Observation) -> float | None:
        """The instance that was asked is gone: the next attempt may go elsewhere."""
        old = seen.placement
        if old is None:
            return 0.0
        loads = [load for load in seen.loads if load.free > 0 and load.instance_id != old.instance_id]
        if loads:
            self.book.unplace(seen.subject.uid)
            load = min(loads, key=lambda item: (item.free, item.worker))
            return await self._offer(key, seen, load, old.attempt + 1)
        if seen.now < queue_deadline(seen):
            return 0.5
        await self._write(key, seen, lost_while_asked(seen, old))
        return None

    async def terminate(self, uid: str, message: str) -> bool:
        """End the session wherever it lives. True when no worker has it any more."""
        clear = True
        for worker, attempt in self.book.holders(uid):
            found = await self._context.links.terminate(worker, uid, attempt, "Terminated", message)
            self._context.metrics.terminated(found)
            clear = clear and found is not None
        return clear
