"""What of an Opus leg needs no codec: its Start, whole frames to the caller, a worker without libopus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from parley.media.v1 import media_pb2 as pb
from parley_opus import OpusSettings, library
from parley_worker.codec import media_pb
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import PROVIDER_FORMATS, AudioFormat, Encoding
from parley_worker.core.leg_codec import LegCodec, OpusFormat
from parley_worker.core.media_path import Out, OutFrame, OutMark, OutputPath, PlayoutMode
from parley_worker.core.playout import AudioCounters, PlayoutLedger
from parley_worker.transport.leg import Leg, LegBounds
from parley_worker.transport.opus_leg import put_codecs

PCM24 = PROVIDER_FORMATS["pcm16"]
OPUS = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_OPUS, sample_rate_hz=48000)
WIRE24 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=24000)
CODEC = LegCodec(OpusFormat(48000), delay_ms=6.5)
ROOM = 1 << 20


def read(**fields: object) -> media_pb.StartMessage | ev.LegRefusal:
    start = pb.Start(ticket="t", **{"input_format": WIRE24, "output_format": WIRE24, **fields})  # type: ignore[arg-type]
    return media_pb.read_start(pb.ConverseRequest(start=start))


def test_each_side_of_a_leg_may_be_opus() -> None:
    both = read(input_format=OPUS, output_format=OPUS)
    assert isinstance(both, media_pb.StartMessage)
    assert str(both.request.input_carried) == str(both.request.output_carried) == "opus@48000"
    assert both.opus == OpusSettings()
    inward = read(input_format=OPUS)
    assert isinstance(inward, media_pb.StartMessage)
    assert (str(inward.request.input_carried), str(inward.request.output_carried)) == (
        "opus@48000",
        "pcm16@24000",
    )


def test_settings_are_taken_and_out_of_range_refused_by_name() -> None:
    taken = read(output_format=OPUS, opus=pb.OpusSettings(bitrate_bps=16000, expected_loss_percent=10))
    assert isinstance(taken, media_pb.StartMessage)
    assert (taken.opus.bitrate, taken.opus.expected_loss) == (16000, 10)
    refused = read(opus=pb.OpusSettings(bitrate_bps=1000))
    assert isinstance(refused, ev.LegRefusal)
    assert (refused.reason, refused.field) == ("opus-setting-out-of-range", "start.opus.bitrate_bps")
    assert refused.message == "start.opus.bitrate_bps is 1000; use 6000 to 128000, or 0 for 32000"


def test_a_rate_that_opus_has_not_is_refused() -> None:
    refused = read(output_format=pb.AudioFormat(encoding=pb.AUDIO_ENCODING_OPUS, sample_rate_hz=44100))
    assert isinstance(refused, ev.LegRefusal)
    assert (refused.reason, refused.field) == ("format-unsupported", "start.output_format.sample_rate_hz")
    assert "44100" in refused.message
    assert "opus takes 8000, 16000, 24000, 48000" in refused.message


def test_started_says_opus_again() -> None:
    started = fx.Started("u", 1, "r", OpusFormat(48000), PCM24, PlayoutMode.REALTIME, 6.5)
    written = media_pb.write(started, "w").started
    assert (written.input_format, written.output_format) == (OPUS, WIRE24)


# Towards the caller


def played(mode: PlayoutMode, *chunks: int, mark_ms: int = 0) -> tuple[list[Out], PlayoutLedger]:
    """All that comes out of one part of so many milliseconds a chunk."""
    ledger = PlayoutLedger()
    path = OutputPath(PCM24, ledger, AudioCounters(), 1 << 24)
    path.attach(PCM24, mode, mark_ms, CODEC)
    out: list[Out] = []
    now = 10.0
    for ms in chunks:
        path.push(bytes([1, 0]) * (24 * ms), "r", "i", 0, now)
        out += path.take(now, ROOM)
        now += 0.02
    path.end_part("r", "i", 0)
    for _ in range(200):
        out += path.take(now, ROOM)
        now += 0.02
    return out, ledger


@pytest.mark.parametrize("mode", list(PlayoutMode))
@pytest.mark.parametrize(
    ("chunks", "frames"),
    [((100,), 6), ((95,), 6), ((90,), 5), ((13, 13, 13, 13), 3), ((5,), 1), ((250, 250), 26)],
)
def test_all_frames_have_20_ms_and_the_last_ones_carry_what_the_codec_holds_back(
    mode: PlayoutMode, chunks: tuple[int, ...], frames: int
) -> None:
    out, ledger = played(mode, *chunks)
    sent = [o for o in out if isinstance(o, OutFrame)]
    assert [len(frame.payload) for frame in sent] == [PCM24.frame_bytes] * frames
    assert [frame.position_ms for frame in sent] == [20 * n for n in range(frames)]
    whole = sum(chunks)
    audio = b"".join(frame.payload for frame in sent)
    assert audio == (bytes([1, 0]) * (24 * whole)).ljust(len(audio), b"\0")
    assert len(audio) >= (whole + CODEC.delay_ms) * PCM24.bytes_per_ms - 1
    assert out[-1] == OutMark("i", 0, 1, whole)  # the silence is no part of the part
    ledger.acknowledge(("i", 0), 10_000, "mark", 20.0)
    assert ledger.received_ms(("i", 0)) == whole


def test_without_a_codec_bursts_are_cut_as_they_come() -> None:
    path = OutputPath(PCM24, PlayoutLedger(), AudioCounters(), 1 << 24)
    path.attach(PCM24, PlayoutMode.BURST)
    path.push(bytes(48 * 250), "r", "i", 0, 10.0)
    sizes = [len(o.payload) for o in path.take(10.0, ROOM) if isinstance(o, OutFrame)]
    assert sizes == [4800, 4800, 2400]


# Without libopus


class Session:
    """A session that only says its provider's rate."""

    provider_rate = 24_000

    def leg_audio(self, leg: object, payload: bytes, sequence: int, media_time_ms: int) -> None:
        raise AssertionError("nothing is heard in this test")

    def frames_concealed(self, cause: str, frames: int) -> None:
        raise AssertionError("nothing is heard in this test")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(library, "_LINUX", ("libopus-that-is-not-there.so.0",))
    monkeypatch.setattr(library, "_NAMES", {})
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("side", ["input", "output"])
async def test_a_worker_without_libopus_says_what_to_install(side: str) -> None:
    start = read(**{f"{side}_format": OPUS})
    assert isinstance(start, media_pb.StartMessage)
    refusal = put_codecs(Session(), start, Leg(LegBounds(), "w"))  # type: ignore[arg-type]
    assert isinstance(refusal, ev.LegRefusal)
    assert (refusal.status, refusal.reason) == (ev.Status.FAILED_PRECONDITION, "opus-unavailable")
    assert refusal.field == f"start.{side}_format.encoding"
    assert "apt-get install libopus0" in refusal.message
    assert "use PCM16 or G711_ULAW" in refusal.message


@pytest.mark.usefixtures("no_library")
async def test_other_formats_need_no_libopus() -> None:
    start = read()
    assert isinstance(start, media_pb.StartMessage)
    assert put_codecs(Session(), start, Leg(LegBounds(), "w")) == start.request  # type: ignore[arg-type]


def test_a_codec_pushes_out_what_it_holds_back() -> None:
    class Halved:
        def convert(self, payload: bytes) -> bytes:
            return payload[::2]

        def flush(self) -> bytes:
            return b"rest"

    leg = AudioFormat(Encoding.PCM16, 8000)
    followed = CODEC.behind(Halved(), leg)
    assert followed.convert(b"abcd") == b"ac"
    assert followed.flush() == b"rest" + bytes(2 * 52)
