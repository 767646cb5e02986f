"""When to look for cyclic garbage among everything: at quiet moments, and before too much of it lies there.

Pure. Young objects are looked through all the time and cost little; the old ones are all live sessions, and
looking through them holds up everybody's audio for tens of milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

QUIET_SECONDS = 30.0
"""Between two collections at quiet moments."""
WORTH_SESSIONS = 20
"""So many sessions must have ended for a collection at a moment that is quiet but for their neighbours."""
MAX_SESSIONS = 1000
"""So many ended sessions, or..."""
MAX_GROWTH_BYTES = 256 * 1024 * 1024
"""...so much more memory than after the last collection, and it is done at any moment."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known: sessions that ended since the last collection, live ones, those whose answer plays now,
    and how much more memory there is than after it."""

    ended: int
    live: int
    playing: int
    growth_bytes: int


class CollectionPlan:
    """Decides; `now` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._last = now

    def due(self, moment: Moment, now: float) -> bool:
        """True when everything is to be looked through now; that counts as done."""
        if not self._wanted(moment, now):
            return False
        self._last = now
        return True

    def _wanted(self, moment: Moment, now: float) -> bool:
        if moment.ended >= MAX_SESSIONS or (moment.ended and moment.growth_bytes >= MAX_GROWTH_BYTES):
            return True
        if moment.ended == 0 or now - self._last < QUIET_SECONDS:
            return False
        return moment.live == 0 or (moment.playing == 0 and moment.ended >= WORTH_SESSIONS)
