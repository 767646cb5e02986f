"""VoxEngine's raw media streams: start, media, stop as JSON text. Pure.

Sent: one stream for each source, told apart by tag. Received: streams of up to 10 s of audio that is given in
20 ms frames at real time; what the other side sends beyond that is discarded.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_realtime.audio import SampleFormat
from parley_realtime.client.pacing import Pacer
from parley_realtime.events import MediaChunk
from parley_realtime.formats import ENCODINGS

BUFFER_MS = 10_000
SILENCE_SECONDS = 1.0
MAX_STREAMS = 8
_PROVIDER_NAMES = {"pcmu": "ULAW", "pcma": "ALAW"}


def wire_name(encoding: str) -> str:
    """How a format of ours is called on the wire; ValueError: it has no name there."""
    name = _PROVIDER_NAMES.get(encoding, encoding)
    if name not in {str(known) for known in ENCODINGS}:
        choices = ", ".join(ENCODINGS)
        raise ValueError(f"encoding {encoding!r} has no place in a raw media stream: use one of {choices}")
    return name


class SentStream:
    """One source on its way out."""

    def __init__(self, encoding: str, tag: str | None, custom_parameters: Mapping[str, str]) -> None:
        self._name = wire_name(encoding)
        self._samples = next(samples for name, samples in ENCODINGS.items() if name == self._name)
        self._tag = {"tag": tag} if tag else {}
        self._custom = dict(custom_parameters)
        self._sequence = self._bytes = 0

    @property
    def _ms(self) -> int:
        return round(self._samples.ms(self._bytes))

    def start(self) -> str:
        """What begins the stream."""
        audio = {"encoding": self._name, "sampleRate": self._samples.rate, "channels": 1}
        return self._event("start", {**self._tag, "mediaFormat": audio, "customParameters": self._custom})

    def media(self, payload: bytes) -> str:
        """Audio; the timestamp is where it begins in the stream."""
        text = base64.b64encode(payload).decode("ascii")
        body = {**self._tag, "chunk": self._sequence, "timestamp": self._ms, "payload": text}
        self._bytes += len(payload)
        return self._event("media", body)

    def stop(self) -> str:
        """What ends the stream."""
        info = {"bytesSent": self._bytes, "duration": self._ms}
        return self._event("stop", {**self._tag, "mediaInfo": info})

    def _event(self, kind: str, body: dict[str, Any]) -> str:
        event = {"event": kind, "sequenceNumber": self._sequence, kind: body}
        self._sequence += 1
        return json.dumps(event, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream began, or begins anew in another format."""

    tag: str
    encoding: str
    audio: SampleFormat
    custom_parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sounding:
    """A stream is heard after silence."""

    tag: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Audio of a stream that is due."""

    tag: str
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Silent:
    """One second of silence, or the stream's end. `duration_ms` was heard since it sounded."""

    tag: str
    duration_ms: int


Received = Begun | Sounding | Frame | Silent


@dataclass(slots=True)
class _Stream:
    audio: SampleFormat
    pacer: Pacer
    stopped: bool = False
    sounding: bool = False
    last: float = 0.0
    heard_ms: float = 0.0


class ReceivedStreams:
    """What the other side sends. `take` text as it comes; `due(now)` gives what is to be heard now."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self.discarded_ms = 0.0
        """Audio beyond the buffer."""
        self.invalid = 0
        """Messages that are no raw media, or do not fit their stream."""

    def take(self, text: str, now: float) -> Begun | None:
        """One message; what cannot be used is counted and ignored."""
        try:
            message = json.loads(text)
            kind = message["event"]
            body = message.get(kind) or {}
            tag = str(body.get("tag") or "")
            match kind:
                case "start":
                    return self._start(tag, body)
                case "media":
                    self._media(tag, base64.b64decode(body["payload"], validate=True), now)
                case "stop":
                    self._streams[tag].stopped = True
                case _:
                    self.invalid += 1
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error):
            self.invalid += 1
        return None

    def _start(self, tag: str, body: Mapping[str, Any]) -> Begun:
        audio = body["mediaFormat"]
        name = str(audio["encoding"])
        samples = next((known for word, known in ENCODINGS.items() if word == name), None)
        if samples is None or audio.get("sampleRate", samples.rate) != samples.rate:
            raise ValueError(name)
        if audio.get("channels", 1) != 1 or (tag not in self._streams and len(self._streams) >= MAX_STREAMS):
            raise ValueError(tag)
        custom = body.get("customParameters")
        old = self._streams.get(tag)
        if old is None or old.audio != samples:
            self._streams[tag] = _Stream(samples, Pacer(samples, BUFFER_MS))
        else:
            old.stopped = False
        return Begun(tag, name, samples, dict(custom) if isinstance(custom, dict) else {})

    def _media(self, tag: str, payload: bytes, now: float) -> None:
        stream = self._streams[tag]
        if stream.stopped or len(payload) % stream.audio.sample_bytes:
            raise ValueError(tag)
        lost = stream.pacer.push(MediaChunk(payload, "", "", 0), now)
        self.discarded_ms += stream.audio.ms(lost)

    def clear(self) -> None:
        """Forget what was not heard yet."""
        for stream in self._streams.values():
            stream.pacer.clear()

    def deadline(self) -> float | None:
        """When `due` has something."""
        dues = []
        for stream in self._streams.values():
            due = stream.pacer.deadline()
            if due is not None:
                dues.append(due)
            elif stream.sounding:
                dues.append(stream.last if stream.stopped else stream.last + SILENCE_SECONDS)
        return min(dues, default=None)

    def due(self, now: float) -> list[Received]:
        """What is to be heard now, in order."""
        out: list[Received] = []
        for tag, stream in tuple(self._streams.items()):
            while isinstance(chunk := stream.pacer.take(now), MediaChunk):
                if not stream.sounding:
                    stream.sounding, stream.heard_ms = True, 0.0
                    out.append(Sounding(tag))
                length = stream.audio.ms(len(chunk.payload))
                stream.heard_ms += length
                stream.last = max(stream.last, now) + length / 1000
                out.append(Frame(tag, chunk.payload))
            over = stream.last + (0 if stream.stopped else SILENCE_SECONDS)
            if stream.sounding and stream.pacer.deadline() is None and now >= over:
                stream.sounding = False
                out.append(Silent(tag, round(stream.heard_ms)))
        return out
