"""Pacing, silence and clearing in virtual time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parley_realtime import PCM16, PCMU, MediaChunk, SendMediaParameters, Statistics
from parley_realtime.audio import Samples, decode
from parley_realtime.client.media import MediaHub
from parley_realtime.client.pacing import Done, Pacer
from parley_realtime.formats import unit_format
from realtime_units import RecordingUnit

FRAME = PCM16.frame_bytes


def tone(rate: int, seconds: float) -> bytes:
    """A sine of 440 Hz."""
    return (np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * 440 / rate) * 12000).astype("<i2").tobytes()


def snr_db(samples: Samples, rate: int) -> float:
    """How far the sine of 440 Hz stands above everything else, both ends left out."""
    inner = samples[rate // 10 : -rate // 10].astype(float)
    angle = np.arange(len(inner)) * 2 * np.pi * 440 / rate
    basis = np.stack((np.sin(angle), np.cos(angle)))
    fitted = np.linalg.lstsq(basis.T, inner, rcond=None)[0] @ basis
    return float(10 * np.log10((fitted**2).sum() / ((inner - fitted) ** 2).sum()))


def chunk(frames: float, fill: int = 1, response_id: str = "resp_1", item_id: str = "item_1") -> MediaChunk:
    return MediaChunk(bytes([fill]) * int(FRAME * frames), response_id, item_id, 0)


def play(pacer: Pacer, until: float) -> list[tuple[float, MediaChunk | Done]]:
    """Take everything at the moment it is due."""
    got = []
    while (due := pacer.deadline()) is not None and due <= until + 1e-9:
        item = pacer.take(due)
        assert item is not None
        got.append((round(due, 6), item))
    return got


class TestPacer:
    def test_frames_of_20_ms_at_real_time(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        assert pacer.push(chunk(4), now=100.0) == 0
        assert [(t, len(c.payload)) for t, c in play(pacer, 200) if isinstance(c, MediaChunk)] == [
            (100.0, FRAME),
            (100.02, FRAME),
            (100.04, FRAME),
            (100.06, FRAME),
        ]

    def test_nothing_before_it_is_due(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        pacer.push(chunk(2), now=5.0)
        assert pacer.take(5.0) is not None
        assert pacer.take(5.019) is None
        assert pacer.take(5.02) is not None

    def test_lateness_does_not_add_up(self) -> None:
        pacer = Pacer(PCM16.samples, 60_000)
        pacer.push(chunk(1000), now=0.0)
        taken = 0
        for tick in range(1, 400):
            now = tick * 0.0337
            while pacer.take(now) is not None:
                taken += 1
            assert taken == int(round(now / 0.02, 9)) + 1

    def test_after_a_pause_it_starts_anew_and_does_not_catch_up(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        pacer.push(chunk(1), now=0.0)
        play(pacer, 1)
        pacer.push(chunk(2), now=9.0)
        assert [t for t, _ in play(pacer, 20)] == [9.0, 9.02]

    def test_audio_just_in_time_keeps_the_beat(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        pacer.push(chunk(1), now=0.0)
        play(pacer, 0)
        pacer.push(chunk(1), now=0.01)
        assert [t for t, _ in play(pacer, 1)] == [0.02]

    def test_a_tail_waits_for_more_and_goes_with_the_end(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        pacer.push(chunk(1.5), now=0.0)
        assert len(play(pacer, 10)) == 1
        assert pacer.deadline() is None
        pacer.done(Done("resp_1", "item_1", 0))
        (_, tail), (when, done) = play(pacer, 10)
        assert isinstance(tail, MediaChunk)
        assert len(tail.payload) == FRAME // 2
        assert done == Done("resp_1", "item_1", 0)
        assert when == pytest.approx(0.03)

    def test_chunks_are_joined_and_parts_are_not_mixed(self) -> None:
        pacer = Pacer(PCM16.samples, 10_000)
        pacer.push(chunk(0.5), 0.0)
        pacer.push(chunk(0.75), 0.0)
        pacer.push(chunk(1, fill=2, item_id="item_2"), 0.0)
        got = [c for _, c in play(pacer, 10) if isinstance(c, MediaChunk)]
        assert [(c.item_id, len(c.payload), set(c.payload)) for c in got] == [
            ("item_1", FRAME, {1}),
            ("item_1", FRAME // 4, {1}),
            ("item_2", FRAME, {2}),
        ]

    def test_full_drops_the_newest_in_whole_samples(self) -> None:
        pacer = Pacer(PCM16.samples, 100)
        assert pacer.push(chunk(4), 0.0) == 0
        assert pacer.push(MediaChunk(b"\x02" * (FRAME + 2), "resp_1", "item_1", 0), 0.0) == 2
        assert pacer.push(chunk(1), 0.0) == FRAME
        assert pacer.size == PCM16.bytes_per_second // 10

    def test_clear(self) -> None:
        pacer = Pacer(PCM16.samples, 1000)
        pacer.push(chunk(5), 0.0)
        pacer.done(Done("resp_1", "item_1", 0))
        pacer.clear()
        assert pacer.deadline() is None
        assert pacer.size == 0


class Source:
    def id(self) -> str:
        return "client_1"


class Hub:
    """A MediaHub with its reports recorded."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.failures: list[Exception] = []
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.hub = MediaHub(
            Source(),
            PCM16,
            120_000,
            self.statistics,
            lambda data: self.reports.append(("started", data)),
            lambda data: self.reports.append(("ended", data)),
            self.failures.append,
        )

    def run_until(self, end: float) -> None:
        while (due := self.hub.deadline()) is not None and due <= end:
            self.hub.on_deadline(due)


class TestHub:
    def test_own_clock_gets_chunks_at_once_and_as_they_are(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        h.hub.attach(unit, SendMediaParameters(tag="caller", custom_parameters={"a": "b"}), 0.0)
        h.hub.audio(chunk(7.5), 0.0)
        h.hub.audio_done(Done("resp_1", "item_1", 0), 0.2)
        assert unit.calls == [
            ("started", ("client_1", "caller", "pcm16", {"a": "b"})),
            ("media", chunk(7.5)),
            ("done", ("resp_1", "item_1", 0)),
        ]

    def test_several_units_each_in_its_own_way(self) -> None:
        h, fast, slow = Hub(), RecordingUnit(own_clock=True), RecordingUnit()
        h.hub.attach(fast, None, 0.0)
        h.hub.attach(slow, None, 0.0)
        h.hub.audio(chunk(5), 0.0)
        assert len(fast.chunks) == 1
        h.run_until(0.05)
        assert len(slow.chunks) == 3
        h.run_until(0.2)
        assert slow.audio == fast.audio

    def test_a_unit_hears_from_when_it_is_attached_until_it_is_detached(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        h.hub.audio(chunk(1), 0.0)
        h.hub.attach(unit, None, 0.0)
        h.hub.audio(chunk(1, fill=2), 0.0)
        h.hub.detach(unit, 0.0)
        h.hub.audio(chunk(1, fill=3), 0.0)
        h.hub.detach(unit, 0.0)
        assert set(unit.audio) == {2}

    def test_attached_again_is_attached_once(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        h.hub.attach(unit, None, 0.0)
        h.hub.attach(unit, SendMediaParameters(tag="t"), 0.0)
        h.hub.audio(chunk(1), 0.0)
        assert unit.names() == ["started", "started", "media"]

    def test_started_and_ended_after_a_second_of_silence(self) -> None:
        h = Hub()
        h.hub.attach(RecordingUnit(), SendMediaParameters(tag="caller"), 0.0)
        h.hub.audio(chunk(50), 10.0)
        h.run_until(11.999)
        assert h.reports == [("started", {"tag": "caller", "encoding": "pcm16", "custom_parameters": {}})]
        h.run_until(12.0)
        assert h.reports[1:] == [("ended", {"tag": "caller", "media_info": {"duration": 1000}})]

    def test_audio_within_the_second_goes_on(self) -> None:
        h = Hub()
        h.hub.audio(chunk(50), 10.0)
        h.run_until(11.9)
        h.hub.audio(chunk(50), 11.9)
        h.run_until(20)
        assert [name for name, _ in h.reports] == ["started", "ended"]
        assert h.reports[1][1]["media_info"] == {"duration": 2000}

    def test_clear_forgets_what_is_queued_and_what_comes_late(self) -> None:
        h, paced, direct = Hub(), RecordingUnit(), RecordingUnit(own_clock=True)
        h.hub.attach(paced, None, 0.0)
        h.hub.attach(direct, None, 0.0)
        h.hub.response_created("resp_1")
        h.hub.audio(chunk(100), 0.0)
        h.run_until(0.1)
        heard = len(paced.chunks)
        h.hub.clear(None, 0.1)
        h.hub.audio(chunk(100), 0.11)
        h.hub.audio_done(Done("resp_1", "item_1", 0), 0.2)
        h.hub.response_done("resp_1")
        h.run_until(0.5)
        assert len(paced.chunks) == heard
        assert len(direct.chunks) == 1
        assert paced.names()[-1] == direct.names()[-1] == "cleared"
        assert h.statistics.late_chunks_dropped == 1
        h.hub.response_created("resp_2")
        h.hub.audio(chunk(1, response_id="resp_2"), 1.0)
        h.run_until(1.05)
        assert paced.chunks[-1].response_id == "resp_2"

    def test_cleared_before_the_first_chunk(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        h.hub.attach(unit, None, 0.0)
        h.hub.response_created("resp_1")
        h.hub.clear(None, 0.0)
        h.hub.audio(chunk(1), 0.0)
        assert unit.names() == ["started", "cleared"]
        assert h.reports == []

    def test_clear_ends_the_sound_now(self) -> None:
        h = Hub()
        h.hub.audio(chunk(500), 0.0)
        h.hub.clear(None, 2.0)
        h.run_until(3.0)
        assert h.reports[-1] == ("ended", {"tag": None, "media_info": {"duration": 2000}})

    def test_clear_by_tag_leaves_the_others(self) -> None:
        h, a, b = Hub(), RecordingUnit(own_clock=True), RecordingUnit(own_clock=True)
        h.hub.attach(a, SendMediaParameters(tag="a"), 0.0)
        h.hub.attach(b, SendMediaParameters(tag="b"), 0.0)
        h.hub.audio(chunk(1), 0.0)
        h.hub.clear("a", 0.0)
        h.hub.audio(chunk(1), 0.0)
        assert (len(a.chunks), len(b.chunks)) == (1, 2)

    def test_a_unit_that_raises_is_detached_and_the_others_go_on(self) -> None:
        class Broken(RecordingUnit):
            def media(self, source: Any, chunk: MediaChunk) -> None:
                raise OSError("unplugged")

        h, good = Hub(), RecordingUnit(own_clock=True)
        h.hub.attach(Broken(own_clock=True), None, 0.0)
        h.hub.attach(good, None, 0.0)
        h.hub.audio(chunk(1), 0.0)
        h.hub.audio(chunk(1), 0.0)
        assert len(good.chunks) == 2
        assert h.statistics.media_units_failed == 1
        assert [str(error) for error in h.failures] == ["unplugged"]

    def test_a_unit_may_detach_itself_while_it_is_told(self) -> None:
        h = Hub()

        class Once(RecordingUnit):
            def media(self, source: Any, chunk: MediaChunk) -> None:
                super().media(source, chunk)
                h.hub.detach(self, 0.0)

        once = Once()
        h.hub.attach(once, None, 0.0)
        h.hub.audio(chunk(5), 0.0)
        h.run_until(1)
        assert len(once.chunks) == 1

    def test_streams_under_different_tags_begin_and_end_on_their_own(self) -> None:
        h, left, right = Hub(), RecordingUnit(), RecordingUnit()
        h.hub.attach(left, SendMediaParameters(tag="left"), 0.0)
        h.hub.attach(right, SendMediaParameters(tag="right", encoding="ULAW"), 0.0)
        h.hub.audio(chunk(100), 0.0)
        h.hub.clear("left", 0.5)
        h.run_until(10)
        assert [(name, data["tag"], data.get("encoding")) for name, data in h.reports] == [
            ("started", "left", "pcm16"),
            ("started", "right", "pcmu"),
            ("ended", "left", None),
            ("ended", "right", None),
        ]
        assert [data["media_info"]["duration"] for _, data in h.reports[2:]] == [500, 2000]

    def test_a_stream_that_reaches_no_unit_any_more_has_ended(self) -> None:
        h, unit = Hub(), RecordingUnit()
        h.hub.attach(RecordingUnit(), None, 0.0)
        h.hub.attach(unit, SendMediaParameters(tag="t"), 0.0)
        h.hub.audio(chunk(500), 0.0)
        h.hub.detach(unit, 3.0)
        h.run_until(3.99)
        assert [name for name, _ in h.reports] == ["started", "started"]
        h.run_until(4.0)
        assert h.reports[-1] == ("ended", {"tag": "t", "media_info": {"duration": 3000}})

    @pytest.mark.parametrize(
        ("encoding", "told", "rate", "quality"),
        [
            ("PCM8", "PCM8", 8000, 40),
            ("PCM16", "PCM16", 16000, 45),
            ("ULAW", "pcmu", 8000, 30),
            ("ALAW", "pcma", 8000, 30),
            ("pcmu", "pcmu", 8000, 30),
        ],
    )
    def test_each_unit_gets_the_encoding_that_it_asks_for(
        self, encoding: str, told: str, rate: int, quality: float
    ) -> None:
        h, unit, plain = Hub(), RecordingUnit(), RecordingUnit()
        h.hub.attach(unit, SendMediaParameters(tag="t", encoding=encoding), 0.0)
        h.hub.attach(plain, None, 0.0)
        assert unit.calls[0] == ("started", ("client_1", "t", told, {}))
        payload = tone(24000, 1.0)
        for at in range(0, len(payload), 4801):
            h.hub.audio(MediaChunk(payload[at : at + 4801], "resp_1", "item_1", 0), 0.0)
        h.hub.audio_done(Done("resp_1", "item_1", 0), 0.0)
        h.run_until(2.0)
        samples = unit_format(encoding)
        assert samples.rate == rate
        assert {len(c.payload) for c in unit.chunks[:-1]} == {samples.frame_bytes}
        assert snr_db(decode(unit.audio, samples.encoding), rate) > quality
        assert plain.audio == payload
        assert unit.names()[-1] == "done"

    def test_a_unit_that_says_what_it_takes_gets_that(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        unit.media_format = PCMU  # type: ignore[attr-defined]
        h.hub.attach(unit, None, 0.0)
        h.hub.audio(chunk(50, fill=0), 0.0)
        h.hub.audio_done(Done("resp_1", "item_1", 0), 0.0)
        assert len(unit.audio) == 8000
        assert set(unit.audio) <= {0x7F, 0xFF}
        with pytest.raises(ValueError, match="the media unit takes 'pcmu' only"):
            h.hub.attach(unit, SendMediaParameters(tag="t", encoding="PCM16"), 0.0)

    @pytest.mark.parametrize(("encoding", "remedy"), [("OPUS", "use PCM16"), ("mp3", "PCM8, PCM16, ALAW")])
    def test_an_encoding_that_cannot_be_had_is_refused(self, encoding: str, remedy: str) -> None:
        h = Hub()
        with pytest.raises(ValueError, match=remedy):
            h.hub.attach(RecordingUnit(), SendMediaParameters(tag="t", encoding=encoding), 0.0)
        assert h.hub._attached == []

    def test_what_conversion_held_of_a_cleared_answer_is_not_played(self) -> None:
        h, unit = Hub(), RecordingUnit(own_clock=True)
        h.hub.attach(unit, SendMediaParameters(tag="t", encoding="PCM8"), 0.0)
        h.hub.audio(MediaChunk(tone(24000, 1.0), "resp_1", "item_1", 0), 0.0)
        h.hub.clear(None, 0.1)
        before = len(unit.audio)
        h.hub.audio(chunk(50, fill=0, response_id="resp_2"), 0.2)
        assert before > 0
        heard = np.frombuffer(unit.audio[before:], "<i2")
        assert len(heard) > 4000
        assert abs(heard.astype(int)).max() <= 1

    def test_responses_without_an_end_do_not_pile_up(self) -> None:
        h = Hub()
        for n in range(1000):
            h.hub.response_created(f"resp_{n}")
        h.hub.clear(None, 0.0)
        assert len(h.hub._active) == 64
        assert len(h.hub._cleared) == 64
