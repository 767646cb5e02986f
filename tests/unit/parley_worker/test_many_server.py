"""A stream of many sessions, in virtual time: handles, refusals, ticks, turns, credit, its end."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from many_stream import FRAME, Side, Talk, serving, starting
from parley.media.v1 import media_pb2 as pb
from parley_worker.core import effects as fx
from parley_worker.core.events import LegRefusal, Status
from parley_worker.core.media_path import OutFrame
from parley_worker.core.model import EndReason
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_server import ManyBounds
from parley_worker.transport.many_turns import WriterBounds

SOUND = {"audio": b"x" * 160}


def dropped(metrics: Metrics) -> float:
    labels = {"direction": "in", "cause": "unattached"}
    return metrics.registry.get_sample_value("parley_worker_frames_dropped_total", labels) or 0.0


async def attached(side: Side, handle: int, uid: str = "") -> Talk:
    talk = side.talk(uid or f"uid-{handle}")
    side.start(handle, uid or f"uid-{handle}")
    await side.until(handle, "started")
    return talk


def test_sessions_share_a_stream_and_each_hears_its_own() -> None:
    async def scene() -> None:
        async with serving() as (side, _, metrics):
            one, two = await attached(side, 1), await attached(side, 2)
            side.request(
                pb.CallerEntry(handle=1, sequence=1, media_time_ms=20, **SOUND),
                pb.CallerEntry(handle=2, sequence=5, **SOUND),
                pb.CallerEntry(handle=1, message=pb.ConverseRequest(dtmf=pb.Dtmf(digit="1"))),
                pb.CallerEntry(
                    handle=1, message=pb.ConverseRequest(audio=pb.AudioFrame(payload=b"ab", sequence=2))
                ),
            )
            one.speak()
            two.speak(2)
            await side.until(1, "started", "audio")
            await side.until(2, "started", "audio", "audio")
            assert one.audio == [(SOUND["audio"], 1, 20), (b"ab", 2, 0)]
            assert two.audio == [(SOUND["audio"], 5, 0)]
            assert len(one.said) == 1
            assert dropped(metrics) == 0

    virtual_time.run(scene())


def test_one_refusal_is_one_handle_s_and_the_handle_is_free_again() -> None:
    async def scene() -> None:
        async with serving() as (side, task, metrics):
            good = await attached(side, 1)
            side.start(2, "nobody")
            side.request(pb.CallerEntry(handle=2, sequence=1, **SOUND))
            await side.until(2, "failed session-unknown")
            assert side.entries(2)[0].failed.code == 16
            assert side.entries(2)[0].failed.field == "start.session_uid"
            assert dropped(metrics) == 1
            side.talk("uid-2")
            side.start(2, "uid-2")
            await side.until(2, "failed session-unknown", "started")
            good.speak()
            await side.until(1, "started", "audio")
            assert not task.done()
            assert (
                metrics.registry.get_sample_value(
                    "parley_worker_leg_errors_total", {"code": "UNAUTHENTICATED"}
                )
                == 1
            )

    virtual_time.run(scene())


@pytest.mark.parametrize(
    ("what", "reason", "code", "cause"),
    [
        ({"message": starting("uid-1")}, "start-repeated", 3, "protocol-error"),
        ({"audio": b""}, "frame-empty", 3, "protocol-error"),
        ({"audio": b"break"}, "internal", 13, "protocol-error"),
        ({"detach": pb.Detach()}, "half-closed", 1, "half-closed"),
        ({"credit": pb.Credit(audio_bytes=-5)}, "credit-out-of-range", 3, "protocol-error"),
    ],
    ids=["a second start", "no bytes", "an error of ours", "detach", "credit below zero"],
)
def test_what_ends_one_leg_and_no_other(what: dict[str, object], reason: str, code: int, cause: str) -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            bad, good = await attached(side, 1), await attached(side, 2)
            side.request(
                pb.CallerEntry(handle=1, **what),  # type: ignore[arg-type]
                pb.CallerEntry(handle=1, sequence=1, **SOUND),
                pb.CallerEntry(handle=2, sequence=1, **SOUND),
            )
            await side.until(1, "started", f"failed {reason}")
            assert side.entries(1)[-1].failed.code == code
            assert (bad.lost, bad.audio) == ([cause], [])
            assert (good.lost, len(good.audio)) == ([], 1)
            assert not task.done()

    virtual_time.run(scene())


def test_an_entry_of_an_unknown_kind_is_answered_and_ends_nothing() -> None:
    async def scene() -> None:
        async with serving() as (side, _, _):
            talk = await attached(side, 1)
            side.say(1)
            side.say(1, message=pb.ConverseRequest())
            side.say(1, sequence=1, **SOUND)
            while not talk.audio:  # noqa: ASYNC110 - the session tells nobody
                await asyncio.sleep(0.01)
            assert [type(said).__name__ for said in talk.said] == ["ClientEventInvalid"] * 2
            assert side.kinds(1) == ["started"]

    virtual_time.run(scene())


def test_strangers_are_told_once_and_what_was_on_its_way_is_counted() -> None:
    async def scene() -> None:
        async with serving() as (side, _, metrics):
            for _ in range(3):
                side.say(9, sequence=1, **SOUND)
            side.say(10, message=pb.ConverseRequest(hangup=pb.Hangup()))
            side.say(10, message=pb.ConverseRequest(hangup=pb.Hangup()))
            await side.until(9, "failed start-missing")
            await side.until(10, "failed start-missing")
            side.say(9, sequence=1, **SOUND)
            await attached(side, 1)
            assert side.kinds(9) == ["failed start-missing"]
            assert dropped(metrics) == 3

    virtual_time.run(scene())


def test_until_a_provider_is_there_audio_is_dropped_and_nobody_waits() -> None:
    async def scene() -> None:
        async with serving() as (side, _, metrics):
            slow = side.talk("slow", ready=False)
            side.start(1, "slow")
            side.say(1, credit=pb.Credit(audio_bytes=160))
            side.say(1, sequence=1, **SOUND)
            other = await attached(side, 2)
            side.say(2, sequence=1, **SOUND)
            await asyncio.sleep(1)
            assert (len(other.audio), slow.audio, dropped(metrics)) == (1, [], 1)
            slow.ready.set()
            await side.until(1, "started")
            side.say(1, sequence=2, **SOUND)
            slow.speak(2)
            await side.until(1, "started", "audio")
            await asyncio.sleep(1)
            assert side.kinds(1) == ["started", "audio"]
            assert [number for _, number, _ in slow.audio] == [2]

    virtual_time.run(scene())


def test_an_attach_that_waits_ends_by_time_by_detach_or_by_a_message_too_early() -> None:
    async def scene() -> None:
        async with serving() as (side, _, _):
            slow = side.talk("slow", ready=False)
            for handle in (1, 2, 3):
                side.start(handle, "slow")
            side.say(2, detach=pb.Detach())
            side.say(3, message=pb.ConverseRequest(dtmf=pb.Dtmf(digit="1")))
            await side.until(2, "failed half-closed")
            await side.until(3, "failed not-started")
            assert side.kinds(1) == []
            await side.until(1, "failed session-not-ready")
            assert 15 <= asyncio.get_running_loop().time() < 15.1
            slow.ready.set()
            await asyncio.sleep(1)
            assert (slow.leg, slow.lost) == (None, [])

    virtual_time.run(scene())


def test_attaches_that_wait_are_bounded_and_those_that_need_not_wait_go_on() -> None:
    async def scene() -> None:
        async with serving(ManyBounds(starts=2)) as (side, _, _):
            side.talk("slow", ready=False)
            for handle in (1, 2, 3):
                side.start(handle, "slow")
            await side.until(3, "failed too-many-starts")
            await attached(side, 4)
            side.say(1, detach=pb.Detach())
            await side.until(1, "failed half-closed")
            side.start(5, "slow")
            await asyncio.sleep(1)
            assert side.kinds(5) == side.kinds(2) == []

    virtual_time.run(scene())


def test_handles_are_bounded_and_used_ones_are_remembered_so_long() -> None:
    async def scene() -> None:
        async with serving(ManyBounds(handles=2)) as (side, _, _):
            one = await attached(side, 1)
            await attached(side, 2)
            side.start(3, "uid-1")
            await side.until(3, "failed too-many-handles")
            one.end()
            await side.until(1, "started", "ended")
            for handle in (4, 5):
                side.start(handle, "nobody")
                await side.until(handle, "failed session-unknown")
            side.say(1, sequence=1, **SOUND)
            await side.until(1, "started", "ended", "failed start-missing")

    virtual_time.run(scene())


def test_a_gateway_that_leaves_last_words_unread_loses_the_stream() -> None:
    async def scene() -> None:
        async with serving(ManyBounds(handles=2)) as (side, task, _):
            held = await attached(side, 1)
            side.reads.clear()
            for handle in range(2, 10):
                side.start(handle, "nobody")
                await asyncio.sleep(0.01)
            refusal = await task
            assert refusal is not None
            assert (refusal.status, refusal.reason) == (Status.RESOURCE_EXHAUSTED, "too-many-handles")
            assert held.lost == ["slow-reader"]

    virtual_time.run(scene())


def test_too_many_entries_end_the_stream_and_hold_its_sessions() -> None:
    async def scene() -> None:
        async with serving(ManyBounds(entries=3)) as (side, task, _):
            talk = await attached(side, 1)
            side.request(*[pb.CallerEntry(handle=1, sequence=n + 1, **SOUND) for n in range(3)])
            side.request(*[pb.CallerEntry(handle=1, sequence=n + 4, **SOUND) for n in range(4)])
            refusal = await task
            assert refusal is not None
            assert (refusal.reason, refusal.field) == ("too-many-entries", "entries")
            assert (len(talk.audio), talk.lost) == (3, ["protocol-error"])

    virtual_time.run(scene())


def test_writes_are_at_once_after_silence_and_then_one_a_tick() -> None:
    async def scene() -> None:
        async with serving() as (side, _, _):
            talks = [await attached(side, handle) for handle in range(1, 21)]
            await asyncio.sleep(1)
            side.told.clear()
            began = asyncio.get_running_loop().time()
            for talk in talks:
                talk.speak()
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            times = [round((at - began) * 1000) for at, _ in side.told]
            assert times == [0, 3, 6, 9, 12, 15, 18, 21]
            assert sum(len(response.entries) for _, response in side.told) == 20

    virtual_time.run(scene())


def test_a_burst_of_one_delays_no_other_by_more_than_a_message() -> None:
    async def scene() -> None:
        bounds = ManyBounds(writer=WriterBounds(message_bytes=4000, share_bytes=1000))
        async with serving(bounds) as (side, _, _):
            loud, quiet = await attached(side, 1), await attached(side, 2)
            await asyncio.sleep(1)
            side.told.clear()
            loud.speak(60)
            assert quiet.leg is not None
            quiet.leg.send(fx.Clear(1, fx.ClearReason.BARGE_IN))
            await asyncio.sleep(0.1)
            first = side.told[0][1].entries
            assert any(e.handle == 2 and e.message.HasField("clear") for e in first)
            assert len(side.entries(1)) == 60
            assert max(response.ByteSize() for _, response in side.told) <= 1100
            assert len({at for at, _ in side.told}) == 1

    virtual_time.run(scene())


def test_messages_stay_below_their_size_and_a_larger_entry_goes_alone() -> None:
    async def scene() -> None:
        bounds = ManyBounds(writer=WriterBounds(message_bytes=4000, share_bytes=3000))
        async with serving(bounds) as (side, _, _):
            talks = [await attached(side, handle) for handle in range(1, 11)]
            await asyncio.sleep(1)
            side.told.clear()
            for talk in talks:
                talk.speak(4)
                if talk is talks[4]:
                    assert talk.leg is not None
                    talk.leg.send(fx.ConversationEvent(1, 1, "t", "x" * 9000))
            await asyncio.sleep(0.1)
            large = [r for _, r in side.told if r.ByteSize() > 4000]
            assert [len(r.entries) for r in large] == [1]
            assert sum(len(r.entries) for _, r in side.told) == 41
            for handle in range(1, 11):
                frames = [e.sequence for e in side.entries(handle) if e.HasField("audio")]
                assert frames == [1, 2, 3, 4]

    virtual_time.run(scene())


def test_while_the_gateway_does_not_read_each_session_has_its_own_bound() -> None:
    async def scene() -> None:
        async with serving(leg=LegBounds(messages=10)) as (side, task, _):
            loud, quiet = await attached(side, 1), await attached(side, 2)
            side.reads.clear()
            quiet.speak()
            await asyncio.sleep(0.1)
            quiet.speak()
            loud.speak(11)
            await asyncio.sleep(1)
            assert (loud.lost, quiet.lost) == (["slow-reader"], [])
            assert loud.forgotten == [{("item", 0): 0}]
            side.reads.set()
            await side.until(1, "started", "failed slow-reader")
            await side.until(2, "started", "audio", "audio")
            assert not task.done()

    virtual_time.run(scene())


def test_past_the_bound_of_the_stream_the_session_with_the_most_waiting_goes() -> None:
    async def scene() -> None:
        async with serving(ManyBounds(writer=WriterBounds(waiting_bytes=2500))) as (side, _, _):
            small, large = await attached(side, 1), await attached(side, 2)
            side.reads.clear()
            small.speak()
            await asyncio.sleep(0.1)
            small.speak(4)
            large.speak(8)
            assert large.lost == []
            small.speak(1)
            assert (small.lost, large.lost) == ([], ["slow-reader"])

    virtual_time.run(scene())


def test_a_write_that_takes_too_long_ends_the_stream() -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            talks = [await attached(side, 1), await attached(side, 2)]
            side.reads.clear()
            talks[0].speak()
            refusal = await task
            assert 10 <= asyncio.get_running_loop().time() < 10.1
            assert refusal is not None
            assert (refusal.status, refusal.reason) == (Status.RESOURCE_EXHAUSTED, "slow-reader")
            assert [talk.lost for talk in talks] == [["slow-reader"]] * 2

    virtual_time.run(scene())


def test_credit_holds_one_session_back_and_no_other() -> None:
    async def scene() -> None:
        async with serving(leg=LegBounds(messages=10)) as (side, _, _):
            held, free = await attached(side, 1), await attached(side, 2)
            side.say(1, credit=pb.Credit(audio_bytes=320))
            await asyncio.sleep(0.1)
            held.speak(9)
            free.speak(9)
            await side.until(2, "started", *["audio"] * 9)
            await asyncio.sleep(1)
            assert side.kinds(1) == ["started", "audio", "audio"]
            side.say(1, credit=pb.Credit(audio_bytes=160))
            await side.until(1, "started", "audio", "audio", "audio")
            held.speak(5)
            await side.until(1, "started", "audio", "audio", "audio", "failed slow-reader")
            assert (held.lost, free.lost) == (["slow-reader"], [])

    virtual_time.run(scene())


def test_half_close_detaches_every_session_and_ends_the_stream_in_good_order() -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            talks = [await attached(side, handle) for handle in (1, 2)]
            side.talk("slow", ready=False)
            side.start(3, "slow")
            talks[0].speak()
            side.half_close()
            assert await task is None
            assert side.kinds(2) == ["started", "failed half-closed"]
            assert side.kinds(3) == ["failed half-closed"]
            assert [talk.lost for talk in talks] == [["half-closed"]] * 2
            assert asyncio.get_running_loop().time() < 0.1

    virtual_time.run(scene())


def test_half_close_of_a_gateway_that_reads_nothing_waits_so_long_and_no_longer() -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            talk = await attached(side, 1)
            side.reads.clear()
            side.half_close()
            await task
            assert talk.lost == ["half-closed"]
            assert 5 <= asyncio.get_running_loop().time() < 5.1

    virtual_time.run(scene())


def test_a_cut_stream_holds_every_session_with_what_was_not_sent() -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            one, two = await attached(side, 1), await attached(side, 2)
            side.reads.clear()
            two.speak()
            await asyncio.sleep(0.1)
            one.speak(1, OutFrame(bytes(160), "item", 0, 1, 40))
            side.cut()
            assert await task is None
            assert (one.lost, two.lost) == (["cancelled"], ["cancelled"])
            assert one.forgotten == [{("item", 0): 40}]

    virtual_time.run(scene())


def test_a_session_that_ends_says_so_last_and_frees_its_handle() -> None:
    async def scene() -> None:
        async with serving() as (side, _, _):
            talk = await attached(side, 1)
            talk.speak(2)
            side.say(1, message=pb.ConverseRequest(hangup=pb.Hangup()))
            await side.until(1, "started", "audio", "audio", "ended")
            assert side.entries(1)[-1].message.ended.reason == EndReason.CALLER_HANGUP
            assert talk.lost == []
            side.start(1, "uid-1")
            await side.until(1, "started", "audio", "audio", "ended", "started")
            talk.speak()
            await side.until(1, "started", "audio", "audio", "ended", "started", "audio")
            assert (side.entries(1)[-1].sequence, side.entries(1)[-1].item_id) == (1, FRAME.item_id)

    virtual_time.run(scene())


def test_a_leg_that_was_replaced_is_told_and_the_session_goes_on() -> None:
    async def scene() -> None:
        async with serving() as (side, _, _):
            talk = await attached(side, 1)
            old = talk.leg
            assert old is not None
            old.finish(LegRefusal(Status.ABORTED, "replaced", "a newer attach came"))
            await side.until(1, "started", "failed replaced")
            assert talk.lost == []

    virtual_time.run(scene())


def test_a_stream_without_sessions_ends_after_a_while() -> None:
    async def scene() -> None:
        async with serving() as (side, task, _):
            await asyncio.sleep(59)
            talk = await attached(side, 1)
            await asyncio.sleep(600)
            talk.end()
            refusal = await task
            assert 719 <= asyncio.get_running_loop().time() < 719.1
            assert refusal is not None
            assert (refusal.status, refusal.reason) == (Status.DEADLINE_EXCEEDED, "stream-idle")

    virtual_time.run(scene())


WORDS = st.sampled_from(
    [
        {"message": starting("uid")},
        {"message": starting("nobody")},
        {"message": starting("slow")},
        {"message": pb.ConverseRequest()},
        {"message": pb.ConverseRequest(hangup=pb.Hangup())},
        {"message": pb.ConverseRequest(audio=pb.AudioFrame(payload=b"ab", sequence=1))},
        {"audio": b"", "sequence": 1},
        {"audio": b"abcd", "sequence": -1},
        {"audio": b"break"},
        {"detach": pb.Detach()},
        {"credit": pb.Credit(audio_bytes=500)},
        {"credit": pb.Credit(audio_bytes=-1)},
        {"pause": 1},
        {"speak": 1},
        {},
    ]
)
LIVES = re.compile(r"^((started (audio )*(ended|failed [a-z-]+) )|(failed [a-z-]+ ))*(started (audio )*)?$")


@given(st.lists(st.tuples(st.integers(0, 3), WORDS), max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_each_handle_has_one_life_after_another(
    said: list[tuple[int, dict[str, Any]]],
) -> None:
    async def scene() -> None:
        leg = LegBounds(messages=6)
        async with serving(ManyBounds(starts=1, handles=3), leg) as (side, task, _):
            talk = side.talk("uid")
            side.talk("slow", ready=False)
            for handle, words in said:
                if "pause" in words:
                    await asyncio.sleep(1)
                elif "speak" in words:
                    if talk.leg is not None:
                        talk.speak(handle)
                else:
                    side.say(handle, **words)
            await asyncio.sleep(30)
            assert not task.done()
            for handle in range(4):
                assert LIVES.match("".join(kind + " " for kind in side.kinds(handle))), side.kinds(handle)
            side.half_close()
            assert await task is None

    virtual_time.run(scene())
