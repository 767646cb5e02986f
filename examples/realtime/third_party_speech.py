"""The model writes, a voice of your own speaks: sentence by sentence, and silent when the caller interrupts.

    python examples/realtime/third_party_speech.py speaks.wav hears.wav

`SPEECH_COMMAND` is a program that reads text and writes a WAV file of 24 kHz, mono, 16 bit, to standard
output; without it every character is a short tone.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import re
import shlex
import struct
import wave

from parley_realtime import (
    PCM16,
    MediaChunk,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    RealtimeError,
    RealtimeEvent,
    create_realtime_api_client,
)
from parley_realtime.payloads import ga
from telephone import FRAME, Telephone, provider, run

SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)
PATIENCE = 10.0


async def speech(text: str) -> bytes:
    """PCM16 of `text`."""
    if command := os.environ.get("SPEECH_COMMAND"):
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate(text.encode())
        with wave.open(io.BytesIO(out)) as file:
            return bytes(file.readframes(file.getnframes()))
    samples = (9000 * math.sin(n * (ord(c) % 64 + 20) / 400) for c in text for n in range(PCM16.rate // 25))
    return b"".join(struct.pack("<h", int(sample)) for sample in samples)


class Voice:
    """Says sentences one after the other, in real time, to the telephone; each is made while one plays."""

    def __init__(self, client: RealtimeAPIClient, telephone: Telephone) -> None:
        self._client, self._telephone = client, telephone
        self._response = self._cut_off = self._text = ""
        self._sentences: asyncio.Queue[str] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())
        self.idle = asyncio.Event()
        client.add_event_listener(RealtimeAPIEvents.ResponseOutputTextDelta, self._written)
        client.add_event_listener(RealtimeAPIEvents.ResponseOutputTextDone, self._finished)
        client.add_event_listener(RealtimeAPIEvents.InputAudioBufferSpeechStarted, self._interrupted)

    def _written(self, event: RealtimeEvent[RealtimeAPIClient, ga.Data[ga.ResponseOutputTextDelta]]) -> None:
        self._response = event.data["payload"]["response_id"]
        if self._response == self._cut_off:
            return
        self.idle.clear()
        self._text += event.data["payload"]["delta"]
        while sentence := SENTENCE.match(self._text):
            self._sentences.put_nowait(sentence[0].strip())
            self._text = self._text[sentence.end() :]

    def _finished(self, _: object) -> None:
        if self._text.strip():
            self._sentences.put_nowait(self._text.strip())
        self._text = ""

    def _interrupted(self, _: object) -> None:
        self.stop()
        self._cut_off, self._text, self._sentences = self._response, "", asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sentence = await self._sentences.get()
            print("agent:", sentence)
            audio, due = await speech(sentence), loop.time()
            for at in range(0, len(audio), FRAME):
                self._telephone.media(self._client, MediaChunk(audio[at : at + FRAME], "", "", 0))
                due += FRAME / PCM16.bytes_per_second
                await asyncio.sleep(due - loop.time())
            if self._sentences.empty():
                self.idle.set()


async def call(telephone: Telephone) -> RealtimeError | None:
    client = await create_realtime_api_client(RealtimeAPIClientParameters(**provider()))
    voice = Voice(client, telephone)
    client.session_update({"session": {"output_modalities": ["text"], "instructions": "Be brief."}})
    talking = asyncio.create_task(telephone.talk(client))
    await telephone.spoken.wait()
    async with asyncio.timeout(60):
        await voice.idle.wait()
    client.close()
    voice.stop()
    error = await client.wait_closed()
    await talking
    return error


if __name__ == "__main__":
    run(call)
