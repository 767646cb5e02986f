"""Writes what the legs of one stream have to say: one message a tick, each leg in its turn."""

from __future__ import annotations

import asyncio

from parley.media.v1 import media_pb2 as pb

from parley_worker.transport.leg import Stream
from parley_worker.transport.many_turns import ManyTurns


async def write_turns(turns: ManyTurns, stream: Stream[pb.ConverseManyResponse]) -> None:
    """Write until the turns are over.

    Raises:
        TimeoutError: one write took longer than `stall`.
    """
    now, bounds = asyncio.get_running_loop().time, turns.bounds
    due = now()
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
                async with asyncio.timeout(bounds.stall):
                    await stream.write(response)
        if turns.wanted:
            turns.asked.set()
