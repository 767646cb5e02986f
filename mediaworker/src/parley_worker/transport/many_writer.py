"""Writes what the legs of one stream have to say: one message a tick, each leg in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley.media.v1 import media_pb2 as pb

from parley_worker.transport.leg import Stream
from parley_worker.transport.many_turns import ManyTurns


async def write_turns(
    turns: ManyTurns, stream: Stream[pb.ConverseManyResponse], on_stall: Callable[[], None]
) -> None:
    """Write until the turns are over. `on_stall` is called once when a write takes longer than `stall`."""
    now, bounds = asyncio.get_running_loop().time, turns.bounds
    watch = StallWatch(bounds.stall, on_stall)
    due = now()
    try:
        while not turns.finished:
            await turns.asked.wait()
            if (pause := due - now()) > 0:
                await asyncio.sleep(pause)
            due = now() + bounds.tick
            turns.asked.clear()
            more = True
            while more:
                response, more = turns.collect()
                if response.entries:
                    watch.begin()
                    await stream.write(response)
                    watch.end()
            if turns.wanted:
                turns.asked.set()
    finally:
        watch.stop()


class StallWatch:
    """Tells once of something that takes longer than `after` seconds; with one timer, however often something
    begins: a stream is written to some hundred times a second."""

    def __init__(self, after: float, tell: Callable[[], None]) -> None:
        self._after = after
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._begun: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Something begins."""
        self._begun = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._after, self._look)

    def end(self) -> None:
        """It is over."""
        self._begun = None

    def stop(self) -> None:
        """Nothing will be told any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._begun is None:
            return
        left = self._begun + self._after - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._tell()
