"""A caller's queue: order, bounds, and what a Clear does to it."""

from __future__ import annotations

import asyncio

from parley.media.v1 import media_pb2 as pb
from parley_worker.core import effects as fx
from parley_worker.core.media_path import OutFrame
from parley_worker.core.model import EndReason
from parley_worker.transport.leg import SLOW_READER, Leg, LegBounds

FRAME = OutFrame(bytes(100), "i", 0, 1, 0)
CLEAR = fx.Clear(1, fx.ClearReason.REQUESTED)
MARK = fx.Mark("m1", 1, "i", 0, 20)
ENDED = fx.Ended(EndReason.TERMINATED, "x")


class Stream:
    """Keeps what is written; waits while `closed` is set."""

    def __init__(self) -> None:
        self.written: list[pb.ConverseResponse] = []
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, message: pb.ConverseResponse) -> None:
        await self.open.wait()
        self.written.append(message)

    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("message") for message in self.written]


async def drained(leg: Leg, stream: Stream) -> Stream:
    leg.finish(None)
    await leg.drain(stream)
    return stream


async def test_messages_leave_in_order_and_frames_are_numbered() -> None:
    leg = Leg(LegBounds(), "w")
    leg.send_audio(FRAME)
    leg.send(MARK)
    leg.send_audio(FRAME)
    leg.send(ENDED)
    stream = await drained(leg, Stream())
    assert stream.kinds() == ["audio", "mark", "audio", "ended"]
    assert [m.audio.sequence for m in stream.written if m.HasField("audio")] == [1, 2]
    assert leg.audio_room() == LegBounds().audio_bytes


async def test_frames_that_wait_go_together_and_packets_go_alone() -> None:
    frames = [OutFrame(b"%d" % number, "i", 0, 1, 20.0 * number) for number in range(3)]
    for alone, payloads in ((False, [b"012"]), (True, [b"0", b"1", b"2"])):
        leg = Leg(LegBounds(), "w", alone=alone)
        for frame in frames:
            leg.send_audio(frame)
        stream = await drained(leg, Stream())
        assert [m.audio.payload for m in stream.written] == payloads
        assert [m.audio.sequence for m in stream.written] == [*range(1, len(payloads) + 1)]
        assert leg.queued_bytes() == 0
        assert leg.audio_room() == LegBounds().audio_bytes


async def test_after_the_end_nothing_is_taken_and_the_first_end_counts() -> None:
    leg = Leg(LegBounds(), "w")
    leg.finish(SLOW_READER)
    leg.finish(None)
    leg.send(ENDED)
    assert leg.refusal is SLOW_READER
    assert (await drained(leg, Stream())).written == []


async def test_a_clear_takes_audio_and_its_marks_away_and_waits_for_no_event() -> None:
    leg = Leg(LegBounds(), "w")
    leg.send_audio(FRAME)
    leg.send(MARK)
    leg.send(fx.ConversationEvent(1, 1, "t", "{}"))
    leg.send_audio(OutFrame(bytes(100), "i", 0, 1, 40.5))
    leg.send_audio(OutFrame(bytes(100), "j", 1, 1, 0))
    assert leg.drop_audio() == {("i", 0): 0, ("j", 1): 0}
    leg.send(CLEAR)
    leg.send_audio(FRAME)
    stream = await drained(leg, Stream())
    assert stream.kinds() == ["clear", "audio", "event"]
    assert stream.written[1].audio.sequence == 1


async def test_too_many_messages_or_bytes_end_the_leg_once() -> None:
    for bounds in (LegBounds(messages=3), LegBounds(bytes=400)):
        leg = Leg(bounds, "w")
        slow: list[bool] = []
        leg.on_slow = lambda slow=slow: slow.append(True)  # type: ignore[misc]
        for _ in range(10):
            leg.send_audio(FRAME)
        assert leg.refusal is SLOW_READER
        assert slow == [True]
        assert (await drained(leg, Stream())).written == []


async def test_room_comes_back_when_a_burst_is_written() -> None:
    leg = Leg(LegBounds(audio_bytes=250), "w")
    rooms: list[int] = []
    leg.on_room = lambda: rooms.append(leg.audio_room())
    for _ in range(3):
        leg.send_audio(FRAME)
    assert leg.audio_room() <= 0
    await drained(leg, Stream())
    assert rooms[-1] == 250
    assert len(rooms) >= 1


async def test_small_frames_leave_room_for_messages() -> None:
    leg = Leg(LegBounds(messages=8), "w")
    rooms: list[int] = []
    leg.on_room = lambda: rooms.append(leg.audio_room())
    leg.send_audio(FRAME)
    for _ in range(3):
        assert leg.audio_room() > 0
        leg.send(MARK)
    assert leg.audio_room() == 0
    for _ in range(4):
        leg.send(MARK)
    assert leg.refusal is None
    stream = await drained(leg, Stream())
    assert len(stream.written) == 8
    assert rooms[-1] == LegBounds().audio_bytes


async def test_the_writer_waits_for_more() -> None:
    leg, stream = Leg(LegBounds(), "w"), Stream()
    writer = asyncio.create_task(leg.drain(stream))
    for n in range(3):
        leg.send_audio(FRAME)
        while len(stream.written) <= n:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0)
    leg.finish(None)
    await writer
    assert len(stream.written) == 3
