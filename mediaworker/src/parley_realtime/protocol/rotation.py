"""When a connection is to be replaced before the provider ends it. Times are seconds of one clock. Pure."""

from __future__ import annotations

from collections.abc import Callable

LAST_MARGIN = 5.0
"""A rotation that found no quiet moment is forced so long before the provider's limit."""
LONGEST_SESSION = 24 * 3600.0


class RotationSchedule:
    """Of one connection at a time: from `at` on at a quiet moment, at `last` whatever goes on."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._last: float | None = None
        self._not_before = 0.0
        self._failed = 0

    def begin(self, now: float, remaining: float, after: float, margin: float) -> bool:
        """A connection is used from now on; True when it is to be replaced some time.

        remaining: seconds until the provider's limit; 0 or less where it is not known.
        after: seconds until the replacement that is wished for in any case; 0 for none.
        margin: how long before the limit a quiet moment is looked for, at most a tenth of what remains.
        """
        self.never()
        self._not_before = 0.0
        self._failed = 0
        if 0 < remaining <= LONGEST_SESSION:
            margin = min(margin, remaining / 10)
            self._at = now + remaining - margin
            self._last = now + remaining - min(LAST_MARGIN, margin / 2)
        if after:
            self._at = now + after if self._at is None else min(now + after, self._at)
        return self._at is not None

    def never(self) -> None:
        """The connection stays as long as the provider lets it."""
        self._at = self._last = None

    def due(self, now: float, calm: Callable[[], bool]) -> bool:
        """It is time, and quiet or too late to wait for that."""
        if self._at is None or now < self._at:
            return False
        return self.forced(now) or (now >= self._not_before and calm())

    def forced(self, now: float) -> bool:
        """The last moment is here."""
        return self._last is not None and now >= self._last

    def taken(self) -> None:
        """The last moment is used; there is no other."""
        self._last = None

    def failed(self, now: float, look: float, jitter: float) -> None:
        """A replacement could not be made: the next try waits ever longer, `jitter` seconds on top."""
        self._failed += 1
        self._not_before = now + look * 2.0 ** min(self._failed, 6) + jitter

    def next_look(self, now: float, look: float) -> float | None:
        """When a moment is looked for next, no sooner than `look` seconds from now; None for never."""
        return None if self._at is None else max(self._at, self._not_before, now + look)
