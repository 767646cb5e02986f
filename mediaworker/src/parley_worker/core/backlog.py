"""Whether callers are heard late all over a shard, and what to do about it. Pure; times are seconds.

A shard that has more to do than time for it reads callers' streams later and later. Frames that are late
already then go to the provider some in one message and one system call, where each would have had its own:
that saves what the shard has too little of. While it keeps up, a frame goes the moment it comes.
"""

from __future__ import annotations

from typing import Final

PAUSE_SECONDS: Final = 0.2
"""A caller who says nothing for longer is not late but begins anew."""
FORGIVEN: Final = 0.01
"""Of the time that passes: a caller whose clock is slow is not late for ever."""
COUNTS_SECONDS: Final = 0.2
"""A frame that is later counts as one that is so late: nobody speaks for all."""
WEIGHT: Final = 1 / 256
"""Of a frame in the mean over all callers' frames."""
BUSY_SHARE: Final = 0.94
"""Of the time; an event loop that had something to do for longer has none left, else callers are late by
themselves."""
KEEPS_UP_SECONDS: Final = 0.005
LATE_SECONDS: Final = 0.08
VERY_LATE_SECONDS: Final = 0.15
LATE_SLOTS: Final = 8
"""Of the pacer, 40 ms: two frames go together..."""
VERY_LATE_SLOTS: Final = 20
"""...and five, 100 ms."""


class Delay:
    """How much later than at its best one caller's audio comes. `seconds` is that of the latest frame."""

    __slots__ = ("_best", "seconds")

    def __init__(self) -> None:
        self._best = 0.0
        self.seconds = 0.0

    def came(self, ahead: float, since: float, duration: float) -> None:
        """A frame came `since` the one before it, and with it there is so much more audio than time that
        has passed; any fixed number may be added to `ahead`."""
        best = self._best - FORGIVEN * duration
        if ahead > best or since > PAUSE_SECONDS:
            best = ahead
        self._best = best
        self.seconds = best - ahead

    def missed(self, seconds: float) -> None:
        """So much audio was lost before the latest frame: it will not come late."""
        self._best -= seconds


class Backlog:
    """One for a shard. `slots` of the pacer are how long callers' frames gather; 0: they do not."""

    __slots__ = ("busy", "delay", "slots")

    def __init__(self) -> None:
        self.delay = 0.0
        self.busy = False
        self.slots = 0

    def worked(self, share: float) -> None:
        """The event loop had something to do for such a share of the last fraction of a second."""
        self.busy = share >= BUSY_SHARE

    def note(self, delay: float) -> int:
        """A caller's frame came with such a delay; gives `slots`."""
        counted = delay if delay < COUNTS_SECONDS else COUNTS_SECONDS
        self.delay = mean = self.delay + (counted - self.delay) * WEIGHT
        if mean < KEEPS_UP_SECONDS or not self.busy:
            self.slots = 0
        elif mean > VERY_LATE_SECONDS:
            self.slots = VERY_LATE_SLOTS
        elif mean > LATE_SECONDS and self.slots < LATE_SLOTS:
            self.slots = LATE_SLOTS
        return self.slots
