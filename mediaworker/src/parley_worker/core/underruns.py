"""Why an answer's audio ran dry before it was done: provider, worker or caller was too slow. Pure.

Followed against the playout clock of one leg in real time; a burst has no clock that it could miss. What is
counted is an episode, however many frames it held up. Every time is monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

PROVIDER_LATE_SECONDS = 0.02
"""Audio that comes so long after its frame was due left a gap."""
WORKER_LATE_SECONDS = 0.02
"""A frame that leaves so long after it was due, though its audio was there, left a gap."""
CALLER_SLOW_MS = 200
"""So much audio in the caller's queue, and what is sent now is heard late."""
CALLER_WELL_MS = 40
EPISODE_SECONDS = 0.2
"""Late frames closer together than this are one underrun."""


class UnderrunCause(StrEnum):
    """Who was too slow."""

    PROVIDER_LATE = "provider_late"
    WORKER_LATE = "worker_late"
    CALLER_SLOW = "caller_slow"


class Lateness:
    """When the event loop was late, and how late: the latest 64 times."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, float]] = deque(maxlen=64)

    def note(self, late: float, now: float) -> None:
        """A timer fired so late; what would leave no gap is not kept."""
        if late > WORKER_LATE_SECONDS:
            self._noted.append((now, late))

    def since(self, at: float) -> float:
        """The worst since then; 0 for none."""
        return max((late for when, late in self._noted if when >= at), default=0.0)


class UnderrunWatch:
    """Follows one session's playout. `told` is called once for each underrun."""

    def __init__(
        self, told: Callable[[UnderrunCause], None] = lambda cause: None, loop: Lateness | None = None
    ) -> None:
        self._told = told
        self._loop = loop or Lateness()
        self._dry_since: float | None = None
        self._fed_at = 0.0
        self._late_at: float | None = None
        self._slow_bytes = self._well_bytes = 0
        self._slow = False

    def attached(self, bytes_per_ms: int) -> None:
        """Another caller's queue, empty; its format's bytes."""
        self.forget()
        self._slow = False
        self._slow_bytes, self._well_bytes = CALLER_SLOW_MS * bytes_per_ms, CALLER_WELL_MS * bytes_per_ms

    def forget(self) -> None:
        """Nothing plays: what comes next is not late."""
        self._dry_since = None

    def dry(self, due: float | None) -> None:
        """The caller has played all it was given then, and the next frame's audio is not there yet."""
        if self._dry_since is None:
            self._dry_since = due

    def fed(self, now: float) -> None:
        """Audio came."""
        due = self._dry_since
        if due is None:
            return
        self._dry_since, self._fed_at = None, now
        if now - due > PROVIDER_LATE_SECONDS:
            late = self._loop.since(due) > WORKER_LATE_SECONDS
            self._told(UnderrunCause.WORKER_LATE if late else UnderrunCause.PROVIDER_LATE)

    def late(self, due: float, now: float, ahead: float = 0.0) -> float:
        """A frame leaves now, and so much before it the caller still holds; gives the worker's part of its
        lateness."""
        late = now - max(due, self._fed_at)
        if late > WORKER_LATE_SECONDS + ahead:
            if self._late_at is None or now - self._late_at > EPISODE_SECONDS:
                self._told(UnderrunCause.WORKER_LATE)
            self._late_at = now
        return max(late, 0.0)

    def queued(self, waiting: int) -> None:
        """So many bytes wait in the caller's queue."""
        if waiting > self._slow_bytes and not self._slow:
            self._slow = True
            self._told(UnderrunCause.CALLER_SLOW)
        elif self._slow and waiting <= self._well_bytes:
            self._slow = False
