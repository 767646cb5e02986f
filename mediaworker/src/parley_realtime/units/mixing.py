"""Several sources heard as one: sums with saturation, a bounded feed for each. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from parley_realtime.audio import SampleFormat, Samples, decode, encode
from parley_realtime.events import MediaChunk, MediaSource
from parley_realtime.formats import FRAME_MS

FEED_MS = 300
"""What one source may be ahead; beyond it its oldest audio is left out."""
PREBUFFER_MS = 100
"""What a feed gathers before it is heard: clocks differ, and conversion gives its audio in lumps of 40 ms."""
DUCKED = 0.25
"""How loud other sources are while somebody speaks over them (12 dB down)."""


class Feed:
    """One source, as a media unit in the bus's format: what came and was not mixed yet."""

    own_clock = True

    def __init__(self, audio: SampleFormat, on_media: Callable[[], None] = lambda: None) -> None:
        self.media_format = audio
        self._on_media = on_media
        self._chunks: deque[Samples] = deque()
        self._size = 0
        self._flowing = False
        self._done = False
        self.dropped_ms = 0.0

    @property
    def sounding(self) -> bool:
        """True when it has something to be heard now."""
        if self._done:
            return self._size > 0
        # A source that goes on and has less than a frame is not heard, but gathers anew.
        need = FRAME_MS if self._flowing else PREBUFFER_MS
        return self._size >= need * self.media_format.rate // 1000

    def take(self, count: int) -> Samples:
        """The next `count` samples; fewer when there are no more."""
        if count <= 0:
            return np.zeros(0, np.int16)
        self._flowing = self.sounding
        if not self._flowing:
            return np.zeros(0, np.int16)
        taken: list[Samples] = []
        while count > 0 and self._chunks:
            head = self._chunks.popleft()
            if len(head) > count:
                self._chunks.appendleft(head[count:])
                head = head[:count]
            taken.append(head)
            count -= len(head)
            self._size -= len(head)
        return np.concatenate(taken)

    # MediaUnit

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit."""
        self._done = False

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """See MediaUnit."""
        samples = decode(chunk.payload, self.media_format.encoding)
        self._done = False
        self._chunks.append(samples)
        self._size += len(samples)
        while self._size > FEED_MS * self.media_format.rate // 1000 and len(self._chunks) > 1:
            lost = len(self._chunks.popleft())
            self._size -= lost
            self.dropped_ms += lost * 1000 / self.media_format.rate
        self._on_media()

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit: a last bit is heard without more to come."""
        self._done = True

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit."""
        self._chunks.clear()
        self._size = 0
        self._flowing = False


class MixBus:
    """Mixes feeds into a main stream, or alone where there is none. Bytes in and out in the bus's format.

    With `duck` the others are 12 dB down while the main stream is heard; the change takes one call, without
    a click.
    """

    def __init__(self, audio: SampleFormat, *, duck: bool = True) -> None:
        self.audio = audio
        self._under = DUCKED if duck else 1.0
        self._feeds: dict[str, Feed] = {}
        self._gain = 1.0

    def __len__(self) -> int:
        return len(self._feeds)

    def add(self, name: str, on_media: Callable[[], None] = lambda: None) -> Feed:
        """A new feed; one of the same name is replaced. `on_media` is called when audio came for it."""
        feed = self._feeds[name] = Feed(self.audio, on_media)
        return feed

    def remove(self, name: str) -> Feed | None:
        """The feed is heard no more; None when there is none of that name."""
        return self._feeds.pop(name, None)

    @property
    def sounding(self) -> bool:
        """True when `background` has something."""
        return any(feed.sounding for feed in self._feeds.values())

    def over(self, payload: bytes) -> bytes:
        """A frame of the main stream with the feeds under it."""
        size = len(payload) // self.audio.sample_bytes
        others = self._sum(size, self._under)
        if others is None:
            return payload
        return self._encoded(others + decode(payload, self.audio.encoding))

    def background(self, ms: int) -> bytes | None:
        """A frame of the feeds alone; None when they are silent."""
        others = self._sum(self.audio.rate * ms // 1000, 1.0)
        return None if others is None else self._encoded(others)

    def _sum(self, count: int, gain: float) -> npt.NDArray[np.float64] | None:
        before, self._gain = self._gain, gain
        total: npt.NDArray[np.float64] | None = None
        for feed in self._feeds.values():
            taken = feed.take(count)
            if len(taken):
                total = np.zeros(count) if total is None else total
                total[: len(taken)] += taken
        if total is None:
            return None
        return total * (np.linspace(before, gain, count) if before != gain else gain)

    def _encoded(self, samples: npt.NDArray[np.float64]) -> bytes:
        return encode(np.clip(np.rint(samples), -32768, 32767).astype(np.int16), self.audio.encoding)
