"""What of an Opus leg needs no codec: its Start, whole frames to the caller, a worker without libopus."""

from __future__ import annotations

import asyncio
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
from parley_worker.transport import opus_leg
from parley_worker.transport.opus_leg import FRAMES_AT_ONCE, with_opus
from parley_worker.transport.ports import LegPort, SessionPort

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
    assert taken.opus is not None
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


# Between leg and session


class Session:
    """Keeps what its leg says."""

    provider_rate = 24_000

    def __init__(self) -> None:
        self.leg: LegPort | None = None
        self.request: ev.AttachRequest | None = None
        self.said: list[tuple[object, ...]] = []

    async def wait_ready(self) -> None: ...

    def frames_concealed(self, cause: str, frames: int) -> None:
        self.said.append(("concealed", cause, frames))

    def attach(self, request: ev.AttachRequest, leg: LegPort) -> None:
        self.request, self.leg = request, leg

    def leg_audio(self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int) -> None:
        assert leg is self.leg
        self.said.append((payload, sequence, media_time_ms))

    def leg_message(self, leg: LegPort, message: ev.LegCommand) -> None:
        assert leg is self.leg
        self.said.append((message,))

    def leg_room(self, leg: LegPort) -> None:
        assert leg is self.leg
        self.said.append(("room",))

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        assert leg is self.leg
        self.said.append((cause,))


class FakeLeg:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.room = 1 << 20

    def send(self, message: fx.ToLeg) -> None:
        self.sent.append(message)

    def send_audio(self, frame: OutFrame) -> None:
        self.sent.append(frame)

    def drop_audio(self) -> dict[tuple[str, int], int]:
        return {("i", 0): 20}

    def audio_room(self) -> int:
        return self.room

    def queued_bytes(self) -> int:
        return 7

    def finish(self, refusal: ev.LegRefusal | None) -> None:
        self.sent.append(refusal)


class Codec:
    """An encoder and a decoder that count."""

    delay_ms = 6.5

    def __init__(self, *_: object) -> None:
        self.count = 0

    def encode(self, pcm: bytes) -> bytes:
        self.count += 1
        return f"packet {self.count} of {len(pcm)}".encode()

    def decode(self, packet: bytes) -> bytes:
        return b"samples of " + packet

    def reset(self) -> None:
        self.count = 0


@pytest.fixture
def codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus_leg, "Encoder", Codec)
    monkeypatch.setattr(opus_leg, "Decoder", Codec)


def attached(**fields: object) -> tuple[Session, SessionPort, FakeLeg]:
    """A session, what its leg sees of it, and the leg."""
    start = read(**fields)
    assert isinstance(start, media_pb.StartMessage)
    assert start.opus is not None
    session, leg = Session(), FakeLeg()
    port = with_opus(session, start.request, start.opus)  # type: ignore[arg-type]
    assert not isinstance(port, ev.LegRefusal)
    assert port.attach(start.request, leg) is None
    return session, port, leg


FRAME = OutFrame(bytes(960), "i", 0, 1, 40.0, "r", 0.001)


@pytest.mark.usefixtures("codecs")
def test_a_session_hears_samples_and_its_caller_packets() -> None:
    session, port, leg = attached(input_format=OPUS, output_format=OPUS)
    request = session.request
    assert request is not None
    assert (str(request.input_format), str(request.output_format)) == ("pcm16@24000", "pcm16@24000")
    assert (str(request.input_carried), str(request.output_carried)) == ("opus@48000", "opus@48000")
    assert request.output_codec_delay_ms == 6.5
    assert port.leg_audio(leg, b"\x08", 7, 140) is None
    assert session.said == [(b"samples of \x08", 7, 140)]
    assert session.leg is not None
    session.leg.send_audio(FRAME)
    (sent,) = leg.sent
    place = (sent.item_id, sent.content_index, sent.epoch, sent.position_ms)
    assert (sent.payload, *place) == (b"packet 1 of 960", "i", 0, 1, 40.0)


@pytest.mark.usefixtures("codecs")
def test_behind_a_clear_the_encoder_begins_anew() -> None:
    session, _, leg = attached(output_format=OPUS)
    clear = fx.Clear(1, fx.ClearReason.BARGE_IN)
    assert session.leg is not None
    session.leg.send_audio(FRAME)
    session.leg.send(fx.Mark("m", 1, "i", 0, 20))
    session.leg.send_audio(FRAME)
    session.leg.send(clear)
    session.leg.send_audio(FRAME)
    packets = [sent.payload for sent in leg.sent if isinstance(sent, OutFrame)]
    assert packets == [b"packet 1 of 960", b"packet 2 of 960", b"packet 1 of 960"]
    assert leg.sent[3] is clear


@pytest.mark.usefixtures("codecs")
def test_a_side_without_opus_passes_untouched_and_so_does_the_rest() -> None:
    session, port, leg = attached(input_format=OPUS)
    assert session.leg is not None
    session.leg.send_audio(FRAME)
    assert leg.sent == [FRAME]
    assert session.leg.audio_room() == leg.room
    assert session.leg.queued_bytes() == 7
    assert session.leg.drop_audio() == {("i", 0): 20}
    session.leg.finish(None)
    assert leg.sent[-1] is None
    hangup = ev.Hangup("bye")
    port.leg_message(leg, hangup)
    port.leg_room(leg)
    port.leg_lost(leg, "half-closed")
    assert session.said == [(hangup,), ("room",), ("half-closed",)]
    session, port, leg = attached(output_format=OPUS)
    port.leg_audio(leg, b"\0\0", 1, 0)
    assert session.said == [(b"\0\0", 1, 0)]


@pytest.mark.usefixtures("codecs")
async def test_a_burst_is_encoded_by_turns() -> None:
    session, _, leg = attached(output_format=OPUS, playout_mode=pb.PLAYOUT_MODE_BURST)
    assert session.leg is not None
    for left in range(FRAMES_AT_ONCE, 0, -1):
        assert session.leg.audio_room() == left * 960
        session.leg.send_audio(FRAME)
    assert session.leg.audio_room() == 0
    assert session.said == []
    await asyncio.sleep(0)
    assert session.said == [("room",)]
    assert session.leg.audio_room() == FRAMES_AT_ONCE * 960
    leg.room = 700
    assert session.leg.audio_room() == 700
    leg.room = 0
    assert session.leg.audio_room() == 0


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(library, "_LINUX", ("libopus-that-is-not-there.so.0",))
    monkeypatch.setattr(library, "_NAMES", {})
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_worker_without_libopus_says_what_to_install(side: str) -> None:
    start = read(**{f"{side}_format": OPUS})
    assert isinstance(start, media_pb.StartMessage)
    assert start.opus is not None
    refusal = with_opus(Session(), start.request, start.opus)  # type: ignore[arg-type]
    assert isinstance(refusal, ev.LegRefusal)
    assert (refusal.status, refusal.reason) == (ev.Status.FAILED_PRECONDITION, "opus-unavailable")
    assert refusal.field == f"start.{side}_format.encoding"
    assert "apt-get install libopus0" in refusal.message
    assert "use PCM16 or G711_ULAW" in refusal.message


def test_other_formats_ask_for_none() -> None:
    start = read(opus=pb.OpusSettings(bitrate_bps=16000))
    assert isinstance(start, media_pb.StartMessage)
    assert start.opus is None
    assert (start.request.input_codec, start.request.output_codec) == (None, None)


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
