"""A mixer: what several units send to it is heard as one by the units that it sends to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from parley_realtime.audio import Encoding, SampleFormat
from parley_realtime.client.parameters import SendMediaParameters
from parley_realtime.events import MediaChunk, MediaSource, MediaUnit
from parley_realtime.formats import CATCH_UP_SECONDS, FRAME_MS, FRAME_SECONDS
from parley_realtime.units.mixing import Feed, MixBus
from parley_realtime.units.outlets import Outlets

RATE = 24_000


class Mixer:
    """Sums its sources in frames of 20 ms, while any of them sounds. Use from one event loop.

    Each source may be ahead by 300 ms; beyond that its oldest audio is left out. `close()` ends it.
    """

    def __init__(self) -> None:
        self.media_format = SampleFormat(Encoding.PCM16, RATE)
        self._id = f"mixer_{uuid.uuid4().hex}"
        self._bus = MixBus(self.media_format)
        self._feeds: dict[str, Feed] = {}
        self._outlets = Outlets(self, self.media_format)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def id(self) -> str:
        """The mixer's own id."""
        return self._id

    def send_media_to(
        self, media_unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Let the unit hear all sources."""
        self._outlets.attach(media_unit, parameters)

    def stop_media_to(self, media_unit: MediaUnit) -> None:
        """The unit hears them no more."""
        self._outlets.detach(media_unit)

    def close(self) -> None:
        """Forget everything; nothing is sent any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for name in tuple(self._feeds):
            self._bus.remove(name)
        self._feeds.clear()

    # MediaUnit

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit."""
        self._feeds[source.id()] = self._bus.add(source.id(), self._came)

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """See MediaUnit."""
        feed = self._feeds.get(source.id())
        if feed is not None:
            feed.media(source, chunk)

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit: a last bit is heard without more to come."""
        feed = self._feeds.get(source.id())
        if feed is not None:
            feed.media_done(source, response_id=response_id, item_id=item_id, content_index=content_index)
            self._came()

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit."""
        feed = self._feeds.get(source.id())
        if feed is not None:
            feed.media_cleared(source)

    def media_stopped(self, source: MediaSource) -> None:
        """The source sends nothing more here."""
        if self._feeds.pop(source.id(), None) is not None:
            self._bus.remove(source.id())

    def _came(self) -> None:
        if self._timer is None and self._bus.sounding:
            loop = asyncio.get_running_loop()
            self._due = max(self._due, loop.time())
            self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        payload = self._bus.background(FRAME_MS)
        if payload is None:
            return
        self._outlets.send(payload)
        late = loop.time() - self._due
        self._due = self._due + FRAME_SECONDS if late < CATCH_UP_SECONDS else loop.time()
        self._timer = loop.call_at(self._due, self._tick)
