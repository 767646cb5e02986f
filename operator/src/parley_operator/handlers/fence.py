"""Attempts that do not count any more: told where the session lives now, then ended.

An old worker comes back after a cut, or a move came to nothing: two workers hold one session. The one that is
bound stays, whatever the other does; fencing in the worker and in the journal keeps the other from doing harm
until it is gone.
"""

from __future__ import annotations

import logging

from parley_operator.domain.model import Placement
from parley_operator.domain.observation import Subject
from parley_operator.domain.recovery import Holder, attempt_floor, other_holders

from .context import Context
from .last_words import LastWords

log = logging.getLogger(__name__)
# How long an old attempt is given to find out by itself, and to send its caller on.
LEAVE_SECONDS = 10.0
_WORDS = "the session lives on another worker now"


class Fence:
    """`look` after every decision about a session; of one that is over, it has the end written down that no
    worker told."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Sessions that are being moved right now: two live attempts are as it should be.
        self.moving: set[str] = set()
        self._told: dict[tuple[str, str, int], float] = {}
        self.last_words = LastWords(context)

    async def look(self, subject: Subject, place: Placement | None) -> float | None:
        """Tell or end every live attempt but that of `place`; seconds until the next look at those told."""
        uid = subject.uid
        if subject.over:
            return await self.last_words.look(subject)
        if subject.deleting or uid in self.moving:
            return None
        if place is None or not place.confirmed or place.attempt < attempt_floor(subject.status):
            # Nothing is bound for sure: nobody is ended for it.
            return None
        views = (self._context.links.view(worker) for worker in self._context.ledger.tellers(uid))
        holders = other_holders([view for view in views if view is not None], uid, place)
        waits = [await self._see_off(uid, holder, place) for holder in holders]
        return min((wait for wait in waits if wait is not None), default=None)

    def told(self, uid: str, worker: str, attempt: int) -> None:
        """The attempt knows already where the session is: it is only given the time to leave."""
        self._remember((uid, worker, attempt), self._context.clock.monotonic())

    async def _see_off(self, uid: str, holder: Holder, place: Placement) -> float | None:
        now = self._context.clock.monotonic()
        if holder.attempt > place.attempt:
            # A move that came to nothing; or all that is left of the session, see `PlacementBook.find`.
            return await self._end(uid, holder) if self._bound_lives(uid, place) else 1.0
        told = (uid, holder.worker, holder.attempt)
        if told not in self._told:
            self._remember(told, now)
            await self._context.links.moved(holder.worker, uid, holder.attempt, place)
        left = self._told[told] + LEAVE_SECONDS - now
        return left if left > 0 else await self._end(uid, holder)

    async def _end(self, uid: str, holder: Holder) -> float:
        log.warning("%s: attempt %d on worker %s is over", uid, holder.attempt, holder.worker)
        links = self._context.links
        found = await links.terminate(holder.worker, uid, holder.attempt, "WorkerLost", _WORDS)
        self._context.metrics.terminated(found)
        return 2.0

    def _bound_lives(self, uid: str, place: Placement) -> bool:
        view = self._context.links.view(place.worker)
        if view is None or not view.answers or view.instance_id != place.instance_id:
            return False
        report = view.sessions.get(uid)
        return report is not None and report.live and report.attempt == place.attempt

    def _remember(self, told: tuple[str, str, int], now: float) -> None:
        self._told = {key: at for key, at in self._told.items() if now - at < 6 * LEAVE_SECONDS}
        self._told[told] = now
