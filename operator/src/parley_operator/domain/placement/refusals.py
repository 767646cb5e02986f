"""Which workers refused a session, and why: kept while it looks for a place, told in its conditions."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 5
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker's no. `words` are what it said beside the reason."""

    worker: str
    reason: str
    words: str = ""

    def __str__(self) -> str:
        said = " ".join(self.words.split())[:_LONGEST]
        return f"{self.worker} said {self.reason}" + (f" ({said})" if said else "")


@dataclass(frozen=True, slots=True)
class Refusals:
    """The latest of them, and how many there were."""

    latest: tuple[Refusal, ...] = ()
    count: int = 0

    def add(self, refusal: Refusal) -> Refusals:
        others = tuple(
            old for old in self.latest if (old.worker, old.reason) != (refusal.worker, refusal.reason)
        )
        return Refusals((*others, refusal)[-MOST:], self.count + 1)

    def __str__(self) -> str:
        """For people, at most `MOST` of them; empty for none."""
        if not self.count:
            return ""
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"refused {times}: " + ", ".join(map(str, self.latest))
