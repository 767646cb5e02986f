"""What came in one read, handled in several turns of the event loop: others run in between. No I/O.

A provider may send an answer of a minute, or a thousand events, in one piece. What is not handled within the
slice waits, in order, for the next turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

SLICE_SECONDS = 0.002
GAP_SECONDS = 0.0002
"""Frames of one read follow each other more closely than this; after a longer pause others had their turn."""
MAX_BYTES = 8 * 1024 * 1024
"""More than that does not wait: whoever sends faster than it is handled is made to wait himself."""


class Turns:
    """`handle` is called for every frame, in order; `call_soon` is the loop's, `clock` counts seconds."""

    def __init__(
        self,
        handle: Callable[[bytes], None],
        call_soon: Callable[[Callable[[], None]], Any],
        clock: Callable[[], float] = perf_counter,
        gather: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        """`gather`: frames wait until it calls back, to be handled together with those of other clients."""
        self._handle, self._call_soon, self._clock = handle, call_soon, clock
        self._gather = gather
        self._waiting: deque[bytes] = deque()
        self._last: Callable[[], None] | None = None
        self._spent = 0.0
        self._until = 0.0
        self.bytes = 0
        """Of the frames that wait."""

    def put(self, frame: bytes) -> None:
        """Handle it now, or when it is its turn."""
        if not self._waiting:
            if self._gather is not None:
                self._gather(self._go_on)
            elif self._may_go():
                self._do(frame)
                return
            else:
                self._call_soon(self._go_on)
        self._waiting.append(frame)
        self.bytes += len(frame)
        while self.bytes > MAX_BYTES:
            self._next()

    def finish(self, last: Callable[[], None]) -> None:
        """Call it once no frame waits any more."""
        if self._waiting:
            self._last = last
        else:
            last()

    def clear(self) -> None:
        """Forget what waits; a last call is made all the same."""
        self._waiting.clear()
        self.bytes = 0

    def _may_go(self) -> bool:
        return self._spent < SLICE_SECONDS or self._clock() - self._until > GAP_SECONDS

    def _do(self, frame: bytes) -> None:
        began = self._clock()
        if began - self._until > GAP_SECONDS:
            self._spent = 0.0
        self._handle(frame)
        self._until = self._clock()
        self._spent += self._until - began

    def _next(self) -> None:
        frame = self._waiting.popleft()
        self.bytes -= len(frame)
        self._do(frame)

    def _go_on(self) -> None:
        self._spent = 0.0
        while self._waiting and self._spent < SLICE_SECONDS:
            self._next()
        if self._waiting:
            self._call_soon(self._go_on)
        elif self._last is not None:
            last, self._last = self._last, None
            last()
