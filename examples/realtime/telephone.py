"""A telephone of WAV files, for the programs beside this one: it speaks all but the last, and writes that.

The provider is OpenAI with `OPENAI_API_KEY`, or whatever `REALTIME_URL` names, such as a local provider:

    parley-local --port 8090 --brain script:examples/brains/realtime.yaml &
    export REALTIME_URL=http://127.0.0.1:8090
"""

from __future__ import annotations

import asyncio
import os
import sys
import wave
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import soxr
from parley_realtime import PCM16, MediaChunk, MediaSource, RealtimeAPIClient, RealtimeError

FRAME = PCM16.frame_bytes
SILENCE = bytes(FRAME)
PAUSE = 3.0
"""Seconds between two files that are spoken."""


def provider() -> dict[str, Any]:
    """Parameters of the client that say who the provider is."""
    found: dict[str, Any] = {"api_key": os.environ.get("OPENAI_API_KEY", "")}
    if url := os.environ.get("REALTIME_URL"):
        found["base_url"] = url
    return found


def speech(path: str) -> bytes:
    """The sound of a WAV file of any rate, in the client's format."""
    try:
        with wave.open(path) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                sys.exit(f"{path}: give a WAV file that is mono and has 16 bit")
            rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (OSError, EOFError, wave.Error) as error:
        sys.exit(f"{path}: {getattr(error, 'strerror', None) or error or 'it is empty'}")
    return bytes(soxr.resample(samples, rate, PCM16.rate).astype("<i2").tobytes())


class Telephone:
    """A media unit: `client.send_media_to(telephone)` lets it hear, `await talk(client)` lets it speak."""

    def __init__(self, speaks: list[str], hears: str) -> None:
        pause = bytes(int(PAUSE * PCM16.bytes_per_second))
        self._speech = pause.join(map(speech, speaks))
        self._hears = hears
        self._audio = bytearray()
        self._heard: defaultdict[str, int] = defaultdict(int)
        self.spoken = asyncio.Event()

    def heard_ms(self, item_id: str) -> int:
        """How much of an item of the conversation was heard."""
        return int(PCM16.seconds(self._heard[item_id]) * 1000)

    async def talk(self, client: RealtimeAPIClient) -> None:
        """Say the files in real time, then be silent until the call is over: a line always has sound."""
        loop = asyncio.get_running_loop()
        due, at = loop.time(), 0
        while client.error is None and client.state.value == "open":
            client.push_media(self._speech[at : at + FRAME] or SILENCE)
            at += FRAME
            if at >= len(self._speech):
                self.spoken.set()
            due += FRAME / PCM16.bytes_per_second
            await asyncio.sleep(due - loop.time())

    def hang_up(self) -> None:
        """Write the file of what was heard."""
        with wave.open(self._hears, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(PCM16.rate)
            file.writeframes(self._audio)

    # The four methods of a media unit. The client gives audio to `media` at the speed of the clock.

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """Nothing to prepare."""

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        self._audio += chunk.payload
        self._heard[chunk.item_id] += len(chunk.payload)

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """Nothing to do."""

    def media_cleared(self, source: MediaSource) -> None:
        """What was given has been heard: nothing waits here."""


def run(program: Callable[[Telephone], Awaitable[RealtimeError | None]]) -> None:
    """Run `program` with the telephone of the command line's files; its error is the exit."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} speaks.wav [speaks-next.wav ...] hears.wav")

    async def main() -> RealtimeError | None:
        telephone = Telephone(sys.argv[1:-1], sys.argv[-1])
        try:
            return await program(telephone)
        finally:
            telephone.hang_up()

    error: Exception | None
    try:
        error = asyncio.run(main())
    except (RealtimeError, TimeoutError) as exc:
        error = exc
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(f"error: {str(error) or type(error).__name__}" if error is not None else 0)
