"""What callers of Opus lose, break and overdo, with the real libopus."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import numpy as np
import pytest
from media_calls import RPCS, Caller, calling, over, start, trailer, worker
from opus_sound import Samples, opus, packets, snr, sweep
from parley.media.v1 import media_pb2 as pb
from parley_opus.packets import OpusSettings, packet_samples
from parley_worker.codec.opus import MAX_UNDECODABLE
from parley_worker.core.model import EndReason, SessionState
from parley_worker.runtime.deps import RunnerSettings
from provider_script import Socket, scripted

BROKEN = bytes([1 << 3 | 1, 1])
"""Two frames of one size in an odd number of bytes."""


@pytest.fixture(autouse=True, params=RPCS)
def _rpc(request: pytest.FixtureRequest) -> Iterator[None]:
    with over(request.param):
        yield


async def friendly(socket: Socket) -> None:
    await socket.greet()


async def say(caller: Caller, frames: list[bytes], first: int = 1, lost: tuple[int, ...] = ()) -> None:
    for sequence, frame in enumerate(frames, first):
        if sequence not in lost:
            await caller.speak(frame, sequence)


async def hear(socket: Socket, samples: int) -> Samples:
    """All that came, so many samples and no more."""
    heard = np.frombuffer(await socket.expect_audio(samples * 2), "<i2")
    await asyncio.sleep(0.1)
    assert len(socket.audio) == samples * 2
    return heard


def two_under_one_head(frames: list[bytes]) -> list[bytes]:
    """Pairs of packets of one frame each as packets of two frames."""

    def written(size: int) -> bytes:
        return bytes([size]) if size < 252 else bytes([252 + (size & 3), (size - 252 - (size & 3)) >> 2])

    return [
        bytes([a[0] | 3, 0x80 | 2]) + written(len(a) - 1) + a[1:] + b[1:]
        for a, b in zip(frames[::2], frames[1::2], strict=True)
    ]


@pytest.mark.parametrize("ms", [2.5, 5, 10, 40, 60, 120])
async def test_packets_of_every_length_are_taken(ms: float) -> None:
    said = packets(sweep(1.2, 16000), 16000, min(ms, 60))
    if ms == 120:
        assert {packet[0] & 3 for packet in said} == {0}
        said = two_under_one_head(said)
    assert {packet_samples(packet) for packet in said} == {round(48 * ms)}
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await say(caller, said)
            heard = await hear(await script.socket(), 28_800)
    assert snr(heard, sweep(1.2)) > (12 if ms > 5 else 8)


async def test_lost_packets_are_made_up_and_their_time_is_kept() -> None:
    frames = packets(sweep(2, 16000), 16000, 20, OpusSettings(expected_loss=20))
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus(16000))) as caller:
            await caller.expect("started")
            await say(caller, frames, lost=(20, 21, 40, 41, 42, 60))
            socket = await script.socket()
            heard = await hear(socket, 48_000)
            page = host.app.metrics.render().decode()
            assert 'frames_concealed_total{cause="lost"} 6.0' in page
            assert "frame_gaps_total 3.0" in page
            await say(caller, frames[:20], first=len(frames) + 11)  # ten are missing: only counted
            await hear(socket, 48_000 + 20 * 480)
            page = host.app.metrics.render().decode()
            assert 'frames_concealed_total{cause="lost"} 6.0' in page
            assert "frame_gaps_total 4.0" in page
    holes = heard.copy()
    for lost in (20, 21, 40, 41, 42, 60):
        holes[(lost - 1) * 480 : lost * 480] = 0
    assert snr(heard, sweep(2)) > snr(holes, sweep(2)) + 1
    assert int(np.abs(heard.astype(int)).max()) < 20_000


async def test_late_and_repeated_packets_are_dropped() -> None:
    frames = packets(sweep(0.4, 48000))
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await say(caller, frames[:10])
            await say(caller, frames[7:10], first=8)
            await say(caller, frames[10:], first=11)
            heard = await hear(await script.socket(), 9_600)
            assert 'frames_dropped_total{cause="stale",direction="in"} 3.0' in (
                host.app.metrics.render().decode()
            )
    assert snr(heard, sweep(0.4)) > 15


async def test_silence_packets_of_one_byte_are_heard_as_silence() -> None:
    frames = packets(np.zeros(48000, np.int16))
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await say(caller, [frame[:1] for frame in frames])
            heard = await hear(await script.socket(), 24_000)
    assert int(np.abs(heard.astype(int)).max()) < 20


async def test_garbage_is_made_up_and_ends_the_leg_when_nothing_else_comes() -> None:
    good = packets(sweep(1, 48000))
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await say(caller, [*good[:10], BROKEN, BROKEN, BROKEN, *good[13:]])
            heard = await hear(await script.socket(), 24_000)
            assert snr(heard[12_000:], sweep(1)[12_000:]) > 12
            await say(caller, [BROKEN] * MAX_UNDECODABLE, first=51)
            status = await caller.ended()
            assert status is not None
            assert (status.code().name, trailer(status)) == ("INVALID_ARGUMENT", "opus-undecodable")
            assert trailer(status, "parley-field") == "audio.payload"
            assert "RFC 6716" in str(status.details())
            made_up = 3 + MAX_UNDECODABLE - 1
            assert f'frames_concealed_total{{cause="undecodable"}} {made_up}.0' in (
                host.app.metrics.render().decode()
            )
        assert (await host.state(config, SessionState.DETACHED)).end_reason is None


async def test_noise_of_any_kind_disturbs_nobody_else() -> None:
    """Random bytes often are packets: whatever they decode to, the worker and the other call go on."""
    dice = random.Random(4)
    async with scripted(friendly) as script, worker() as host:
        config, other = host.admit(script.url), host.admit(script.url)
        async with (
            calling(host, start(config, input_format=opus())) as caller,
            calling(host, start(other, input_format=opus())) as neighbour,
        ):
            await caller.expect("started")
            await neighbour.expect("started")
            for sequence in range(1, 150):
                await caller.speak(dice.randbytes(dice.choice((1, 2, 3, 40, 200, 1275, 4000))), sequence)
            await say(neighbour, packets(sweep(0.2, 48000)))
            await neighbour.send(hangup=pb.Hangup())
            assert (await neighbour.expect("ended")).reason == EndReason.CALLER_HANGUP
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == EndReason.CALLER_HANGUP
            assert 'cause="undecodable"' in host.app.metrics.render().decode()


async def test_small_packets_of_much_time_count_by_their_time() -> None:
    """Two bytes are 120 ms here, more than may be ahead of real time; one byte of 20 ms is not."""
    settings = RunnerSettings(input_burst=0.1)
    async with scripted(friendly) as script, worker(runner=settings) as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await caller.speak(bytes([1 << 3]))
            await (await script.socket()).expect_audio(960)
            await caller.speak(bytes([3 << 3 | 3, 2]))
            status = await caller.ended()
            assert status is not None
            assert (status.code().name, trailer(status)) == ("RESOURCE_EXHAUSTED", "faster-than-real-time")
        assert len((await script.socket()).audio) == 960


async def test_a_frame_without_bytes_is_refused() -> None:
    async with scripted(friendly) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config, input_format=opus())) as caller:
            await caller.expect("started")
            await caller.speak(b"")
            assert trailer(await caller.ended()) == "frame-empty"
