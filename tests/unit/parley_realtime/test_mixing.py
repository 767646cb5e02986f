"""Sums of sources: levels, ducking, bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from parley_realtime import MediaChunk
from parley_realtime.audio import Encoding, SampleFormat, decode, encode
from parley_realtime.units.mixing import FEED_MS, PREBUFFER_MS, Feed, MixBus

PCM8 = SampleFormat(Encoding.PCM16, 8000)
ULAW = SampleFormat(Encoding.G711_ULAW, 8000)


class Source:
    def id(self) -> str:
        return "source"


def give(feed: Feed, value: int, ms: int = 20) -> None:
    samples = np.full(feed.media_format.rate * ms // 1000, value, np.int16)
    feed.media(Source(), MediaChunk(encode(samples, feed.media_format.encoding), "", "", 0))


def heard(payload: bytes | None, audio: SampleFormat = PCM8) -> list[int]:
    assert payload is not None
    return [int(value) for value in decode(payload, audio.encoding)]


def test_sources_are_summed_and_never_wrap_around() -> None:
    bus = MixBus(PCM8)
    one, two = bus.add("one"), bus.add("two")
    for value in (1000, 30_000):
        give(one, value, 100)
        give(two, value, 100)
    assert heard(bus.background(100)) == [2000] * 800
    assert heard(bus.background(100)) == [32767] * 800
    assert bus.background(20) is None


def test_a_feed_is_heard_when_it_has_gathered_enough_and_gathers_anew_when_it_ran_dry() -> None:
    bus = MixBus(PCM8)
    feed = bus.add("one")
    give(feed, 5, PREBUFFER_MS - 1)
    assert not bus.sounding
    assert bus.background(20) is None
    give(feed, 5, 1)
    assert bus.sounding
    for _ in range(PREBUFFER_MS // 20):
        assert heard(bus.background(20)) == [5] * 160
    give(feed, 6, 19)
    assert bus.background(20) is None
    give(feed, 6, 20)
    assert bus.background(20) is None
    give(feed, 6, PREBUFFER_MS - 39)
    assert heard(bus.background(20)) == [6] * 160


def test_lumps_of_a_converter_leave_no_gap() -> None:
    """24 to 8 kHz: two frames give nothing, the third what all three held."""
    bus = MixBus(PCM8)
    feed, out = bus.add("one"), []
    for n in range(60):
        if n % 3 == 2:
            give(feed, 5, 60)
        out += heard(bus.background(20)) if bus.sounding else [0] * 160
    first = out.index(5)
    assert set(out[first:]) == {5}


def test_the_last_bit_is_heard_without_more_to_come() -> None:
    bus = MixBus(PCM8)
    feed = bus.add("one")
    give(feed, 5, 10)
    feed.media_done(Source(), response_id="", item_id="", content_index=0)
    assert heard(bus.background(20)) == [5] * 80 + [0] * 80


def test_others_are_lowered_under_the_main_stream_without_a_click() -> None:
    bus = MixBus(PCM8)
    give(bus.add("music"), 8000, 300)
    frame = np.full(160, 100, "<i2").tobytes()
    assert heard(bus.background(20)) == [8000] * 160
    falling = heard(bus.over(frame))
    assert (falling[0], falling[-1]) == (8100, 2100)
    assert all(0 <= a - b < 50 for a, b in itertools.pairwise(falling))
    assert heard(bus.over(frame)) == [2100] * 160
    rising = heard(bus.background(20))
    assert (rising[0], rising[-1]) == (2000, 8000)


def test_without_ducking_the_sum_is_plain() -> None:
    bus = MixBus(PCM8, duck=False)
    give(bus.add("music"), 8000, 100)
    assert heard(bus.over(np.full(160, 100, "<i2").tobytes())) == [8100] * 160


def test_a_frame_alone_passes_untouched() -> None:
    bus = MixBus(ULAW)
    bus.add("silent")
    payload = bytes(range(160))
    assert bus.over(payload) is payload
    assert bus.over(b"") == b""


def test_in_g711_the_sum_is_near_the_truth() -> None:
    bus = MixBus(ULAW, duck=False)
    give(bus.add("music"), 4000, 100)
    mixed = heard(bus.over(encode(np.full(160, 2000, np.int16), Encoding.G711_ULAW)), ULAW)
    assert all(abs(value - 6000) < 300 for value in mixed)


def test_what_nobody_takes_is_bounded_and_the_newest_is_kept() -> None:
    bus = MixBus(PCM8)
    feed = bus.add("one")
    for value in range(50):
        give(feed, value)
    assert feed.dropped_ms == 1000 - FEED_MS
    assert heard(bus.background(20)) == [35] * 160


def test_removed_is_not_heard_and_cleared_is_forgotten() -> None:
    bus = MixBus(PCM8)
    one, two = bus.add("one"), bus.add("two")
    give(one, 5, 100)
    give(two, 7, 100)
    assert bus.remove("one") is one
    assert bus.remove("one") is None
    assert heard(bus.background(20)) == [7] * 160
    two.media_cleared(Source())
    assert bus.background(20) is None
    assert len(bus) == 1


@pytest.mark.parametrize("count", [0, 1, 79, 480, 100_000])
def test_any_length_can_be_asked_for(count: int) -> None:
    bus = MixBus(PCM8)
    give(bus.add("one"), 5, 100)
    payload = bus.over(bytes(2 * count))
    assert len(payload) == 2 * count
