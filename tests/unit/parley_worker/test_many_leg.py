"""A leg among many: what it gives in its turn, its bounds, its credit, and its last word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import virtual_time
from parley.media.v1 import media_pb2 as pb
from parley_worker.codec import many_pb
from parley_worker.core import effects as fx
from parley_worker.core.events import LegRefusal, Status
from parley_worker.core.media_path import OutFrame
from parley_worker.core.model import EndReason
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_leg import ENTRY_BYTES, ManyLeg

FRAME = OutFrame(bytes(100), "i", 0, 1, 0)
SIZE = 100 + ENTRY_BYTES
MARK = fx.Mark("m1", 1, "i", 0, 20)
CLEAR = fx.Clear(1, fx.ClearReason.REQUESTED)
ENDED = fx.Ended(EndReason.TERMINATED, "x")
REPLACED = LegRefusal(Status.ABORTED, "replaced", "a newer attach came", "")
EVERYTHING = 1 << 30


class Turns:
    """See many_leg.Turns."""

    def __init__(self, most_waiting: int = EVERYTHING) -> None:
        self.waiting = 0
        self.most_waiting = most_waiting
        self.asked: list[ManyLeg] = []
        self.shed_calls = 0
        self.gone: list[ManyLeg] = []

    def ask(self, leg: ManyLeg) -> None:
        self.asked.append(leg)

    def shed(self) -> None:
        self.shed_calls += 1

    def over(self, leg: ManyLeg) -> None:
        self.gone.append(leg)


def new(turns: Turns | None = None, **bounds: Any) -> ManyLeg:
    return ManyLeg(7, turns or Turns(), LegBounds(**bounds), "w", lambda *_: None)


def give(leg: ManyLeg, room: int = EVERYTHING, share: int = EVERYTHING) -> tuple[list[pb.AgentEntry], bool]:
    response = pb.ConverseManyResponse()
    before = leg.waiting
    given, more = leg.give(response.entries, room, share)
    assert given == before - leg.waiting
    assert given >= sum(len(e.audio) or e.message.ByteSize() for e in response.entries)
    assert {e.handle for e in response.entries} <= {7}
    return list(response.entries), more


def kinds(entries: list[pb.AgentEntry]) -> list[str | None]:
    return [
        e.message.WhichOneof("message") if e.HasField("message") else e.WhichOneof("content") for e in entries
    ]


def test_entries_leave_in_order_in_one_turn() -> None:
    turns = Turns()
    leg = new(turns)
    for what in (FRAME, MARK, FRAME):
        leg.send_audio(what) if isinstance(what, OutFrame) else leg.send(what)
    assert turns.asked == [leg]
    assert turns.waiting == leg.waiting > 2 * SIZE
    entries, more = give(leg)
    assert (kinds(entries), more) == (["audio", "mark", "audio"], False)
    assert [e.sequence for e in entries if e.HasField("audio")] == [1, 2]
    assert leg.waiting == 0
    assert leg.audio_room() == LegBounds().audio_bytes


def test_an_item_is_named_when_it_changes_only() -> None:
    leg = new()
    for item, part in (("i", 0), ("i", 1), ("j", 0), ("", 0), ("", 0), ("j", 0)):
        leg.send_audio(OutFrame(b"abcd", item, part, 3, 12.7))
    entries, _ = give(leg)
    named = [(e.HasField("item_id"), e.item_id, e.content_index) for e in entries]
    assert named == [
        (True, "i", 0), (False, "", 1), (True, "j", 0), (True, "", 0), (False, "", 0), (True, "j", 0)
    ]  # fmt: skip
    assert {(e.epoch, e.position_ms, e.audio) for e in entries} == {(3, 12, b"abcd")}


def test_a_dropped_frame_does_not_take_the_name_of_the_item_with_it() -> None:
    leg = new()
    leg.send_audio(FRAME)
    assert leg.drop_audio() == {("i", 0): 0}
    leg.send_audio(FRAME)
    entries, _ = give(leg)
    assert [(e.item_id, e.sequence) for e in entries] == [("i", 1)]


def test_a_clear_overtakes_audio_and_its_marks_but_no_event() -> None:
    turns = Turns()
    leg = new(turns)
    leg.send_audio(FRAME)
    leg.send(MARK)
    leg.send(fx.ConversationEvent(1, 1, "t", "{}"))
    leg.send_audio(OutFrame(bytes(100), "i", 0, 1, 40.5))
    leg.send_audio(OutFrame(bytes(100), "j", 1, 1, 0))
    assert leg.drop_audio() == {("i", 0): 0, ("j", 1): 0}
    leg.send(CLEAR)
    leg.send_audio(FRAME)
    assert turns.waiting == leg.waiting
    assert kinds(give(leg)[0]) == ["event", "clear", "audio"]
    assert leg.waiting == 0


@pytest.mark.parametrize("bounds", [{"messages": 3}, {"bytes": 4 * SIZE - 1}])
def test_a_full_queue_ends_the_leg_once(bounds: dict[str, int]) -> None:
    turns = Turns()
    leg = new(turns, **bounds)
    slow: list[Any] = []
    leg.on_slow = lambda: slow.append(leg.drop_audio())
    for _ in range(10):
        leg.send_audio(FRAME)
    assert slow == [{("i", 0): 0}]
    entries, _ = give(leg)
    assert kinds(entries) == ["failed"]
    assert (entries[0].failed.code, entries[0].failed.reason) == (8, "slow-reader")
    assert turns.gone == [leg]
    assert turns.waiting == leg.waiting == 0


def test_the_stream_is_asked_to_shed_when_all_legs_hold_too_much() -> None:
    turns = Turns(most_waiting=3 * SIZE)
    one, other = new(turns), new(turns)
    for leg in (one, other, one):
        leg.send_audio(FRAME)
    assert turns.shed_calls == 0
    other.send_audio(FRAME)
    assert turns.shed_calls == 1


def test_a_turn_ends_at_its_share_or_where_there_is_no_room() -> None:
    turns = Turns()
    leg = new(turns)
    for _ in range(5):
        leg.send_audio(FRAME)
    assert [len(give(leg, share=2 * SIZE)[0]), len(give(leg, share=1)[0])] == [2, 1]
    assert give(leg, room=SIZE - 1) == ([], True)
    entries, more = give(leg, room=SIZE)
    assert (len(entries), more) == (1, True)
    assert turns.asked == [leg]
    assert give(leg)[1] is False
    leg.send_audio(FRAME)
    assert turns.asked == [leg, leg]


def test_the_end_comes_behind_everything_and_once() -> None:
    turns = Turns()
    leg = new(turns)
    leg.send_audio(FRAME)
    leg.send(ENDED)
    leg.finish(None)
    leg.finish(REPLACED)
    leg.send(MARK)
    leg.send_audio(FRAME)
    entries, _ = give(leg)
    assert kinds(entries) == ["audio", "ended"]
    assert turns.gone == [leg]
    assert give(leg) == ([], False)
    leg.drop_audio()
    assert turns.gone == turns.asked == [leg]


def test_a_refusal_is_told_with_all_that_converse_tells() -> None:
    leg = new()
    leg.finish(LegRefusal(Status.UNAUTHENTICATED, "ticket-unknown", "no such ticket", "start.ticket"))
    (entry,), _ = give(leg)
    assert entry.failed == pb.LegFailed(
        code=16, reason="ticket-unknown", field="start.ticket", message="no such ticket"
    )


def test_a_cut_leg_says_nothing_more() -> None:
    turns = Turns()
    leg = new(turns)
    leg.send_audio(FRAME)
    leg.cut()
    leg.send(ENDED)
    leg.finish(None)
    assert give(leg) == ([], False)
    assert turns.gone == []
    assert turns.waiting == 0


def test_credit_lets_frames_go_while_some_is_left() -> None:
    leg = new()
    for _ in range(4):
        leg.send_audio(FRAME)
    leg.send(MARK)
    assert leg.give_credit(pb.Credit(audio_bytes=101)) is None
    assert kinds(give(leg)[0]) == ["audio", "audio"]
    assert leg.credit == -99
    assert leg.give_credit(pb.Credit(audio_bytes=99)) is None
    assert give(leg) == ([], False)
    assert leg.give_credit(pb.Credit(audio_bytes=1)) is None
    assert kinds(give(leg)[0]) == ["audio"]
    assert leg.give_credit(pb.Credit(audio_bytes=1000)) is None
    assert kinds(give(leg)[0]) == ["audio", "mark"]


def test_without_credit_only_the_bounds_count_and_a_credit_of_nothing_holds_all() -> None:
    leg = new()
    leg.send_audio(FRAME)
    assert len(give(leg)[0]) == 1
    assert leg.give_credit(pb.Credit()) is None
    leg.send_audio(FRAME)
    assert give(leg) == ([], False)


def test_a_burst_is_handed_over_as_far_as_credit_goes() -> None:
    leg = new(audio_bytes=1000)
    rooms: list[int] = []
    leg.on_room = lambda: rooms.append(leg.audio_room())
    assert leg.audio_room() == 1000
    leg.give_credit(pb.Credit(audio_bytes=200))
    assert leg.audio_room() == 200
    leg.send_audio(FRAME)
    leg.send_audio(FRAME)
    assert leg.audio_room() <= 0
    give(leg)
    assert rooms == []
    leg.give_credit(pb.Credit(audio_bytes=50))
    assert rooms == [50]


def test_room_is_told_once_to_who_was_told_of_none() -> None:
    leg = new(audio_bytes=2 * SIZE)
    rooms: list[int] = []
    leg.on_room = lambda: rooms.append(leg.audio_room())
    leg.send_audio(FRAME)
    give(leg)
    assert rooms == []
    leg.send_audio(FRAME)
    leg.send_audio(FRAME)
    assert leg.audio_room() == 0
    give(leg)
    give(leg)
    assert rooms == [2 * SIZE]


@pytest.mark.parametrize(("left", "more"), [(None, -1), (5, -1), (many_pb.MAX_CREDIT, 1), (None, 1 << 31)])
def test_credit_out_of_range(left: int | None, more: int) -> None:
    refusal = many_pb.read_credit(pb.Credit(audio_bytes=more), left)
    assert isinstance(refusal, LegRefusal)
    assert (refusal.reason, refusal.field) == ("credit-out-of-range", "credit.audio_bytes")
    assert str(more) in refusal.message


def test_what_waits_for_credit_at_the_end_has_its_time_and_no_more() -> None:
    async def scene() -> None:
        turns = Turns()
        leg = new(turns, flush=5.0)
        leg.give_credit(pb.Credit(audio_bytes=1))
        for _ in range(3):
            leg.send_audio(FRAME)
        leg.send(ENDED)
        leg.finish(None)
        assert kinds(give(leg)[0]) == ["audio"]
        await asyncio.sleep(4.9)
        leg.give_credit(pb.Credit(audio_bytes=100))
        assert kinds(give(leg)[0]) == ["audio"]
        await asyncio.sleep(0.2)
        assert kinds(give(leg)[0]) == ["ended"]
        assert turns.gone == [leg]

    virtual_time.run(scene())


def test_small_frames_leave_room_for_messages() -> None:
    leg = new(messages=8)
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
    give(leg)
    assert rooms == [LegBounds().audio_bytes]
