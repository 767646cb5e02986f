"""Opus calls of the SDK against a scripted media server, with the real libopus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from media_server_double import DoubleLeg, media_server
from opus_sound import decoded, packets, snr, sweep
from parley.media.v1 import media_pb2 as pb
from parley_client import (
    AgentAudio,
    AudioFormat,
    Call,
    CallOptions,
    Clear,
    MissingProgram,
    OpusSettings,
    ParleyError,
    ProtocolError,
    Target,
    UsageError,
    connect,
    resolve_address,
)
from parley_client.backoff import Backoff
from parley_opus import library, packet_samples

QUICK = CallOptions(
    attach_timeout=3, resume_timeout=3, hangup_timeout=3, backoff=Backoff(first=0.05, highest=0.1, floor=0.01)
)


def target(address: str) -> Target:
    return resolve_address(address, "ticket-of-the-test-4711")


async def audio_of(call: Call, count: int) -> list[AgentAudio]:
    found: list[AgentAudio] = []
    async with asyncio.timeout(10):
        async for event in call:
            if isinstance(event, AgentAudio):
                found.append(event)
                if len(found) == count:
                    break
    return found


async def test_samples_go_out_and_come_in_as_packets() -> None:
    said, answer = sweep(1), sweep(1, 24000, hertz=500)
    sent = packets(answer, 24000)

    async def script(leg: DoubleLeg) -> None:
        assert leg.start.input_format.encoding == leg.start.output_format.encoding == pb.AUDIO_ENCODING_OPUS
        assert (leg.start.opus.bitrate_bps, leg.start.opus.expected_loss_percent) == (20_000, 5)
        await leg.started()
        for index, packet in enumerate(sent):
            await leg.agent_audio(packet, position_ms=20 * index)
        await leg.until_hangup()

    options = CallOptions(attach_timeout=3, hangup_timeout=3, opus=OpusSettings(20_000, 5))
    async with media_server(script) as server:
        async with connect(target(server.address), input_format="opus@24000", options=options) as call:
            payload = said.tobytes()
            for at in range(0, len(payload), 1402):  # no frames of anything
                await call.send_audio(payload[at : at + 1402])
            heard = await audio_of(call, len(sent))
        frames = server.legs[0].audio_frames
    assert [packet_samples(frame.payload) for frame in frames] == [960] * 50
    assert [frame.media_time_ms for frame in frames] == list(range(0, 1000, 20))
    assert snr(decoded(frame.payload for frame in frames), said) > 12
    assert [event.packet for event in heard] == sent
    assert {len(event.payload) for event in heard} == {960}
    assert snr(np.frombuffer(b"".join(event.payload for event in heard), "<i2"), answer) > 15
    assert call.player.line is not None
    assert call.player.line.format == AudioFormat.parse("opus@24000")


async def test_packets_pass_as_they_are() -> None:
    given = packets(sweep(0.6, 16000), 16000, 60)

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.until_hangup()

    async with media_server(script) as server:
        async with connect(target(server.address), input_format="opus@48000", options=QUICK) as call:
            for packet in given:
                await call.send_packet(packet)
            with pytest.raises(UsageError, match="these 1 bytes are no Opus packet"):
                await call.send_packet(b"\x03")
        frames = server.legs[0].audio_frames
    assert [frame.payload for frame in frames] == given
    assert [frame.media_time_ms for frame in frames] == list(range(0, 600, 60))


async def test_a_packet_has_no_place_in_another_format() -> None:
    async def script(leg: DoubleLeg) -> None:
        assert not leg.start.HasField("opus")
        await leg.started()
        await leg.until_hangup()

    async with media_server(script) as server, connect(target(server.address), options=QUICK) as call:
        with pytest.raises(UsageError, match=r"cannot be sent as pcm16@24000: use send_audio"):
            await call.send_packet(b"\x08")


async def test_behind_a_clear_and_on_a_new_stream_the_codecs_begin_anew() -> None:
    first, second = packets(sweep(0.2, 24000), 24000), packets(sweep(0.2, 24000, hertz=500), 24000)

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        for packet in first:
            await leg.agent_audio(packet)
        await leg.send(clear=pb.Clear(epoch=1))
        await leg.expect("cleared")
        for packet in second:
            await leg.agent_audio(packet, epoch=2)
        if leg.number == 1:
            while len(leg.audio_frames) < 5:
                await leg.expect("audio")
            return
        await leg.until_hangup()

    async with media_server(script) as server:
        async with connect(target(server.address), input_format="opus", options=QUICK) as call:
            await call.send_audio(sweep(0.1).tobytes())
            heard, clears = b"", 0
            async with asyncio.timeout(10):
                async for event in call:
                    clears += isinstance(event, Clear)
                    if isinstance(event, AgentAudio):
                        heard += event.payload
                    if len(heard) == 4 * 10 * 960:
                        break
            assert clears == 2
            await call.send_audio(sweep(0.1).tobytes())
        of_each = [[frame.payload for frame in leg.audio_frames] for leg in server.legs]
    assert of_each[0] == of_each[1]
    one = decoded(first).tobytes() + decoded(second).tobytes()
    assert heard == one + one


async def test_agent_audio_that_is_no_packet_breaks_the_contract() -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.agent_audio(bytes([9, 1]))
        await leg.until_left()

    async with media_server(script) as server:
        with pytest.raises(ProtocolError, match="frame 1 of the agent's audio is no Opus packet"):
            async with connect(target(server.address), input_format="opus", options=QUICK) as call:
                await audio_of(call, 1)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(library, "_LINUX", ("libopus-that-is-not-there.so.0",))
    monkeypatch.setattr(library, "_NAMES", {})
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@pytest.mark.usefixtures("no_library")
async def test_without_libopus_an_opus_call_is_refused_before_anybody_is_called() -> None:
    for formats in ({"input_format": "opus"}, {"output_format": "opus"}):
        with pytest.raises(MissingProgram, match="libopus is not installed; install it with: apt-get"):
            connect(target("127.0.0.1:1"), **formats)
    with pytest.raises(ParleyError):  # another format needs none, and finds nobody here
        async with connect(target("127.0.0.1:1"), options=CallOptions(attach_timeout=0.1)):
            pytest.fail("attached")
