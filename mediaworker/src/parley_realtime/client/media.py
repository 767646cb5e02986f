"""From the provider's audio to media units: conversion, pacing, silence, clearing. No clock, no I/O.

The shell passes `now` (monotonic seconds), asks `deadline()` and calls `on_deadline(now)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from parley_realtime.audio import Converter, converter
from parley_realtime.client.pacing import Done, Pacer
from parley_realtime.client.parameters import SendMediaParameters, Statistics
from parley_realtime.events import MediaChunk, MediaSource, MediaUnit
from parley_realtime.formats import AudioFormat, encoding_name, wanted_format

SILENCE_SECONDS = 1.0
_MAX_ACTIVE = 64


@dataclass(slots=True, eq=False)
class _Attachment:
    """One unit. Its pacer holds audio in the unit's format; `convert` is None where none is needed."""

    unit: MediaUnit
    tag: str | None
    custom_parameters: Mapping[str, str]
    encoding: str
    sample_bytes: int
    convert: Converter | None
    pacer: Pacer | None
    muted: set[str] = field(default_factory=set)
    half: bytes = b""

    def converted(self, chunk: MediaChunk) -> MediaChunk:
        """The chunk in the unit's format; perhaps empty, as conversion trails. Half a sample waits."""
        if self.convert is None:
            return chunk
        whole = self.half + chunk.payload
        size = len(whole) - len(whole) % self.sample_bytes
        self.half = whole[size:]
        payload = self.convert.convert(whole[:size])
        return MediaChunk(payload, chunk.response_id, chunk.item_id, chunk.content_index)

    def rest(self, done: Done) -> MediaChunk | None:
        """What conversion still held of the part that ends."""
        self.half = b""
        tail = self.convert.flush() if self.convert is not None else b""
        return MediaChunk(tail, done.response_id, done.item_id, done.content_index) if tail else None

    def forget(self) -> None:
        self.half = b""
        if self.convert is not None:
            self.convert.flush()
        if self.pacer is not None:
            self.pacer.clear()


@dataclass(slots=True)
class _Sound:
    """The stream under one tag plays at real time from its first chunk on. Times and lengths in seconds."""

    until: float
    played: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        self.until = max(self.until, now) + seconds
        self.played += seconds

    def cut(self, now: float) -> None:
        if self.until > now:
            self.played -= self.until - now
            self.until = now


MediaListener = Callable[[dict[str, Any]], None]


class MediaHub:
    """The media units of one client, and whether the provider's stream is sounding.

    `on_started` is told when audio begins to play, `on_ended` after one second of silence, `on_failed`
    what a unit raised. Units attached under one tag (or without any) are one stream; each stream has its own
    beginning and end. It plays at real time from its first chunk, so its end lies ahead while the provider
    sends faster. Without units the audio counts as one stream without a tag.
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
        self._sounds: dict[str | None, _Sound] = {}

    def attach(self, unit: MediaUnit, parameters: SendMediaParameters | None, now: float) -> None:
        """Attach, or attach anew with other parameters. ValueError: the encoding cannot be had."""
        given = self._format.samples
        samples = wanted_format(unit, parameters.encoding if parameters else None, given)
        own_clock = getattr(unit, "own_clock", False) is True
        attachment = _Attachment(
            unit,
            parameters.tag if parameters else None,
            parameters.custom_parameters if parameters else {},
            encoding_name(samples),
            given.sample_bytes,
            converter(given, samples) if samples != given else None,
            None if own_clock else Pacer(samples, self._buffer_ms),
        )
        self._attached = [a for a in self._attached if a.unit is not unit] + [attachment]
        self._hush(now)
        self._tell(
            attachment,
            lambda: unit.media_started(
                self._source,
                tag=attachment.tag,
                encoding=attachment.encoding,
                custom_parameters=attachment.custom_parameters,
            ),
        )

    def detach(self, unit: MediaUnit, now: float) -> None:
        """Stop; what was not yet handed over is forgotten. A unit that is not attached is ignored."""
        gone = [a for a in self._attached if a.unit is unit]
        self._attached = [a for a in self._attached if a.unit is not unit]
        self._hush(now)
        self._tell_stopped(gone)

    def _hush(self, now: float) -> None:
        """Streams that reach no unit any more are silent from now on."""
        tags = {a.tag for a in self._attached} or {None}
        for tag, sound in self._sounds.items():
            if tag not in tags:
                sound.cut(now)

    def detach_all(self) -> None:
        gone, self._attached = self._attached, []
        self._tell_stopped(gone)

    def _tell_stopped(self, gone: list[_Attachment]) -> None:
        for attachment in gone:
            stopped = getattr(attachment.unit, "media_stopped", None)
            if callable(stopped):
                self._tell(attachment, partial(stopped, self._source))

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
        if self._passed_on(chunk, now):
            return
        hearing = [a for a in self._attached if chunk.response_id not in a.muted]
        self._statistics.late_chunks_dropped += len(self._attached) - len(hearing)
        if hearing or not self._attached:
            self._sound(hearing, self._format.seconds(len(chunk.payload)), now)
        for attachment in hearing:
            self._give(attachment, attachment.converted(chunk), now)

    def _passed_on(self, chunk: MediaChunk, now: float) -> bool:
        """The usual case, for less: one unit, sounding, that takes chunks as they come."""
        if len(self._attached) != 1:
            return False
        only = self._attached[0]
        if only.pacer is not None or only.convert is not None or only.muted:
            return False
        sound = self._sounds.get(only.tag)
        if sound is None:
            return False
        sound.add(self._format.seconds(len(chunk.payload)), now)
        self._tell(only, partial(only.unit.media, self._source, chunk))
        return True

    def _give(self, attachment: _Attachment, chunk: MediaChunk, now: float) -> None:
        if attachment not in self._attached or not chunk.payload:
            return
        if attachment.pacer is not None:
            self._statistics.playout_bytes_dropped += attachment.pacer.push(chunk, now)
        else:
            self._tell_media(attachment, chunk)

    def audio_done(self, done: Done, now: float) -> None:
        """A content part is complete."""
        for attachment in tuple(self._attached):
            if done.response_id in attachment.muted or done.response_id in self._cleared:
                continue
            rest = attachment.rest(done)
            if rest is not None:
                self._give(attachment, rest, now)
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
            attachment.forget()
            self._tell(attachment, partial(attachment.unit.media_cleared, self._source))
        if tag is None:
            self._cleared.update(self._active)
        for name, sound in self._sounds.items():
            if tag is None or name == tag:
                sound.cut(now)

    def deadline(self) -> float | None:
        """When `on_deadline` has something to do."""
        dues = [due for a in self._attached if a.pacer and (due := a.pacer.deadline()) is not None]
        dues += [sound.until + SILENCE_SECONDS for sound in self._sounds.values()]
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
        for tag, sound in tuple(self._sounds.items()):
            if now >= sound.until + SILENCE_SECONDS:
                del self._sounds[tag]
                self._on_ended({"tag": tag, "media_info": {"duration": round(sound.played * 1000)}})

    def _sound(self, hearing: list[_Attachment], seconds: float, now: float) -> None:
        streams: dict[str | None, _Attachment | None] = {None: None} if not hearing else {}
        for attachment in hearing:
            streams.setdefault(attachment.tag, attachment)
        for tag, first in streams.items():
            sound = self._sounds.get(tag)
            if sound is None:
                encoding = first.encoding if first else self._format.name
                parameters = dict(first.custom_parameters) if first else {}
                started = {"tag": tag, "encoding": encoding, "custom_parameters": parameters}
                sound = self._sounds[tag] = _Sound(now)
                self._on_started(started)
            sound.add(seconds, now)

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
