"""Sessions on workers without a VoiceSession: looked for every few seconds, ended with a brake."""

from __future__ import annotations

import logging
from collections.abc import Callable

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.model import SessionReport
from parley_operator.domain.placement.strays import Brake

from .context import Context

log = logging.getLogger(__name__)

# Beyond so many, one complete list is cheaper than asking for each.
_ASK_FOR_EACH = 20


class StraySweep:
    """`found(uid, body)` is told the VoiceSession of a suspect after all, or `None` for one that is to
    end.
    """

    def __init__(
        self, context: Context, deleted: Callable[[str], bool], found: Callable[[str, Body | None], None]
    ) -> None:
        self._context = context
        self._deleted = deleted
        self._found = found
        self._suspects: set[str] = set()
        self._brake = Brake()

    async def sweep(self) -> None:
        """End strays seen twice that have no object, as many as the brake allows. Raises `StoreError`."""
        context = self._context
        known = {text_at(body, "metadata", "uid") for _, body in context.cache.of_kind(SESSION)}
        live, strays = 0, dict[str, SessionReport]()
        for view in context.links.views():
            for uid, report in view.sessions.items() if view.answers else ():
                live += report.live
                if report.live and uid not in known and not self._deleted(uid):
                    strays[uid] = report
        context.metrics.strays(len(strays))
        suspects = {uid: report for uid, report in strays.items() if uid in self._suspects}
        self._suspects = set(strays)
        confirmed = await self._confirm(suspects) if suspects else []
        for uid in self._allowed(confirmed, live):
            context.metrics.stray_ended()
            self._found(uid, None)

    def _allowed(self, confirmed: list[str], live: int) -> list[str]:
        was = self._brake.pulled
        now, rules = self._context.clock.monotonic(), self._context.settings.strays
        self._brake, count = self._brake.sweep(len(confirmed), live, now, rules)
        self._context.metrics.stray_brake(self._brake.pulled)
        if self._brake.pulled and not was:
            log.error(
                "%d of %d sessions on workers have no VoiceSession: none is ended for %.0f s, then %d at a "
                "time; is this the right API server, and are its objects complete?",
                len(confirmed),
                live,
                rules.hold,
                rules.slowly(live),
            )
        elif was and not self._brake.pulled:
            log.warning("few sessions are without a VoiceSession now: they are ended at once again")
        return confirmed[:count]

    async def _confirm(self, suspects: dict[str, SessionReport]) -> list[str]:
        """Those that the API server does not know; of the others their objects are told."""
        store = self._context.store
        if len(suspects) > _ASK_FOR_EACH:
            bodies = await store.list(SESSION)
        else:
            asked = [await store.get(SESSION, report.namespace, report.name) for report in suspects.values()]
            bodies = [body for body in asked if body is not None]
        present = {text_at(body, "metadata", "uid"): body for body in bodies}
        for uid in suspects.keys() & present.keys():
            self._found(uid, present[uid])
        return sorted(suspects.keys() - present.keys())
