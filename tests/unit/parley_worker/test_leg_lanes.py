"""Sound does not wait for events; events wait for the sound before them, and not for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from parley_worker.core.media_path import OutFrame
from parley_worker.transport.leg_lanes import AT_MOST, Lanes, Queued


def audio(name: str) -> Queued[str]:
    return Queued(1, name, OutFrame(b"", name, 0, 1, 0.0, "r", 0.0))


def said(name: str) -> Queued[str]:
    return Queued(1, name)


def mark(name: str) -> Queued[str]:
    return Queued(1, name, mark=True)


def fill(script: str) -> Lanes[str]:
    """`a` and `m` are sound, `e` an event, `c` a clear, `x` what nothing passes; each with its number."""
    lanes: Lanes[str] = Lanes()
    for number, kind in enumerate(script):
        name = f"{kind}{number}"
        match kind:
            case "a":
                lanes.sound(audio(name))
            case "m":
                lanes.sound(mark(name))
            case "c":
                lanes.sound(said(name))
            case "e":
                lanes.event(said(name))
            case _:
                lanes.behind_all(said(name))
    return lanes


def names(lanes: Lanes[str], count: int | None = None) -> list[str]:
    return [str(lanes.take().message) for _ in range(len(lanes) if count is None else count)]


def test_a_frame_passes_the_events_that_wait() -> None:
    assert names(fill("eeeea")) == ["a4", "e0", "e1", "e2", "e3"]


def test_an_event_goes_when_no_sound_waits() -> None:
    lanes = fill("eee")
    assert names(lanes, 1) == ["e0"]
    lanes.sound(audio("late"))
    assert names(lanes) == ["late", "e1", "e2"]


def test_no_event_passes_the_sound_before_it() -> None:
    assert names(fill("aaae")) == ["a0", "a1", "a2", "e3"]
    assert names(fill("a" * 20 + "e"))[-1] == "e20"


def test_a_burst_lets_an_event_go_after_every_few_frames() -> None:
    got = names(fill("ee" + "a" * 20))
    assert (got.index("e0"), got.index("e1")) == (AT_MOST, 2 * AT_MOST + 1)


def test_marks_and_clears_keep_their_place_in_the_sound() -> None:
    assert names(fill("eamac")) == ["a1", "m2", "a3", "c4", "e0"]


def test_nothing_passes_the_last_word() -> None:
    assert names(fill("eaex")) == ["a1", "e0", "e2", "x3"]
    assert names(fill("eax" + "ae")) == ["a1", "e0", "x2", "a3", "e4"]


def test_what_is_dropped_holds_nothing_up() -> None:
    lanes = fill("aameac")
    assert [queued.message for queued in lanes.drop_audio()] == ["a0", "a1", "m2", "a4"]
    assert len(lanes) == 2
    assert names(lanes) == ["c5", "e3"]


def test_an_event_behind_what_is_kept_stays_behind_it() -> None:
    lanes = fill("ac" + "e" + "a" * (AT_MOST + 1))
    lanes.drop_audio()
    for number in range(AT_MOST + 2):
        lanes.sound(audio(f"new{number}"))
    got = names(lanes)
    assert got[0] == "c1"
    assert got.index("e2") == AT_MOST + 1


def frame(at: float, item: str = "i", part: int = 0, epoch: int = 1) -> Queued[str]:
    return Queued(3, None, OutFrame(b"%d;" % at, item, part, epoch, at, "r"))


def together(*waiting: Queued[str], most: int = 5) -> list[bytes]:
    """What each message carries."""
    lanes: Lanes[str] = Lanes()
    for queued in waiting:
        (lanes.event if queued.message == "event" else lanes.sound)(queued)
    taken: list[Queued[str]] = []
    while len(lanes):
        taken.append(lanes.take(most))
    assert sum(queued.size for queued in taken) == sum(queued.size for queued in waiting)
    return [str(q.message).encode() if q.frame is None else q.frame.payload for q in taken]


def test_frames_that_wait_and_follow_each_other_go_in_one_message() -> None:
    assert together(frame(0), frame(20), frame(40)) == [b"0;20;40;"]
    assert together(frame(7.5), frame(27.5)) == [b"7;27;"]
    many = [frame(20 * number) for number in range(12)]
    assert [carried.count(b";") for carried in together(*many)] == [5, 5, 2]
    assert [carried.count(b";") for carried in together(*many, most=1)] == [1] * 12


def test_a_message_has_frames_of_one_part_without_a_gap() -> None:
    for other in (frame(20, item="j"), frame(20, part=1), frame(20, epoch=2), frame(40), frame(0)):
        assert len(together(frame(0), other)) == 2
    assert together(frame(0), mark("mark"), frame(20)) == [b"0;", b"mark", b"20;"]
    assert together(frame(0), said("clear"), frame(20)) == [b"0;", b"clear", b"20;"]


def test_a_message_of_several_frames_begins_where_the_first_does() -> None:
    lanes: Lanes[str] = Lanes()
    for at in (60, 80):
        lanes.sound(frame(at, "j", 2, 3))
    got = lanes.take(5).frame
    assert got is not None
    assert (got.item_id, got.content_index, got.epoch, got.position_ms) == ("j", 2, 3, 60)


def test_frames_that_go_together_count_for_the_events_behind_them() -> None:
    waiting = [frame(0), frame(20), said("event"), frame(40), frame(60)]
    assert together(*waiting) == [b"0;20;40;60;", b"event"]
    assert together(*waiting, most=2) == [b"0;20;", b"40;60;", b"event"]


@given(st.lists(st.sampled_from(["a", "m", "c", "e", "x", "take", "drop"]), max_size=60))
def test_each_lane_keeps_its_order_and_nothing_is_lost(script: list[str]) -> None:
    lanes: Lanes[str] = Lanes()
    came: list[str] = []
    gone: list[str] = []
    for number, kind in enumerate(script):
        if kind == "take":
            if len(lanes):
                gone.append(str(lanes.take().message))
        elif kind == "drop":
            dropped = {str(queued.message) for queued in lanes.drop_audio()}
            assert {name[0] for name in dropped} <= {"a", "m"}
            came = [name for name in came if name not in dropped]
        else:
            name = f"{kind}{number}"
            came.append(name)
            made = audio(name) if kind == "a" else mark(name) if kind == "m" else said(name)
            put = {"e": lanes.event, "x": lanes.behind_all}.get(kind, lanes.sound)
            put(made)
    gone += names(lanes)
    assert sorted(gone) == sorted(came)
    for kinds in ("amcx", "ex"):
        assert [n for n in gone if n[0] in kinds] == [n for n in came if n[0] in kinds]
    for at, name in enumerate(gone):
        if name[0] == "e":
            # Nothing before it in time comes after it but what was made later.
            assert all(int(other[1:]) > int(name[1:]) for other in gone[at + 1 :])
