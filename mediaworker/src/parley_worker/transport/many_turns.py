"""Whose turn it is at a stream of many legs, and what each gives to the next message. No waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from parley.media.v1 import media_pb2 as pb

from parley_worker.transport.many_leg import ManyLeg

MAX_ENTRY: Final = 1 << 31
"""More than any entry has, in bytes."""


@dataclass(frozen=True, slots=True)
class WriterBounds:
    """When and how much is written to a stream of many sessions."""

    tick: float = 0.003
    """Seconds from one write to the next; after a longer silence a write is at once. Shorter than a slot of
    the pacer: what a slot gave does not wait."""
    message_bytes: int = 256 * 1024
    """Of one message; a single entry may be larger."""
    share_bytes: int = 32 * 1024
    """Of one leg in one message, and one entry at least."""
    waiting_bytes: int = 64 * 1024 * 1024
    """Of all legs together; past it the leg with the most waiting is a slow reader."""
    stall: float = 10.0
    """Seconds that one write may take."""


class ManyTurns:
    """See Turns. `legs` are those in use, by handle; `on_over` is told of each that gave its last word."""

    def __init__(
        self, bounds: WriterBounds, legs: Mapping[int, ManyLeg], on_over: Callable[[ManyLeg], None]
    ) -> None:
        self.waiting = 0
        self.most_waiting = bounds.waiting_bytes
        self.over = on_over
        self.bounds = bounds
        self.asked = asyncio.Event()
        """Somebody has something to say, or the end was asked for."""
        self._legs = legs
        self._turns: deque[ManyLeg] = deque()
        self._ending = False

    def ask(self, leg: ManyLeg) -> None:
        """See Turns."""
        if not self._turns:
            self.asked.set()
        self._turns.append(leg)

    def shed(self) -> None:
        """See Turns."""
        most = max((leg for leg in self._legs.values() if not leg.closing), key=_waiting, default=None)
        if most is not None:
            most.be_slow()

    def end(self) -> None:
        """Be over once no leg is in use."""
        self._ending = True
        self.asked.set()

    @property
    def finished(self) -> bool:
        """The end was asked for, and no leg is in use."""
        return self._ending and not self._legs

    @property
    def wanted(self) -> bool:
        """Some leg waits for its turn."""
        return bool(self._turns)

    def collect(self) -> tuple[pb.ConverseManyResponse, bool]:
        """One message of what waits, each leg giving once, and whether there is more that has waited."""
        response = pb.ConverseManyResponse()
        entries, turns, bounds = response.entries, self._turns, self.bounds
        left, more = bounds.message_bytes, False
        for _ in range(len(turns)):
            leg = turns.popleft()
            given, again = leg.give(entries, left if entries else MAX_ENTRY, bounds.share_bytes)
            left -= given
            self.waiting -= given
            if again:
                more = True
                if given:
                    turns.append(leg)
                else:
                    turns.appendleft(leg)
                    break
        return response, more


def _waiting(leg: ManyLeg) -> int:
    return leg.waiting
