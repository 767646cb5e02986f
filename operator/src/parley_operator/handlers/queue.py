"""A keyed work queue: a key waits at most once, and is never worked on twice at a time.

It is bounded by the number of distinct keys (objects), so nothing is ever dropped. A later `add` of a
waiting key
can only bring it forward.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import NamedTuple

# Not a kind: "end the session of this uid wherever it lives"; the uid stands where a name would.
DOOM = "Terminate"
# Nor this: "hand out the places that became free".
SERVE = "Serve"
# Nor this: "move the session of this name away from a worker that drains".
MIGRATE = "Migrate"


class Key(NamedTuple):
    """One object."""

    kind: str
    namespace: str
    name: str


class KeyedQueue:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        # Those who wait for a key: each key wakes one of them.
        self._takers: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def delayed(self) -> int:
        return len(self._due)

    def add(self, key: Key) -> None:
        """Look at the key soon; while it is being worked on, once more afterwards."""
        if self._closed:
            return
        self._due.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at the key in `seconds`, unless an earlier look is already arranged."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        if key in self._waiting or key in self._again:
            return
        at = asyncio.get_running_loop().time() + seconds
        if key in self._due and self._due[key] <= at:
            return
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))
        self._arm()

    async def get(self) -> Key:
        """The next key; it counts as busy until `done`."""
        while not self._ready:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled() and self._ready:
                    self._wake_one()
                raise
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._busy.add(key)
        return key

    def _wake_one(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """No more keys are taken."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now + 0.001:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                del self._due[key]
                self.add(key)
        self._arm()
