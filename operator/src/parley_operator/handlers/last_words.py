"""Has the end of lost sessions written to their events and journals, by any worker that can."""

from __future__ import annotations

import logging

from parley_operator.domain.last_word import AGAIN, last_word, scribes
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

    async def look(self, subject: Subject) -> float | None:
        """Seconds until the next look; `None` when nothing is to be written, or a worker sees to it."""
        told = (self._context.links.view(worker) for worker in self._context.ledger.tellers(subject.uid))
        reports = [view.sessions[subject.uid] for view in told if view and subject.uid in view.sessions]
        word = last_word(subject, reports, self._context.clock.now())
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
