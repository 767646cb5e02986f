"""Media units for tests of the realtime client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from parley_realtime import MediaChunk, MediaSource


class RecordingUnit:
    """Keeps what it is told, in order, and lets a test wait for it."""

    def __init__(self, *, own_clock: bool = False) -> None:
        self.own_clock = own_clock
        self.calls: list[tuple[str, Any]] = []
        self.chunks: list[MediaChunk] = []
        self._news = asyncio.Event()

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        self._note("started", (source.id(), tag, encoding, dict(custom_parameters)))

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        self.chunks.append(chunk)
        self._note("media", chunk)

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        self._note("done", (response_id, item_id, content_index))

    def media_cleared(self, source: MediaSource) -> None:
        self._note("cleared", None)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @property
    def audio(self) -> bytes:
        return b"".join(chunk.payload for chunk in self.chunks)

    async def wait_for(self, name: str) -> None:
        """Wait until a call of this name has come."""
        async with asyncio.timeout(15):
            while name not in self.names():
                self._news.clear()
                await self._news.wait()

    async def wait_for_audio(self, size: int) -> None:
        async with asyncio.timeout(15):
            while len(self.audio) < size:
                self._news.clear()
                await self._news.wait()

    def _note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        self._news.set()
