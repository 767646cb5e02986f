"""Callers of every format talk to the local provider through one worker, and interrupt it."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from media_calls import PCM8, PCM24, ULAW, Caller, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.core.audio import AudioFormat, Encoding, encode
from parley_worker.core.model import SessionState

LOCAL = LocalProviderConfig(port=0)
GA = {"type": "realtime", "instructions": "answer", "output_modalities": ["audio"]}
BETA = {"instructions": "answer", "modalities": ["text", "audio"]}
ALAW = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_G711_ALAW, sample_rate_hz=8000)
PCM16 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=16000)
PCM48 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=48000)
_ENCODINGS = {1: Encoding.PCM16, 2: Encoding.G711_ULAW, 3: Encoding.G711_ALAW}


def speech(wire: pb.AudioFormat, seconds: float) -> list[bytes]:
    """A loud tone and then 900 ms of silence, in 20 ms frames of the format."""
    audio = AudioFormat(_ENCODINGS[wire.encoding], wire.sample_rate_hz)
    length = round(seconds * audio.rate)
    tone = np.sin(np.arange(length) * 2 * np.pi * 440 / audio.rate) * 9000
    samples = np.concatenate((tone, np.zeros(audio.rate * 9 // 10))).astype(np.int16)
    payload = encode(samples, audio.encoding)
    size = audio.bytes_per_ms * 20
    return [payload[at : at + size] for at in range(0, len(payload), size)]


async def say(caller: Caller, frames: list[bytes], pace: float = 0.0) -> None:
    for frame in frames:
        await caller.speak(frame)
        await asyncio.sleep(pace)


@pytest.mark.parametrize(
    ("incoming", "outgoing", "provider_audio", "api_version"),
    [
        (ULAW, ULAW, "", "ga"),
        (ULAW, ULAW, "g711_ulaw", "ga"),
        (ALAW, PCM16, "", "ga"),
        (PCM8, ALAW, "g711_alaw", "beta"),
        (PCM24, PCM24, "", "beta"),
        (PCM48, PCM48, "", "ga"),
    ],
)
async def test_a_turn_in_every_format(
    incoming: pb.AudioFormat, outgoing: pb.AudioFormat, provider_audio: str, api_version: str
) -> None:
    async with serve(LOCAL) as local, worker() as host:
        config = host.admit(
            local.url,
            provider={"api_version": api_version, "model": "local"},
            provider_audio=provider_audio,
            session=GA if api_version == "ga" else BETA,
        )
        first = start(
            config, input_format=incoming, output_format=outgoing, playout_mode=pb.PLAYOUT_MODE_BURST
        )
        async with calling(host, first) as caller:
            await caller.expect("started")
            await say(caller, speech(incoming, 0.8))
            await caller.expect_event("response.done", timeout=20)
            mark = await caller.expect("mark")
            audio = AudioFormat(_ENCODINGS[outgoing.encoding], outgoing.sample_rate_hz)
            assert abs(audio.ms(len(caller.audio())) - mark.position_ms) < 2
            assert mark.position_ms > 200
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == "CallerHangup"
        facts = host.facts(config)
        for fact in ("speech_started", "speech_stopped", "response_started", "first_audio", "response_done"):
            assert fact in facts
        report = await host.state(config, SessionState.ENDED)
        assert report.usage.output_tokens > 0
        await host.nothing_left()


async def test_an_interrupted_answer_is_truncated_at_the_provider() -> None:
    async with serve(LOCAL) as local, worker() as host:
        config = host.admit(local.url, provider={"model": "local"}, session=GA)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            ask_text = "say this rather long sentence so that there is time to interrupt it in the middle"
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ask_text}]}
            for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
                await caller.send(client_event=pb.ClientEvent(event_json=json.dumps(event)))
            await caller.expect("audio", 10)
            speaking = asyncio.create_task(say(caller, speech(PCM24, 0.6), pace=0.005))
            clear = await caller.expect("clear")
            frame = [f for f in caller.of("audio") if f.epoch == clear.epoch][-1]
            heard = pb.Cleared(epoch=clear.epoch, item_id=frame.item_id, played_ms=frame.position_ms)
            await caller.send(cleared=heard)
            await speaking
            truncated = json.loads((await caller.expect_event("conversation.item.truncated")).event_json)
            assert truncated["audio_end_ms"] == frame.position_ms
        (cut,) = [r for r in host.of(config, "journal") if r.type == "item_truncated"]
        assert cut.fields["audio_end_ms"] == frame.position_ms
