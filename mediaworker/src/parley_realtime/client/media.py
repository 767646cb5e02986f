"""From the provider's audio to media units: pacing, silence, clearing. No clock of its own, no I/O.

The shell passes `now` (monotonic seconds), asks `deadline()` and calls `on_deadline(now)`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from parley_realtime.client.parameters import SendMediaParameters, Statistics
from parley_realtime.events import MediaChunk, MediaSource, MediaUnit
from parley_realtime.formats import FRAME_SECONDS, AudioFormat

SILENCE_SECONDS = 1.0
_MAX_ACTIVE = 64


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one content part, in line behind its audio."""

    response_id: str
    item_id: str
    content_index: int


class Pacer:
    """A queue of audio that gives 20 ms frames at the rate at which they are to be played.

    The due time moves by the length of what was given and not by when it was asked for, so lateness does not
    add up. A frame never mixes content parts; the last one of a part may be shorter. Bounded: the newest
    audio is dropped.
    """

    def __init__(self, audio: AudioFormat, buffer_ms: int) -> None:
        self._format = audio
        self._max = audio.bytes_per_second * buffer_ms // 1000
        self._queue: deque[_Part | Done] = deque()
        self._due = 0.0
        self.size = 0

    def push(self, chunk: MediaChunk, now: float) -> int:
        """Returns the bytes that were dropped because the buffer is full."""
        dropped = max(0, self.size + len(chunk.payload) - self._max)
        dropped += -dropped % self._format.sample_bytes
        kept = chunk.payload[: len(chunk.payload) - dropped] if dropped < len(chunk.payload) else b""
        if kept:
            if not self._queue or self._starved():
                self._due = max(self._due, now)
            last = self._queue[-1] if self._queue else None
            if isinstance(last, _Part) and last.same_as(chunk):
                last.data += kept
            else:
                self._queue.append(
                    _Part(bytearray(kept), chunk.response_id, chunk.item_id, chunk.content_index)
                )
            self.size += len(kept)
        return len(chunk.payload) - len(kept)

    def done(self, done: Done) -> None:
        self._queue.append(done)

    def clear(self) -> None:
        self._queue.clear()
        self.size = 0

    def deadline(self) -> float | None:
        """When the next frame or end is due; None while there is nothing to give."""
        if not self._queue or self._starved():
            return None
        return self._due

    def take(self, now: float) -> MediaChunk | Done | None:
        """The next frame or end that is due at `now`, or None."""
        deadline = self.deadline()
        if deadline is None or deadline > now:
            return None
        head = self._queue[0]
        if isinstance(head, Done):
            self._queue.popleft()
            return head
        size = min(len(head.data), self._format.frame_bytes)
        payload = bytes(memoryview(head.data)[:size])
        del head.data[:size]
        self.size -= size
        if not head.data:
            self._queue.popleft()
        self._due += self._format.seconds(size) if size < self._format.frame_bytes else FRAME_SECONDS
        return MediaChunk(payload, head.response_id, head.item_id, head.content_index)

    def _starved(self) -> bool:
        head = self._queue[0]
        return len(self._queue) == 1 and isinstance(head, _Part) and len(head.data) < self._format.frame_bytes


@dataclass(slots=True)
class _Part:
    """Audio of one content part that waits to be played."""

    data: bytearray
    response_id: str
    item_id: str
    content_index: int

    def same_as(self, chunk: MediaChunk) -> bool:
        return (self.response_id, self.item_id, self.content_index) == (
            chunk.response_id,
            chunk.item_id,
            chunk.content_index,
        )


@dataclass(slots=True, eq=False)
class _Attachment:
    unit: MediaUnit
    tag: str | None
    custom_parameters: Mapping[str, str]
    pacer: Pacer | None
    muted: set[str] = field(default_factory=set)


MediaListener = Callable[[dict[str, Any]], None]


class MediaHub:
    """The media units of one client, and whether the provider's stream is sounding.

    `on_started` is told when audio begins to play, `on_ended` after one second of silence, `on_failed`
    what a unit raised. The stream plays at real time from its first chunk, so its end lies ahead while the
    provider sends faster.
    """

    def __init__(
        self,
        source: MediaSource,
        audio: AudioFormat,
        playout_buffer_ms: int,
        statistics: Statistics,
        on_started: MediaListener,
        on_ended: MediaListener,
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._source = source
        self._format = audio
        self._buffer_ms = playout_buffer_ms
        self._statistics = statistics
        self._on_started = on_started
        self._on_ended = on_ended
        self._on_failed = on_failed
        self._attached: list[_Attachment] = []
        self._active: dict[str, None] = {}
        self._cleared: set[str] = set()
        self._sounding = False
        self._play_until = 0.0
        self._played = 0.0

    def attach(self, unit: MediaUnit, parameters: SendMediaParameters | None) -> None:
        """Attach, or attach anew with other parameters. ValueError: unit or encoding needs another format."""
        encoding = parameters.encoding if parameters else None
        if encoding is not None and encoding != self._format.name:
            raise ValueError(
                f"encoding {encoding!r}: nothing is transcoded here, this client gives {self._format.name!r} "
                "(set output_format in its parameters)"
            )
        wanted = getattr(unit, "media_format", None)
        if isinstance(wanted, AudioFormat) and wanted != self._format:
            raise ValueError(
                f"the media unit takes {wanted.name!r} and this client gives {self._format.name!r}: "
                "set output_format in its parameters"
            )
        self.detach(unit)
        own_clock = getattr(unit, "own_clock", False) is True
        attachment = _Attachment(
            unit,
            parameters.tag if parameters else None,
            parameters.custom_parameters if parameters else {},
            None if own_clock else Pacer(self._format, self._buffer_ms),
        )
        self._attached.append(attachment)
        self._tell(
            attachment,
            lambda: unit.media_started(
                self._source,
                tag=attachment.tag,
                encoding=self._format.name,
                custom_parameters=attachment.custom_parameters,
            ),
        )

    def detach(self, unit: MediaUnit) -> None:
        """Stop; what was not yet handed over is forgotten. A unit that is not attached is ignored."""
        self._attached = [a for a in self._attached if a.unit is not unit]

    def detach_all(self) -> None:
        self._attached = []

    def response_created(self, response_id: str) -> None:
        self._active[response_id] = None
        while len(self._active) > _MAX_ACTIVE:
            self._forget(next(iter(self._active)))

    def response_done(self, response_id: str) -> None:
        self._forget(response_id)

    def _forget(self, response_id: str) -> None:
        self._active.pop(response_id, None)
        self._cleared.discard(response_id)
        for attachment in self._attached:
            attachment.muted.discard(response_id)

    def audio(self, chunk: MediaChunk, now: float) -> None:
        """Hand a chunk to every unit. Late audio of a response that was cleared is dropped and counted."""
        if chunk.response_id and chunk.response_id not in self._active:
            self.response_created(chunk.response_id)
        if chunk.response_id in self._cleared:
            self._statistics.late_chunks_dropped += 1
            return
        if not chunk.payload:
            return
        self._sound(self._format.seconds(len(chunk.payload)), now)
        for attachment in tuple(self._attached):
            if chunk.response_id in attachment.muted:
                self._statistics.late_chunks_dropped += 1
            elif attachment.pacer is not None:
                self._statistics.playout_bytes_dropped += attachment.pacer.push(chunk, now)
            else:
                self._tell_media(attachment, chunk)

    def audio_done(self, done: Done) -> None:
        for attachment in tuple(self._attached):
            if done.response_id in attachment.muted or done.response_id in self._cleared:
                continue
            if attachment.pacer is not None:
                attachment.pacer.done(done)
            else:
                self._tell_done(attachment, done)

    def clear(self, tag: str | None, now: float) -> None:
        """Forget what is queued, in the units too; the rest of running responses is not played either."""
        for attachment in tuple(self._attached):
            if tag is not None and attachment.tag != tag:
                continue
            attachment.muted.update(self._active)
            if attachment.pacer is not None:
                attachment.pacer.clear()
            self._tell(attachment, partial(attachment.unit.media_cleared, self._source))
        if tag is None:
            self._cleared.update(self._active)
            if self._sounding and self._play_until > now:
                self._played -= self._play_until - now
                self._play_until = now

    def deadline(self) -> float | None:
        """When `on_deadline` has something to do."""
        dues = [due for a in self._attached if a.pacer and (due := a.pacer.deadline()) is not None]
        if self._sounding:
            dues.append(self._play_until + SILENCE_SECONDS)
        return min(dues, default=None)

    def on_deadline(self, now: float) -> None:
        """Hand over every frame that is due, and report silence."""
        for attachment in tuple(self._attached):
            while attachment.pacer is not None and attachment in self._attached:
                item = attachment.pacer.take(now)
                if item is None:
                    break
                if isinstance(item, Done):
                    self._tell_done(attachment, item)
                else:
                    self._tell_media(attachment, item)
        if self._sounding and now >= self._play_until + SILENCE_SECONDS:
            self._sounding = False
            self._on_ended({"tag": self._tag(), "media_info": {"duration": round(self._played * 1000)}})

    def _sound(self, seconds: float, now: float) -> None:
        if not self._sounding:
            self._sounding = True
            self._play_until = now
            self._played = 0.0
            first = self._attached[0] if self._attached else None
            self._on_started(
                {
                    "tag": self._tag(),
                    "encoding": self._format.name,
                    "custom_parameters": dict(first.custom_parameters) if first else {},
                }
            )
        self._play_until = max(self._play_until, now) + seconds
        self._played += seconds

    def _tag(self) -> str | None:
        return self._attached[0].tag if self._attached else None

    def _tell_media(self, attachment: _Attachment, chunk: MediaChunk) -> None:
        self._tell(attachment, lambda: attachment.unit.media(self._source, chunk))

    def _tell_done(self, attachment: _Attachment, done: Done) -> None:
        self._tell(
            attachment,
            lambda: attachment.unit.media_done(
                self._source,
                response_id=done.response_id,
                item_id=done.item_id,
                content_index=done.content_index,
            ),
        )

    def _tell(self, attachment: _Attachment, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - another party's code: it loses its audio, the call goes on
            self._attached = [a for a in self._attached if a is not attachment]
            self._statistics.media_units_failed += 1
            self._on_failed(exc)
