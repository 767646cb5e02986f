"""Has the end of lost sessions written to their events and journals, by any worker that can."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from parley_operator.domain.last_word import (
    AGAIN,
    WITHIN,
    last_word,
    may_stay_untold,
    scribes,
    word_of_deleted,
)
from parley_operator.domain.model import LastWord, SessionReport
from parley_operator.domain.observation import Subject

from .context import Context

log = logging.getLogger(__name__)
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Orphan:
    """A session whose object is gone, since `deleted` (unix seconds). `lost`: its worker is gone as well."""

    subject: Subject
    deleted: float
    lost: bool = False


class LastWords:
    """`look` at sessions that are over. What was taken is remembered; an operator that starts anew asks once
    more, and the worker finds the end written."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._taken: dict[str, None] = {}
        self._orphans: dict[str, _Orphan] = {}

    async def look(self, subject: Subject) -> float | None:
        """Seconds until the next look; `None` when nothing is to be written, or a worker sees to it."""
        word = last_word(subject, self._told_of(subject.uid), self._context.clock.now())
        return await self._have_written(subject, word)

    def deleted(self, subject: Subject) -> None:
        """The session was deleted, and its object is gone: `look_at_deleted` has its end written."""
        if not subject.over:
            self._orphans[subject.uid] = _Orphan(subject, self._context.clock.now())
            while len(self._orphans) > _REMEMBERED:
                del self._orphans[next(iter(self._orphans))]

    async def look_at_deleted(self, uid: str, lost: bool) -> float | None:
        """As `look`, once everybody who has the session was told to end it. `lost`: its worker is gone."""
        orphan = self._orphans.get(uid)
        if orphan is None:
            return None
        orphan.lost = orphan.lost or lost
        again = None
        if self._context.clock.now() - orphan.deleted <= WITHIN:
            again = await self._look_at(orphan)
        if again is None:
            self._orphans.pop(uid, None)
        return again

    async def _look_at(self, orphan: _Orphan) -> float | None:
        subject, reports = orphan.subject, self._told_of(orphan.subject.uid)
        if not orphan.lost and may_stay_untold(subject, reports):
            return AGAIN
        word = word_of_deleted(subject, reports, orphan.lost, orphan.deleted)
        return await self._have_written(subject, word)

    def _told_of(self, uid: str) -> list[SessionReport]:
        told = (self._context.links.view(worker) for worker in self._context.ledger.tellers(uid))
        return [view.sessions[uid] for view in told if view and uid in view.sessions]

    async def _have_written(self, subject: Subject, word: LastWord | None) -> float | None:
        if word is None or subject.uid in self._taken:
            return None
        links = self._context.links
        answers: list[bool | None] = []
        for worker in scribes(links.views(), str(subject.status.get("pool", "")).rpartition("/")[2]):
            answers.append(await links.record_end(worker, word))
            if answers[-1]:
                break
        if not answers or (None in answers and True not in answers):
            return AGAIN
        if True not in answers:
            log.warning("%s/%s: no worker writes down its end", subject.namespace, subject.name)
        self._remember(subject.uid)
        return None

    def _remember(self, uid: str) -> None:
        self._taken[uid] = None
        while len(self._taken) > _REMEMBERED:
            del self._taken[next(iter(self._taken))]
