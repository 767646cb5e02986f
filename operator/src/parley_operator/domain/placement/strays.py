"""Sessions on workers that no VoiceSession accounts for: how many of them may be ended now.

A stray is ended when it was seen in two sweeps and a fresh look at the API server does not know it. When
there are more than a few, the look may be what is wrong (a backup restored, another cluster's API server):
then nothing is ended for `hold` seconds, and afterwards only a few a sweep, until there are few again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class StrayRules:
    """`least` and `share` of all live sessions bound what one sweep may end; seconds and shares once it
    is braked.
    """

    least: int = 3
    share: float = 0.05
    hold: float = 30.0
    slow_share: float = 0.01

    def allowance(self, live: int) -> int:
        return max(self.least, int(live * self.share))

    def slowly(self, live: int) -> int:
        return max(1, ceil(live * self.slow_share))


@dataclass(frozen=True, slots=True)
class Brake:
    """`since`: when it was pulled, on the sweeps' clock; `None` while it is not."""

    since: float | None = None

    @property
    def pulled(self) -> bool:
        return self.since is not None

    def sweep(self, strays: int, live: int, now: float, rules: StrayRules) -> tuple[Brake, int]:
        """The brake from now on, and how many of `strays` confirmed ones this sweep may end.

        `live` counts all sessions that live on workers.
        """
        if strays <= rules.allowance(live):
            return Brake(), strays
        since = now if self.since is None else self.since
        if now - since < rules.hold:
            return Brake(since), 0
        return Brake(since), min(strays, rules.slowly(live))
