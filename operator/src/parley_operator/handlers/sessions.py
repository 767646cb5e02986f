"""One VoiceSession: gather what a decision needs, take it, carry it out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.checks import Problem
from parley_operator.domain.decide import (
    Act,
    Decision,
    after_refusal,
    asking,
    bind_delay,
    decide,
    queue_deadline,
)
from parley_operator.domain.event_facts import session_facts
from parley_operator.domain.model import ELSEWHERE, AdmitOutcome, AdmitVerdict, Placement
from parley_operator.domain.observation import Fate, Observation, Plan, Subject
from parley_operator.domain.phases import SERVING
from parley_operator.domain.placement.demand import Choices, Grant, PoolName, Request
from parley_operator.domain.placement.refusals import Refusal, Refusals
from parley_operator.domain.recovery import recovering, recovery_of, restore_of
from parley_operator.domain.subjects import subject_of
from parley_operator.ports import Conflict

from .admits import admit_request
from .context import Context
from .fence import Fence
from .line import WaitingLine
from .migration import Migrator
from .placements import PlacementBook, fate_of
from .plans import gather_plan, weigh
from .queue import DOOM, Key
from .tickets import Ticket, ensure_ticket, secret_name
from .updates import tell_update

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
        # Whose every check passed, with where they may go: while they wait, nobody reads their Secret.
        self._accepted: dict[str, Choices] = {}
        self._refusals: dict[str, Refusals] = {}
        # Since when sessions wait for a place, by both clocks.
        self._waiting: dict[str, tuple[float, float]] = {}
        # Of those whose status is being written: the resource version that was heard of meanwhile.
        self._writing: dict[str, str] = {}
        self.line = WaitingLine(context)
        self.fence = Fence(context)
        self.migrator = Migrator(context, self.book, self.fence)

    def forget(self, uid: str) -> None:
        """The session is over or deleted."""
        self.book.forget(uid)
        self.migrator.forget(uid)
        self._refused.pop(uid, None)
        self._accepted.pop(uid, None)
        self._refusals.pop(uid, None)
        self._waiting.pop(uid, None)
        self._context.desk.forget(uid)

    def check_anew(self) -> None:
        """Agents, pools or Secrets changed: those who wait are checked again."""
        self._accepted.clear()

    def own_write(self, uid: str, version: str) -> bool:
        """Whether it is for `_write` to say if this news of the session is its own doing: its answer may come
        after the watch's event."""
        if uid not in self._writing:
            return False
        self._writing[uid] = version
        return True

    # -- reconcile

    async def reconcile(self, key: Key) -> float | None:
        """Returns seconds until the next look; `None` when an event will tell."""
        body = self._context.cache.get(SESSION, key.namespace, key.name)
        if body is None:
            return None
        subject, problem = subject_of(body)
        try:
            return await self._look(key, subject, problem)
        finally:
            if self._context.cache.gone(subject.uid):
                # Deleted while it was looked at: whatever was taken up since must be let go.
                self._context.queue.add(Key(DOOM, "", subject.uid))

    async def _look(self, key: Key, subject: Subject, problem: Problem | None) -> float | None:
        seen = await self._gather(key, subject, problem)
        decision = decide(seen)
        self._count_refusal(seen)
        if subject.over and decision.act is not Act.TERMINATE:
            self.forget(subject.uid)
        again = await self._apply(key, seen, decision)
        again = again if again is not None else decision.again
        self.migrator.consider(key, seen)
        other = await self.fence.look(subject, self.book.get(subject.uid))
        return again if other is None else min(other, again if again is not None else other)

    async def _gather(self, key: Key, subject: Subject, problem: Problem | None) -> Observation:
        context = self._context
        now = context.clock.now()
        placement, report = await self.book.find(key, subject)
        await self.book.tell_caller(subject, placement)
        view = context.links.view(placement.worker) if placement else None
        settled = placement is not None and (placement.confirmed or report is not None)
        outside = subject.over or subject.deleting or settled
        seen = Observation(
            subject,
            now,
            leapt=0.0 if outside else self._leapt(subject.uid),
            placement=placement,
            report=report,
            last=self.book.last(subject.uid, placement),
            fate=fate_of(view, placement),
            silent_for=view.silent_for if view else 0.0,
            lost_after=context.settings.worker_lost_after,
            node=view.node if view else "",
            worker_pool=view.pool if view else "",
            vouched=bool(view and view.vouched),
            newest_attempt=max(self.book.newest_attempt(subject), self.migrator.newest(subject.uid)),
            leaving=bool(view and view.leaving),
            drain_deadline=view.drain_deadline if view else 0.0,
            journal_degraded=bool(view and view.journal_degraded),
            ticket_hash=self.book.digest(subject.uid).hex(),
            ticket_secret=secret_name(subject.name),
            refusals=str(self._refusals.get(subject.uid, "")),
        )
        if outside:
            context.desk.leave(subject.uid)
            self._waiting.pop(subject.uid, None)
            return seen
        if problem is not None:
            return self._not_accepted(seen, problem)
        if placement is not None:
            context.desk.leave(subject.uid)
            pool = (view.namespace, view.pool) if view else None
            return replace(seen, plan=await gather_plan(context, subject, pool))
        return await self._wait(seen)

    def _leapt(self, uid: str) -> float:
        clock = self._context.clock
        now, monotonic = clock.now(), clock.monotonic()
        begun, begun_monotonic = self._waiting.setdefault(uid, (now, monotonic))
        return (now - begun) - (monotonic - begun_monotonic)

    async def _wait(self, seen: Observation) -> Observation:
        """Stand in line; whoever has a place kept is looked at closely."""
        uid, subject = seen.subject.uid, seen.subject
        choices = self._accepted.get(uid)
        if choices is not None:
            seen = self._stand(seen, choices, {})
            if seen.grant is None:
                return seen
            plan = await gather_plan(self._context, subject, seen.grant.pool)
            return self._not_accepted(seen, plan) if isinstance(plan, Problem) else replace(seen, plan=plan)
        weighed = await weigh(self._context, subject)
        if isinstance(weighed, Problem):
            return self._not_accepted(seen, weighed)
        self._accepted[uid] = weighed.choices
        return self._stand(seen, weighed.choices, weighed.plans)

    def _not_accepted(self, seen: Observation, problem: Problem) -> Observation:
        self._accepted.pop(seen.subject.uid, None)
        self._context.desk.leave(seen.subject.uid)
        return replace(seen, plan=problem, grant=None, standing=None)

    def _stand(self, seen: Observation, choices: Choices, plans: Mapping[PoolName, Plan]) -> Observation:
        subject, desk = seen.subject, self._context.desk
        # One whose worker went away meanwhile is given back first.
        desk.grant(subject.uid)
        urgent = self.book.next_attempt(subject) > 1
        desk.want(Request(subject.uid, subject.namespace, subject.name, subject.created, choices, urgent))
        self.line.serve(besides=subject.uid)
        grant = desk.grant(subject.uid)
        standing = desk.standing(subject.uid, self._context.clock.monotonic()) if grant is None else None
        pool = grant.pool if grant else choices[0].pool
        plan = plans.get(pool) if grant else None
        return replace(seen, grant=grant, standing=standing, worker_pool=pool[1], plan=plan)

    def _count_refusal(self, seen: Observation) -> None:
        if isinstance(seen.plan, Problem) and self._refused.get(seen.subject.uid) != seen.plan.reason:
            self._refused[seen.subject.uid] = seen.plan.reason
            self._context.metrics.refused(seen.plan.reason)

    # -- carrying out

    async def _apply(self, key: Key, seen: Observation, decision: Decision) -> float | None:
        if decision.status:
            await self._write(key, seen, decision)
        if decision.act is Act.PLACE and decision.grant is not None:
            return await self._place(key, seen, decision.grant)
        if decision.act is Act.ASK_AGAIN and seen.placement is not None:
            return await self._admit(key, seen, seen.placement, fresh=False)
        if decision.act is Act.UPDATE and seen.placement is not None:
            known, placement = self._context.cache.get(SESSION, key.namespace, key.name), seen.placement
            if known is not None:
                # What was written just now is not to be written over.
                seen = replace(seen, subject=subject_of(known)[0])
            status, again = await tell_update(self._context, seen, placement)
            if status:
                await self._write(key, seen, Decision(status=status))
            return again
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
        if decision.status.get("phase") in SERVING:
            self._context.notices.foretell(key, known, decision.status)
        written = ""
        self._writing[subject.uid] = ""
        try:
            body = await self._context.store.patch_status(SESSION, known, decision.status)
            written = text_at(body, "metadata", "resourceVersion") if body else ""
        except Conflict:
            # Somebody was faster, or an answer was lost and the repeated write found its own work.
            fresh = await self._context.store.get(SESSION, key.namespace, key.name)
            if fresh is not None:
                self._context.cache.put(SESSION, fresh)
                if isinstance(reason, str) and text_at(fresh, "status", "endReason") == reason:
                    self._over(subject.uid, reason, fresh)
            self._context.queue.add(key)
            return False
        finally:
            self._context.notices.written(key)
            heard = self._writing.pop(subject.uid)
            if heard not in ("", written):
                self._context.queue.add(key)
        if body is None:
            self._context.cache.drop(SESSION, known)
            self._context.queue.add(Key(DOOM, "", subject.uid))
            return False
        self._context.cache.put(SESSION, body)
        self._count_recovery(map_at(known, "status"), map_at(body, "status"))
        facts = session_facts(map_at(known, "status"), map_at(body, "status"), private=seen.private)
        self._context.events.tell(SESSION, body, facts)
        if isinstance(reason, str):
            self._over(subject.uid, reason, body)
            self._context.queue.add_after(key, 0.01)
        return True

    def _count_recovery(self, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        was, metrics = recovering(before), self._context.metrics
        if recovering(after):
            if not was:
                metrics.recovery_begun(recovery_of(after).reason)
        elif was and "endReason" not in after:
            metrics.recovered(self._context.clock.now() - recovery_of(after).lost)

    def _over(self, uid: str, reason: str, body: Body) -> None:
        self.forget(uid)
        self._context.metrics.ended(reason)
        agent = map_at(body, "status", "agent")
        if agent:
            name, generation = str(agent.get("name", "")), agent.get("generation")
            number = generation if isinstance(generation, int) else 0
            self._context.metrics.agent_ended(text_at(body, "metadata", "namespace"), name, number, reason)

    async def _place(self, key: Key, seen: Observation, grant: Grant) -> float | None:
        """Ask the worker whose place is kept. What was reserved is a promise from now on."""
        uid = seen.subject.uid
        view = self._context.links.view(grant.worker)
        if view is None or view.instance_id != grant.instance_id:
            self._context.desk.leave(uid)
            return 0.0
        placement = Placement(
            view.name,
            view.instance_id,
            self.book.next_attempt(seen.subject),
            endpoint=view.media_endpoint,
            tls_server_name=view.tls_server_name,
            telephony_endpoint=view.telephony_endpoint,
            since=seen.now,
        )
        self._context.desk.take(uid)
        self.book.remember(key, uid, placement)
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
        digest = ticket.digest if ticket else b""
        restore = restore_of(plan.spec, subject.status, placement.attempt)
        request = admit_request(subject, plan, placement, digest, restore)
        outcome = await self._context.links.admit(placement.worker, request)
        self._context.metrics.admitted(outcome.verdict.value)
        if outcome.verdict is AdmitVerdict.UNREACHABLE:
            if fresh:
                return self._elsewhere(seen, placement, outcome, SHUN_SECONDS)
            # That this question was not heard says nothing of the one before.
            outcome = replace(outcome, verdict=AdmitVerdict.UNKNOWN)
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
        if seen.steady < until:
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
            context.ledger.trust(placement.worker)
            context.notices.placed(key, uid, done)
            context.metrics.placed(now - seen.subject.created)
            body = context.cache.get(SESSION, key.namespace, key.name)
            if body is None or text_at(body, "metadata", "uid") != uid:
                # Deleted while the worker was asked.
                context.queue.add(Key(DOOM, "", uid))
                return None
            return max(0.05, bind_delay(placement))
        if outcome.verdict is AdmitVerdict.ENDED:
            # It was there and is over already: its report, under way, says how it ended.
            self.book.remember(key, uid, replace(placement, confirmed=True, since=now))
            return 0.2
        if outcome.verdict is AdmitVerdict.UNKNOWN:
            log.warning("%s/%s: no answer of worker %s", key.namespace, key.name, placement.worker)
            return 0.5
        if outcome.verdict in ELSEWHERE:
            return self._elsewhere(seen, placement, outcome, SHUN_SECONDS)
        if outcome.verdict is AdmitVerdict.STALE_LEADER:
            log.error("worker %s knows a newer operator than this one", placement.worker)
            return self._elsewhere(seen, placement, outcome, STALE_LEADER_PAUSE)
        if outcome.verdict is AdmitVerdict.STALE_ATTEMPT and recovering(seen.subject.status):
            # It saw a later attempt, of which nobody knows any more: the next one is later still.
            self.book.unplace(uid)
            self.book.skip_attempt(uid, placement.attempt)
            return 0.05
        decision = after_refusal(replace(seen, placement=None), outcome)
        await self._write(key, seen, decision)
        return None

    def _elsewhere(
        self, seen: Observation, placement: Placement, outcome: AdmitOutcome, seconds: float
    ) -> float:
        """The session is surely not on this worker: it waits again, and others are asked."""
        uid = seen.subject.uid
        self._note_refusal(uid, Refusal(placement.worker, outcome.verdict.value, outcome.message))
        self.book.unplace(uid)
        self.line.refused(uid, placement.worker, placement.instance_id, seconds)
        return 0.0

    def _note_refusal(self, uid: str, refusal: Refusal) -> None:
        self._refusals[uid] = self._refusals.get(uid, Refusals()).add(refusal)
        self._context.metrics.worker_refused(refusal.reason)

    async def _move_on(self, key: Key, seen: Observation) -> float | None:
        """The instance that was asked is gone, or silent for too long: the next attempt may go elsewhere."""
        if seen.placement is not None:
            reason = "Silent" if seen.fate is Fate.SILENT else "Gone"
            self._note_refusal(seen.subject.uid, Refusal(seen.placement.worker, reason))
            self.book.lose(seen.subject.uid)
        return await self.reconcile(key)

    async def terminate(self, uid: str, message: str) -> bool:
        """End the session wherever it lives. True when no worker has it any more."""
        clear = True
        for worker, attempt in self.book.holders(uid):
            found = await self._context.links.terminate(worker, uid, attempt, "Terminated", message)
            self._context.metrics.terminated(found)
            clear = clear and found is not None
        return clear
