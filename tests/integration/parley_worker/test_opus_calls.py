"""Opus calls through a worker with the real libopus: sound, clears, bursts, recordings, many legs."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media_calls import PCM8, PCM24, RPCS, ULAW, Caller, calling, over, start, worker
from opus_sound import decoded, opus, packets, snr, sweep
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_opus.library import Decoder, Encoder, version
from parley_opus.packets import packet_samples
from parley_worker.core.agent import RecordingConfig
from parley_worker.core.audio import Encoding, decode
from provider_script import Socket, scripted

GA = {"type": "realtime", "instructions": "answer", "output_modalities": ["audio"]}


@pytest.fixture(autouse=True, params=RPCS)
def _rpc(request: pytest.FixtureRequest) -> Iterator[None]:
    with over(request.param):
        yield


async def friendly(socket: Socket) -> None:
    await socket.greet()


async def say(caller: Caller, frames: list[bytes], pace: float = 0.0) -> None:
    for frame in frames:
        await caller.speak(frame)
        await asyncio.sleep(pace)


def agent(caller: Caller) -> list[bytes]:
    return [frame.payload for frame in caller.of("audio")]


async def test_both_sides_hear_what_was_said_and_the_codec_is_named() -> None:
    answer = sweep(1, hertz=500)

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(48000)
        await socket.say(answer.tobytes(), "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus(), output_format=opus())) as caller:
            started = await caller.expect("started")
            assert (started.input_format, started.output_format) == (opus(), opus())
            assert started.output_delay_ms == 6.5
            await say(caller, packets(sweep(1, 48000)))
            mark = await caller.expect("mark")
            frames = caller.of("audio")
            assert [packet_samples(f.payload) for f in frames] == [960] * 51
            assert [f.position_ms for f in frames] == list(range(0, 1001, 20))
            assert mark.position_ms == 1000
            heard = np.frombuffer(bytes((await script.socket()).audio), "<i2")
            assert len(heard) == 24000  # at the provider's rate, without a resampler's delay
            assert snr(heard, sweep(1)) > 15
            told = round(24 * started.output_delay_ms)
            got = decoded(agent(caller))
            assert max(snr(got, answer, late) for late in range(told - 2, told + 3)) > 15
            assert sum(map(len, agent(caller))) * 8 < 48_000  # a second of 32 kbit/s, and some
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        [attached] = [r for r in host.of(config, "event") if r.type == "leg_attached"]
        assert attached.fields["input_format"] == attached.fields["output_format"] == "opus@48000"
        await host.nothing_left()


@pytest.mark.parametrize(
    ("incoming", "outgoing", "provider_audio"),
    [
        (opus(48000), opus(48000), ""),
        (opus(16000), opus(8000), "g711_ulaw"),
        (opus(24000), ULAW, ""),
        (PCM8, opus(24000), "g711_alaw"),
    ],
)
async def test_a_turn_with_the_local_provider(
    incoming: pb.AudioFormat, outgoing: pb.AudioFormat, provider_audio: str
) -> None:
    rate = incoming.sample_rate_hz
    voice = np.concatenate((sweep(0.8, rate), np.zeros(rate * 9 // 10, np.int16)))
    plain = [voice[at : at + rate // 50].tobytes() for at in range(0, len(voice), rate // 50)]
    async with serve(LocalProviderConfig(port=0)) as local, worker() as host:
        config = host.admit(local.url, session=GA, provider={"model": "local"}, provider_audio=provider_audio)
        async with calling(host, start(config, input_format=incoming, output_format=outgoing)) as caller:
            await caller.expect("started")
            await say(caller, plain if incoming == PCM8 else packets(voice, rate))
            await caller.expect_event("response.done")
            await caller.expect("mark")
            payloads = agent(caller)
    samples = decode(b"".join(payloads), Encoding.G711_ULAW) if outgoing == ULAW else decoded(payloads)
    assert len(samples) > 4000
    assert int(np.abs(samples.astype(int)).max()) > 2000
    if outgoing.sample_rate_hz == 8000 and outgoing != ULAW:  # no use for more: the band is narrow
        assert all(packet[0] >> 3 < 4 or 16 <= packet[0] >> 3 < 20 for packet in payloads)


async def test_a_clear_cuts_at_what_was_heard_and_the_next_answer_is_whole() -> None:
    answer = sweep(1, hertz=500)

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(sweep(5).tobytes(), "resp_1", "item_1", finish=False)
        await socket.expect("response.cancel")
        await socket.finish("resp_1", "item_1", "cancelled")
        await socket.say(answer.tobytes(), "resp_2", "item_2")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, output_format=opus())) as caller:
            await caller.expect("audio", 20)
            await caller.send(clear=pb.ClearRequest())
            clear = await caller.expect("clear")
            await caller.send(
                cleared=pb.Cleared(epoch=clear.epoch, item_id="item_1", content_index=0, played_ms=300)
            )
            truncate = await (await script.socket()).expect("conversation.item.truncate")
            assert (truncate["item_id"], truncate["audio_end_ms"]) == ("item_1", 300)
            mark = await caller.expect("mark")
            assert (mark.item_id, mark.position_ms) == ("item_2", 1000)
            later = [f for f in caller.of("audio") if f.epoch > clear.epoch]
            assert [f.position_ms for f in later] == list(range(0, 1001, 20))
            # Its first packet stands for itself: an encoder that encoded nothing before makes the same.
            assert later[0].payload == Encoder(24000).encode(answer[:480].tobytes())
            assert snr(decoded(f.payload for f in later), answer) > 15


async def test_a_burst_comes_in_packets_of_20_ms_without_holes() -> None:
    answer = sweep(30)

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(answer.tobytes(), "resp_1", "item_1", chunk=7001 * 2)

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        first = start(config, output_format=opus(), playout_mode=pb.PLAYOUT_MODE_BURST)
        begun = time.monotonic()
        async with calling(host, first) as caller:
            mark = await caller.expect("mark")
            assert time.monotonic() - begun < 15
            assert mark.position_ms == 30_000
            frames = caller.of("audio")
            assert [f.position_ms for f in frames] == list(range(0, 30_001, 20))
            assert {packet_samples(f.payload) for f in frames} == {960}
            assert snr(decoded(agent(caller)), answer) > 15


async def test_the_bitrate_is_as_asked() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        noise = np.random.default_rng(1).normal(0, 4000, 48000).astype("<i2")
        await socket.say(noise.tobytes(), "resp_1", "item_1")

    rates: dict[int, float] = {}
    async with scripted(provider) as script, worker() as host:
        for bitrate in (0, 12000, 64000):
            settings = pb.OpusSettings(bitrate_bps=bitrate)
            first = start(
                host.admit(script.url),
                output_format=opus(),
                opus=settings,
                playout_mode=pb.PLAYOUT_MODE_BURST,
            )
            async with calling(host, first) as caller:
                await caller.expect("mark")
                rates[bitrate] = sum(map(len, agent(caller))) * 8 / 2
    assert 26_000 < rates[0] < 38_000
    assert 9_000 < rates[12000] < 15_000
    assert 50_000 < rates[64000] < 75_000


async def test_a_recording_of_an_opus_call_holds_both_voices(tmp_path: Path) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(24000)
        await socket.say(sweep(1, hertz=500).tobytes(), "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url, recording=RecordingConfig(directory=str(tmp_path)))
        async with calling(host, start(config, input_format=opus(), output_format=opus())) as caller:
            await caller.expect("started")
            await say(caller, packets(sweep(1, 48000)), pace=0.02)
            await caller.expect("mark")
            await asyncio.sleep(0.3)
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        await host.nothing_left()
    path = tmp_path / "default" / f"{config.key.name}-{config.key.uid}-1.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 24000
    for channel, hertz in ((0, 300), (1, 500)):
        power = np.abs(np.fft.rfft(samples[:, channel].astype(float))) ** 2
        bins = np.fft.rfftfreq(len(samples), 1 / rate)
        within = power[(bins > hertz * 0.9) & (bins < hertz * 3.3)].sum()
        assert within > 0.95 * power.sum()
        said = np.abs(np.fft.rfft(sweep(1).astype(float), len(samples))) ** 2
        assert 0.8 < within / said.sum() < 1.25


def codecs() -> int:
    return sum(isinstance(thing, Encoder | Decoder) for thing in gc.get_objects())


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    _fields_ = tuple((name, ctypes.c_size_t) for name in (*_names, "keepcost"))


def in_use() -> int:
    """Bytes that malloc has given out: the resident size of a process that ran other tests says little."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallocInfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


async def test_many_legs_leave_neither_memory_nor_descriptors() -> None:
    frames = packets(sweep(0.2, 48000))

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(sweep(0.1).tobytes(), "resp_1", "item_1")

    async def call() -> None:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus(), output_format=opus())) as caller:
            await caller.expect("mark")
            await say(caller, frames)
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")

    async with scripted(provider) as script, worker() as host:

        async def calls(number: int) -> tuple[int, int]:
            """Descriptors and bytes that are in use after so many more calls."""
            for _ in range(number):
                await call()
            await host.nothing_left()
            gc.collect()
            return len(os.listdir("/proc/self/fd")), in_use()

        descriptors, memory = await calls(15)
        for _ in range(3):
            now, used = await calls(60)
            assert codecs() <= 2  # the last leg may wait for its stream to be collected
            assert now <= descriptors + 2
            # A leg's codecs have 80 kB: 60 of them that stayed would be 5 MB, every time.
            grown, memory = used - memory, used
            if grown < 4 << 20:
                break
        else:
            raise AssertionError(f"{grown} bytes more are in use after each 60 calls")


def test_the_library_says_what_it_is_and_its_states_can_be_used_anew() -> None:
    assert version().startswith("libopus")
    encoder, decoder = Encoder(24000), Decoder(24000)
    assert encoder.delay_ms == 6.5
    first = encoder.encode(sweep(0.02).tobytes())
    heard = decoder.decode(first)
    assert len(heard) == 960
    encoder.encode(sweep(0.02).tobytes())
    encoder.reset()
    assert encoder.encode(sweep(0.02).tobytes()) == first
    decoder.reset()
    assert decoder.decode(first) == heard
    assert len(decoder.conceal(480)) == 960


async def test_one_side_may_be_opus_and_the_other_not() -> None:
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus(), output_format=PCM24)) as caller:
            started = await caller.expect("started")
            assert (started.input_format, started.output_format) == (opus(), PCM24)
            assert started.output_delay_ms == 0
            await say(caller, packets(sweep(0.2, 48000)))
            assert len(await (await script.socket()).expect_audio(9600)) == 9600
