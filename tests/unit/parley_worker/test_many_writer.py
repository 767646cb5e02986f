"""The writer of a stream of many: one message a tick, and a write that does not end is told of once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import virtual_time
from parley_worker.core import effects as fx
from parley_worker.core.media_path import OutFrame
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_leg import ManyLeg
from parley_worker.transport.many_turns import ManyTurns, WriterBounds
from parley_worker.transport.many_writer import StallWatch, write_turns

FRAME = OutFrame(bytes(100), "i", 0, 1, 0)


class Stream:
    """Keeps what is written and when; each write takes the next of `takes` seconds."""

    def __init__(self, *takes: float) -> None:
        self.takes = list(takes)
        self.written: list[tuple[float, int]] = []

    async def write(self, message: Any) -> None:
        self.written.append((asyncio.get_running_loop().time(), len(message.entries)))
        await asyncio.sleep(self.takes.pop(0) if self.takes else 0)


def scene(stream: Stream, say: Any, **bounds: float) -> tuple[int, list[float]]:
    """60 s of writing what `say(leg)` gave: bytes that still wait, and when stalls were told."""
    stalls: list[float] = []

    async def run() -> int:
        legs: dict[int, ManyLeg] = {}
        turns = ManyTurns(WriterBounds(**bounds), legs, lambda leg: None)
        leg = legs[1] = ManyLeg(1, turns, LegBounds(), "w", lambda *_: None)
        loop = asyncio.get_running_loop()
        writer = asyncio.create_task(write_turns(turns, stream, lambda: stalls.append(loop.time())))
        await say(leg)
        await asyncio.sleep(60 - loop.time())
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        return turns.waiting

    return virtual_time.run(run()), stalls


async def three_frames(leg: ManyLeg) -> None:
    for _ in range(3):
        leg.send_audio(FRAME)
        await asyncio.sleep(0.001)


def test_what_comes_within_a_tick_leaves_together() -> None:
    stream = Stream()
    assert scene(stream, three_frames, tick=0.003) == (0, [])
    assert [entries for _, entries in stream.written] == [1, 2]
    assert stream.written[1][0] == pytest.approx(0.003)


def test_a_write_that_does_not_end_is_told_of_once() -> None:
    stream = Stream(1000)
    waiting, stalls = scene(stream, three_frames, stall=10)
    assert (waiting > 0, stalls) == (True, [pytest.approx(10)])


@pytest.mark.parametrize(("takes", "expected"), [((9.9, 9.9), []), ((9.0, 30.0), [19.0])])
def test_each_write_has_its_own_time(takes: tuple[float, ...], expected: list[float]) -> None:
    _, stalls = scene(Stream(*takes), three_frames, stall=10)
    assert stalls == pytest.approx(expected)


def test_a_watch_that_was_stopped_tells_nothing() -> None:
    told: list[str] = []

    async def run() -> None:
        watch = StallWatch(5, lambda: told.append("stalled"))
        for _ in range(3):
            watch.begin()
            watch.end()
        watch.begin()
        watch.stop()
        await asyncio.sleep(60)

    virtual_time.run(run())
    assert told == []


def test_an_event_leaves_as_it_was_said_and_is_not_larger_than_it_counted() -> None:
    stream, seen = Stream(), []

    async def write(message: Any) -> None:
        seen.extend(message.entries)

    stream.write = write  # type: ignore[method-assign]
    text = '{"type":"t","delta":"é — 你好"}'
    counted = []

    async def say(leg: ManyLeg) -> None:
        leg.send(fx.ConversationEvent(2**40, 3, "response.output_text.delta", text))
        counted.append(leg.waiting)

    assert scene(stream, say) == (0, [])
    event = seen[0].message.event
    assert (event.sequence, event.attempt, event.type) == (2**40, 3, "response.output_text.delta")
    assert event.event_json == text
    assert counted[0] >= seen[0].ByteSize()
