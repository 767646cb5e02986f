"""A stereo recording, written as it goes: the caller left, the agent right as it was heard.

The event loop only appends to a bounded queue; conversion, encoding and writing happen about once a second
in a thread. When the queue is full, audio is left out and counted, and silence lies in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from parley_realtime.audio import Encoding, SampleFormat
from parley_realtime.events import MediaChunk, MediaSource
from parley_realtime.units.encoders import Encoder, make_encoder
from parley_realtime.units.storage import RecordingError, Sink
from parley_realtime.units.timeline import PartKey, Timeline

FLUSH_SECONDS = 1.0
MAX_QUEUED_BYTES = 16 * 1024 * 1024
MAX_QUEUED_CHANGES = 100_000
Change = Callable[[Timeline], None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finished recording. `dropped_ms` of audio were left out because writing could not follow."""

    url: str
    duration_ms: int
    size: int
    dropped_ms: int = 0


class Recording:
    """One file on its way. `now` of every method is seconds on one monotonic clock.

    `run()` writes until `stop()` and returns what was recorded; everything else returns at once.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        format: str,
        rate: int,
        executor: Executor,
        clock: Callable[[], float],
        hold: float = 1.0,
        flush_seconds: float = FLUSH_SECONDS,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._sink, self._executor, self._clock = sink, executor, clock
        self._make: Callable[[], Encoder] = partial(make_encoder, format, rate)
        self._rate, self._flush = rate, flush_seconds
        self._started = clock()
        self._timeline = Timeline(rate, self._started, hold)
        self._encoder: Encoder | None = None
        self._changes: deque[Change] = deque()
        self._queued = 0
        self._max = max_queued_bytes
        self._size = 0
        self._dropped_ms = 0.0
        self._ended_at: float | None = None
        self._end = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it will be."""
        return self._sink.url

    # Said by the media path; must be cheap

    def left(self, now: float, payload: bytes, audio: SampleFormat) -> None:
        """The caller's audio, as it came."""
        if self._room(payload, audio):
            self._changes.append(lambda line: line.left(now, payload, audio))

    def right(
        self, now: float, payload: bytes, audio: SampleFormat, key: PartKey = ("", 0), position_ms: float = 0
    ) -> None:
        """Audio sent to the caller."""
        if self._room(payload, audio):
            self._changes.append(lambda line: line.right(now, payload, audio, key, position_ms))

    def cut(self, key: PartKey, end_ms: float) -> None:
        """Nothing of this part past `end_ms` was heard."""
        self._change(lambda line: line.cut(key, end_ms))

    def cleared(self, now: float) -> None:
        """The caller's player was emptied."""
        self._change(lambda line: line.cleared(now))

    def hush(self, now: float) -> None:
        """The caller is gone: nothing sent so far is heard any more."""
        self._change(lambda line: line.hush(now))

    def buffer(self, seconds: float) -> None:
        """How much the caller's player holds before it plays."""

        def change(line: Timeline) -> None:
            line.buffer = seconds

        self._change(change)

    def stop(self, now: float) -> None:
        """End it here."""
        if self._ended_at is None:
            self._ended_at = now
            self._end.set()

    def _change(self, change: Change) -> None:
        if len(self._changes) < MAX_QUEUED_CHANGES and self._ended_at is None:
            self._changes.append(change)

    def _room(self, payload: bytes, audio: SampleFormat) -> bool:
        if self._ended_at is not None:
            return False
        if self._queued + len(payload) > self._max or len(self._changes) >= MAX_QUEUED_CHANGES:
            self._dropped_ms += audio.ms(len(payload))
            return False
        self._queued += len(payload)
        return True

    # Written by one task

    async def run(self) -> Recorded:
        """Write until `stop`. RecordingError: it failed; what was written by then stays where it is."""
        try:
            await self._sink.open()
            last = False
            while not last:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._flush):
                        await self._end.wait()
                last = self._end.is_set()
                await self._write(last)
            await self._sink.finish(self._header())
        except BaseException:
            self.stop(self._clock())
            await self._sink.abandon()
            raise
        finally:
            self._changes.clear()
        dropped = round(self._dropped_ms + self._timeline.dropped_ms)
        length = self._timeline.written * 1000 // self._rate
        return Recorded(self._sink.url, length, self._size, dropped)

    async def _write(self, last: bool) -> None:
        changes, self._changes = self._changes, deque()
        self._queued = 0
        loop = asyncio.get_running_loop()
        try:
            data = await loop.run_in_executor(self._executor, self._encode, changes, self._clock(), last)
        except (ValueError, RuntimeError, ImportError) as exc:
            raise RecordingError(f"the recording cannot be encoded: {type(exc).__name__}", self.url) from exc
        self._size += len(data)
        await self._sink.write(data, self._header())

    def _header(self) -> bytes:
        return self._encoder.header(self._size) if self._encoder is not None else b""

    def _encode(self, changes: deque[Change], now: float, last: bool) -> bytes:
        """In a thread; one call at a time."""
        if self._encoder is None:
            self._encoder = self._make()
        for change in changes:
            change(self._timeline)
        if not last:
            return self._encoder.encode(self._timeline.take(now))
        assert self._ended_at is not None
        data = self._encoder.encode(self._timeline.finish(self._ended_at))
        return data + self._encoder.finish()


class RecorderUnit:
    """One side of a recording as a media unit: `client.send_media_to(RecorderUnit(recording, "right"))`."""

    def __init__(
        self, recording: Recording, side: str, clock: Callable[[], float], rate: int = 24_000
    ) -> None:
        if side not in ("left", "right"):
            raise ValueError(f"side {side!r}: use left or right")
        self._put = recording.left if side == "left" else recording.right
        self._clock = clock
        self.media_format = SampleFormat(Encoding.PCM16, rate)

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit."""

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """See MediaUnit: frames come paced, so each is heard when it comes."""
        self._put(self._clock(), chunk.payload, self.media_format)

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit."""

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit: what was not handed over yet is never recorded."""
