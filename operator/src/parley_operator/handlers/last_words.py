"""Has the end of lost sessions written to their events and journals, by any worker that can."""

from __future__ import annotations

import logging

from parley_operator.domain.last_word import AGAIN, WITHIN, last_word, scribes, word_of_deleted
from parley_operator.domain.model import LastWord
from parley_operator.domain.observation import Subject

from .context import Context

log = logging.getLogger(__name__)
_REMEMBERED = 10_000


class LastWords:
    """`look` at sessions that are over. What was taken is remembered; an operator that starts anew asks once
    more, and the worker finds the end written."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._taken: dict[str, None] = {}
        self._orphans: dict[str, tuple[Subject, LastWord]] = {}

    async def look(self, subject: Subject) -> float | None:
        """Seconds until the next look; `None` when nothing is to be written, or a worker sees to it."""
        told = (self._context.links.view(worker) for worker in self._context.ledger.tellers(subject.uid))
        reports = [view.sessions[subject.uid] for view in told if view and subject.uid in view.sessions]
        return await self._have_written(subject, last_word(subject, reports, self._context.clock.now()))

    def deleted(self, subject: Subject) -> None:
        """The session was deleted, and its object is gone: `look_at_deleted` has its end written."""
        word = word_of_deleted(subject, self._context.clock.now())
        if word is not None:
            self._orphans[subject.uid] = subject, word
            while len(self._orphans) > _REMEMBERED:
                del self._orphans[next(iter(self._orphans))]

    async def look_at_deleted(self, uid: str) -> float | None:
        """As `look`, once no worker has the session any more."""
        subject, word = self._orphans.get(uid, (None, None))
        if subject is None or word is None:
            return None
        if self._context.clock.now() - word.ended <= WITHIN:
            again = await self._have_written(subject, word)
            if again is not None:
                return again
        del self._orphans[uid]
        return None

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
