"""What an Opus leg costs: CPU of the worker for each second of a session, beside PCM16 and G.711.

And what each complexity of the encoder costs and gives.

pytest tests/load/test_opus_cost.py -s
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from media_calls import PCM24, ULAW, Caller, calling
from opus_sound import Samples, decoded, opus, packets
from parley.media.v1 import media_pb2 as pb
from parley_opus.library import Decoder, Encoder, version
from parley_opus.packets import OpusSettings
from parley_worker.core.audio import Encoding, encode
from provider_script import Socket, scripted
from speech import synthesize
from worker_process import control, worker_process

SESSIONS = 8
SECONDS = 10.0
ROUNDS = 3
PHRASE = (
    "Good morning. I would like to book a table for four people tomorrow evening at seven, near the window"
    " please. My number is four seven one nine three two."
)
FORMATS = {"pcm16@24000": PCM24, "g711_ulaw": ULAW, "opus": opus()}


@cache
def speech(rate: int, seconds: float) -> Samples:
    """So many seconds of somebody who speaks without a pause."""
    spoken = np.frombuffer(synthesize(PHRASE, rate, tail_s=0.1), "<i2")
    return np.resize(spoken, round(rate * seconds))


async def talkative(socket: Socket) -> None:
    await socket.greet()
    await socket.say(speech(24_000, SECONDS + 15).tobytes(), "resp_1", "item_1", chunk=48_000)


def frames(name: str) -> list[bytes]:
    """A caller's frames of 20 ms."""
    if name == "opus":
        return packets(speech(24_000, 10), 24_000)
    rate, encoding = (8000, Encoding.G711_ULAW) if name == "g711_ulaw" else (24_000, Encoding.PCM16)
    payload = encode(speech(rate, 10), encoding)
    size = len(payload) // 500
    return [payload[at : at + size] for at in range(0, len(payload), size)]


async def speak(caller: Caller, said: list[bytes]) -> None:
    loop, at = asyncio.get_running_loop(), 0
    due = loop.time()
    while True:
        await caller.speak(said[at % len(said)])
        at += 1
        due += 0.02
        await asyncio.sleep(due - loop.time())


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cost(name: str) -> float:
    """CPU milliseconds of the worker for each second of a session: both sides speak, both in this format."""
    said = await asyncio.to_thread(frames, name)
    await asyncio.to_thread(speech, 24_000, SECONDS + 15)
    async with (
        scripted(talkative) as provider,
        worker_process() as process,
        control(process.ready["control"], process.instance) as operator,
        AsyncExitStack() as stack,
    ):
        callers: list[Caller] = []
        for n in range(SESSIONS):
            uid = f"uid-{name.partition('@')[0].replace('_', '-')}-{n}"
            answer = await operator.admit(operator.request(provider.url, uid))
            assert answer.WhichOneof("result") == "admitted", answer
            wire = FORMATS[name]
            first = pb.Start(session_uid=uid, input_format=wire, output_format=wire)
            callers.append(await stack.enter_async_context(calling(process.ready["media"], first)))
        for caller in callers:
            await caller.expect("audio")
        speaking = [asyncio.create_task(speak(caller, said)) for caller in callers]
        await asyncio.sleep(1)
        before = cpu_seconds(process.process.pid)
        await asyncio.sleep(SECONDS)
        spent = cpu_seconds(process.process.pid) - before
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)
    return spent / SECONDS / SESSIONS * 1000


@pytest.mark.timeout(400)
async def test_a_leg_of_each_format() -> None:
    spent: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name in FORMATS:
            measured = await cost(name)
            spent[name] = min(spent.get(name, measured), measured)
    for name, milliseconds in spent.items():
        ratio = milliseconds / spent["pcm16@24000"]
        print(
            f"{name}: {milliseconds:.1f} ms of CPU for each second of a session, {ratio:.2f} of pcm16@24000"
        )
    assert spent["opus"] < 6 * spent["pcm16@24000"]


def spectrum(samples: Samples) -> npt.NDArray[np.float64]:
    """dB of bands up to 8 kHz, 94 times a second."""
    pieces = np.lib.stride_tricks.sliding_window_view(samples.astype(float), 512)[::256] * np.hanning(512)
    strength: npt.NDArray[np.float64] = 10 * np.log10(np.abs(np.fft.rfft(pieces)) ** 2 + 100)[:, 4:170]
    return strength


def distance(heard: Samples, said: Samples) -> float:
    """Log-spectral distance in dB where there is speech."""
    length = min(len(heard), len(said))
    ours, theirs = spectrum(heard[:length]), spectrum(said[:length])
    loud = theirs.mean(axis=1)
    spoken = loud > loud.max() - 35
    return float(np.sqrt(((ours - theirs)[spoken] ** 2).mean(axis=1)).mean())


def test_what_each_complexity_costs_and_gives() -> None:
    said = speech(24_000, 30)
    payload = said.tobytes()
    pieces = [payload[at : at + 960] for at in range(0, len(payload), 960)]
    print(version())
    spent: dict[tuple[int, int], float] = {}
    for bitrate in (24_000, 32_000):
        for complexity in (0, 1, 3, 5, 7, 10):
            settings = OpusSettings(bitrate, complexity=complexity)
            best, listening = 1e9, 1e9
            for _ in range(ROUNDS):
                encoder, decoder = Encoder(24_000, settings), Decoder(24_000)
                begun = time.process_time()
                made = [encoder.encode(piece) for piece in pieces]
                between = time.process_time()
                for packet in made:
                    decoder.decode(packet)
                best = min(best, between - begun)
                listening = min(listening, time.process_time() - between)
            spent[bitrate, complexity] = best
            heard = decoded(made)[156:]
            print(
                f"{bitrate} bit/s, complexity {complexity}: encode {best / 30 * 1000:.1f} ms/s,"
                f" decode {listening / 30 * 1000:.1f} ms/s, {distance(heard, said):.2f} dB off,"
                f" {sum(map(len, made)) * 8 / 30 / 1000:.1f} kbit/s"
            )
    assert spent[32_000, 0] < spent[24_000, 10]
