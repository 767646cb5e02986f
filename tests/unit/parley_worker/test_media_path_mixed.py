"""Other sound under and between the agent's audio: in real time, what is known as heard untouched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from parley_realtime import MediaChunk
from parley_realtime.units.mixing import Feed, MixBus
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import Out, OutFrame, OutMark, OutputPath, PlayoutMode
from parley_worker.core.playout import AudioCounters, PlayoutLedger

PCM24 = PROVIDER_FORMATS["pcm16"]
ROOM = 1 << 20
AGENT, MUSIC = 5000, 800
UNDER = MUSIC // 4


class Source:
    def id(self) -> str:
        return "player"


def frame(value: int, ms: int = 20) -> bytes:
    return np.full(24 * ms, value, "<i2").tobytes()


class Line:
    """An output path with music on a beat of 20 ms, in virtual time."""

    def __init__(self, mode: PlayoutMode = PlayoutMode.REALTIME, music: bool = True) -> None:
        self.ledger, self.counters = PlayoutLedger(), AudioCounters()
        self.path = OutputPath(PCM24, self.ledger, self.counters, 1 << 20)
        self.path.attach(PCM24, mode)
        self.bus = MixBus(PCM24)
        self.feed: Feed = self.bus.add("music")
        if music:
            self.path.mix_with(self.bus)
        self.now, self._next_music = 10.0, 10.0
        self.music_until = float("inf")

    def run(self, until: float) -> list[tuple[float, Out]]:
        out: list[tuple[float, Out]] = []
        while self.now < until - 1e-9:
            if self._next_music <= self.now + 1e-9 < self.music_until:
                self.feed.media(Source(), MediaChunk(frame(MUSIC), "", "", 0))
                self._next_music += 0.02
            due = self.path.next_due(self.now)
            if due is not None and due <= self.now:
                out += [(self.now, item) for item in self.path.take(self.now, ROOM)]
            self.now = round(self.now + 0.001, 6)
        return out


def frames(out: list[tuple[float, Out]]) -> list[tuple[float, OutFrame]]:
    return [(at, item) for at, item in out if isinstance(item, OutFrame)]


def levels(out: list[tuple[float, Out]]) -> list[int]:
    """The level at the end of each frame."""
    return [int(np.frombuffer(item.payload, "<i2")[-1]) for _, item in frames(out)]


def test_music_alone_leaves_at_real_time_with_names_of_nobody() -> None:
    line = Line()
    out = frames(line.run(11.0))
    assert 43 <= len(out) <= 46
    for n, (at, item) in enumerate(out):
        assert at == pytest.approx(out[0][0] + n * 0.02, abs=0.0015)
        assert (item.item_id, item.response_id, item.position_ms, item.epoch) == ("", "", 0, 1)
    assert set(levels([*out])) == {MUSIC}
    assert line.counters.output_ms == 0
    assert not line.ledger.unheard(line.now)


def test_the_agent_speaks_over_it_and_every_millisecond_of_it_is_known() -> None:
    with_music, without = Line(), Line(music=False)
    for line in (with_music, without):
        line.run(10.5)
        line.path.push(frame(AGENT, 400), "resp_1", "item_1", 0, line.now)
        line.path.end_part("resp_1", "item_1", 0)
    mixed, plain = with_music.run(11.2), without.run(11.2)
    spoken = [(at, item) for at, item in frames(mixed) if item.item_id == "item_1"]
    assert [item.position_ms for _, item in spoken] == [item.position_ms for _, item in frames(plain)]
    assert set(levels([*spoken])) == {AGENT + UNDER}
    marks = [item for _, item in mixed if isinstance(item, OutMark)]
    assert marks == [item for _, item in plain if isinstance(item, OutMark)] == [OutMark("item_1", 0, 1, 400)]
    assert with_music.counters.output_ms == without.counters.output_ms == 400
    starts = [at for at, _ in frames(mixed)]
    assert all(b - a == pytest.approx(0.02, abs=0.003) for a, b in itertools.pairwise(starts))
    assert levels(mixed)[-1] == MUSIC


@pytest.mark.parametrize("after", [0.1, 0.25, 0.333])
def test_a_cut_is_as_exact_as_without_it(after: float) -> None:
    cuts = []
    for music in (True, False):
        line = Line(music=music)
        line.run(10.5)
        line.path.push(frame(AGENT, 2000), "resp_1", "item_1", 0, line.now)
        line.run(10.5 + after)
        line.path.clear(["resp_1"])
        line.ledger.stop(line.now)
        (cut,) = line.ledger.cut(1, None, line.now)
        cuts.append(cut.audio_end_ms)
    assert cuts[0] == pytest.approx(cuts[1], abs=20)
    assert cuts[1] == pytest.approx(after * 1000, abs=20)


def test_music_goes_on_through_a_clear_in_an_epoch_that_the_caller_keeps() -> None:
    line = Line()
    line.path.push(frame(AGENT, 2000), "resp_1", "item_1", 0, line.now)
    line.run(10.3)
    cleared = line.path.clear(["resp_1"])
    out = frames(line.run(10.6))
    assert len(out) >= 14
    assert {(item.item_id, item.epoch) for _, item in out} == {("", cleared + 1)}
    assert levels([*out])[-1] == MUSIC


def test_in_burst_mode_it_is_real_time_while_music_plays_and_bursts_again_after() -> None:
    line = Line(PlayoutMode.BURST)
    line.path.push(frame(AGENT, 400), "resp_1", "item_1", 0, line.now)
    line.path.end_part("resp_1", "item_1", 0)
    assert 9 <= len(frames(line.run(10.2))) <= 11
    line.path.mix_with(None)
    line.path.push(frame(AGENT, 1000), "resp_2", "item_2", 0, line.now)
    line.path.end_part("resp_2", "item_2", 0)
    burst = frames(line.run(10.202))
    assert sum(len(item.payload) for _, item in burst) > PCM24.bytes_per_ms * 1000


def test_when_the_music_ends_nothing_more_goes_out() -> None:
    line = Line()
    line.music_until = 10.5
    out = frames(line.run(12.0))
    assert sum(len(item.payload) for _, item in out) == pytest.approx(PCM24.bytes_per_ms * 500, rel=0.01)
    assert line.path.next_due(line.now) is None
