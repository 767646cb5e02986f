"""A telephone made of two WAV files, for the programs beside this one: it speaks one and writes the other.

The provider is OpenAI with `OPENAI_API_KEY`, or whatever `REALTIME_URL` names, such as a local provider:

    parley-local --port 8090 &
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

from parley_realtime import PCM16, MediaChunk, MediaSource, RealtimeAPIClient, RealtimeError

FRAME = PCM16.frame_bytes
SILENCE = bytes(FRAME)


def provider() -> dict[str, Any]:
    """Parameters of the client that say who the provider is."""
    found: dict[str, Any] = {"api_key": os.environ.get("OPENAI_API_KEY", "")}
    if url := os.environ.get("REALTIME_URL"):
        found["base_url"] = url
    return found


class Telephone:
    """A media unit: `client.send_media_to(telephone)` lets it hear, `await talk(client)` lets it speak."""

    def __init__(self, speaks: str, hears: str) -> None:
        with wave.open(speaks) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (PCM16.rate, 1, 2):
                sys.exit(f"{speaks}: give a WAV file of 24 kHz, mono, 16 bit")
            self._speech = file.readframes(file.getnframes())
        self._hears = hears
        self._audio = bytearray()
        self._heard: defaultdict[str, int] = defaultdict(int)
        self.spoken = asyncio.Event()

    def heard_ms(self, item_id: str) -> int:
        """How much of an item of the conversation was heard."""
        return int(PCM16.seconds(self._heard[item_id]) * 1000)

    async def talk(self, client: RealtimeAPIClient) -> None:
        """Say the file in real time, then be silent until the call is over: a line is never without sound."""
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
    """Run `program` with the telephone of the command line's two files; its error is the exit."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} speaks.wav hears.wav")

    async def main() -> RealtimeError | None:
        telephone = Telephone(*sys.argv[1:])
        try:
            return await program(telephone)
        finally:
            telephone.hang_up()

    error: Exception | None
    try:
        error = asyncio.run(main())
    except (RealtimeError, TimeoutError) as exc:
        error = exc
    sys.exit(f"error: {str(error) or type(error).__name__}" if error is not None else 0)
