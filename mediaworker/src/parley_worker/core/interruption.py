"""Clears that wait for the caller's word on what it heard, oldest first. Pure; times in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

from parley_worker.core.effects import ClearReason

MAX_WAITING = 16


@dataclass(frozen=True, slots=True)
class Interruption:
    """Audio of epochs up to `epoch` was thrown away `at` that moment; the caller has until `deadline`."""

    epoch: int
    reason: ClearReason
    at: float
    deadline: float


class Interruptions:
    """Those of one session. A second one does not end the wait of the first: each has its own audio."""

    def __init__(self) -> None:
        self._waiting: list[Interruption] = []

    @property
    def epoch(self) -> int:
        """Up to where audio was thrown away and the truth of it is still awaited; 0 for nowhere."""
        return self._waiting[-1].epoch if self._waiting else 0

    def begin(self, interruption: Interruption) -> list[Interruption]:
        """Wait for its word; gives those that cannot be waited for any longer, as too many do."""
        self._waiting.append(interruption)
        return [self._waiting.pop(0) for _ in range(len(self._waiting) - MAX_WAITING)]

    def answered(self, epoch: int) -> list[Interruption]:
        """Those that end with the caller's word on this epoch: its own last, none when it is not awaited."""
        if all(waiting.epoch != epoch for waiting in self._waiting):
            return []
        return [self._waiting.pop(0) for waiting in list(self._waiting) if waiting.epoch <= epoch]

    def overdue(self, now: float) -> list[Interruption]:
        """Those whose caller did not answer in time."""
        return [self._waiting.pop(0) for waiting in list(self._waiting) if waiting.deadline <= now]

    def all(self) -> list[Interruption]:
        """End every wait."""
        ended = list(self._waiting)
        self._waiting.clear()
        return ended

    def deadline(self) -> float | None:
        """When the first wait ends."""
        return self._waiting[0].deadline if self._waiting else None
