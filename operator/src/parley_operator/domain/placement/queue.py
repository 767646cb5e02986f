"""The line of a pool: who waits, and whose turn is next.

First come first served within a namespace; between namespaces by turns (start-time fair queueing): each
lane has the virtual time of its next turn, which rises by `STRIDE / weight` with every place it gets. A
lane that comes back, or that could not be served meanwhile, goes on from the present time: it neither loses
its turn by waiting for one session at a time, nor saves turns up. Those who lost a place come before all
lanes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .demand import Choices, Request

# Divisible by most weights, so that turns are whole numbers and ties are exact.
STRIDE = 720_720
_Mark = tuple[float, int, str]


@dataclass(slots=True)
class Lane:
    """Those of one namespace, the oldest first, apart by what they ask for."""

    namespace: str
    order: int
    turn: int
    stride: int
    waiting: dict[Choices, list[_Mark]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(marks) for marks in self.waiting.values())

    def heads(self) -> list[tuple[_Mark, Choices]]:
        return sorted(
            ((marks[0], choices) for choices, marks in self.waiting.items()), key=lambda head: head[0]
        )

    def before(self, mark: _Mark) -> int:
        return sum(bisect_left(marks, mark) for marks in self.waiting.values())


class Line:
    """Costs grow with namespaces and with the number of different wishes, not with those who wait."""

    def __init__(self, weight: Callable[[str], int]) -> None:
        self._weight = weight
        self._lanes: dict[str, Lane] = {}
        self._urgent = Lane("", 0, 0, 0)
        self._turns: dict[str, int] = {}
        self._time = 0
        self._order = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def urgent(self) -> int:
        """How many of those who wait had a place before."""
        return len(self._urgent)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """How many others wait, by namespace."""
        return ((lane.namespace, len(lane)) for lane in self._lanes.values())

    def join(self, request: Request, mark: _Mark) -> None:
        lane = self._urgent if request.urgent else self._lane(request.namespace)
        insort(lane.waiting.setdefault(request.choices, []), mark)
        self._size += 1

    def _lane(self, namespace: str) -> Lane:
        lane = self._lanes.get(namespace)
        if lane is None:
            self._order += 1
            turn = max(self._turns.pop(namespace, 0), self._time)
            lane = Lane(namespace, self._order, turn, STRIDE // self._weight(namespace))
            self._lanes[namespace] = lane
        return lane

    def leave(self, request: Request, mark: _Mark) -> None:
        lane = self._urgent if request.urgent else self._lanes[request.namespace]
        marks = lane.waiting[request.choices]
        del marks[bisect_left(marks, mark)]
        self._size -= 1
        if not marks:
            del lane.waiting[request.choices]
        if not lane.waiting and lane is not self._urgent:
            del self._lanes[lane.namespace]
            self._turns[lane.namespace] = lane.turn
            self._tidy()

    def _tidy(self) -> None:
        """Turns that are over need not be known, and where nobody waits there are none."""
        if not self._size:
            self._turns.clear()
        elif len(self._turns) > 64 + 2 * len(self._lanes):
            self._turns = {name: turn for name, turn in self._turns.items() if turn > self._time}

    def reweigh(self) -> None:
        """Weights changed; turns that are due stay due."""
        for lane in self._lanes.values():
            lane.stride = STRIDE // self._weight(lane.namespace)

    def serve(self, place: Callable[[str, Choices], bool]) -> None:
        """Offer places in the order of turns.

        `place(uid, choices)` gives one to the session, which leaves the line, and returns whether it did.
        Those who ask for the same within a lane are not tried again after one that was not placed.
        """
        while _serve_first(self._urgent, place):
            pass
        turns = [(max(lane.turn, self._time), lane.order, lane) for lane in self._lanes.values()]
        heapq.heapify(turns)
        while turns:
            turn, order, lane = heapq.heappop(turns)
            if not _serve_first(lane, place):
                continue
            self._time = turn
            lane.turn = turn + lane.stride
            if lane.waiting:
                heapq.heappush(turns, (lane.turn, order, lane))
            else:
                self._turns[lane.namespace] = lane.turn
                self._tidy()

    def ahead(self, request: Request, mark: _Mark, left: Callable[[str], int]) -> int:
        """How many are served before this one; `left` is what a namespace's quota still allows."""
        if request.urgent:
            return self._urgent.before(mark)
        mine = self._lanes[request.namespace]
        rank = mine.before(mark)
        turn = max(mine.turn, self._time) + rank * mine.stride
        found = len(self._urgent) + rank
        for lane in self._lanes.values():
            if lane is not mine:
                found += min(
                    _turns_before(lane, self._time, turn, mine.order), len(lane), left(lane.namespace)
                )
        return found


def _serve_first(lane: Lane, place: Callable[[str, Choices], bool]) -> bool:
    return any(place(mark[2], choices) for mark, choices in lane.heads())


def _turns_before(lane: Lane, time: int, turn: int, order: int) -> int:
    """How many turns the lane has before the given one; of two at one time the older lane's comes first."""
    gap = turn - max(lane.turn, time)
    if gap < 0:
        return 0
    whole, rest = divmod(gap, lane.stride)
    return whole + (1 if rest or lane.order < order else 0)
