"""Decoder and encoder of one connection, without I/O.

`decode` never raises on what the provider sent: it returns a `Malformed` that holds the typed error, and the
caller ends the connection. `encode` raises `InvalidEventError` on what the user gave.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import pybase64

from parley_realtime.errors import InvalidEventError, ProtocolError
from parley_realtime.events import AUDIO_DELTA_TYPES, MediaChunk
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.shape import ClientType, Event, Shape

MAX_EVENT_ID = 512
MAX_CONTENT_INDEX = 2**31 - 1
CUT_BYTES = 2048
"""From so much base64 on, audio is cut out of its frame before the frame is parsed."""
MAX_AROUND = 1024
"""No more than this stands before, and after, audio that is cut out."""
_QUOTE, _BACKSLASH, _SPACE = b'"\\ '
_APPEND_HEAD = b'{"type":"input_audio_buffer.append","audio":"'
_APPEND_TAIL = b'"}'
_UPDATED = frozenset({"session.updated", "transcription_session.updated"})
_UPDATES = frozenset({"session.update", "transcription_session.update"})
_NEEDS_FORMATS = frozenset({"response.create"})


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A decoded event that carries no audio: its wire type, the name listeners know, and the raw object."""

    type: str
    name: str
    payload: Event


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """Audio for media units."""

    chunk: MediaChunk


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that cannot be understood; the connection is to be ended with `error`."""

    error: ProtocolError


Incoming = ServerEvent | AudioDelta | Malformed


class ProtocolCore:
    """Encodes client events and decodes server frames in one shape; owns the audio formats both ways.

    Formats other than the provider's default (pcm16, 24 kHz) have to be told to it before the first audio and
    the first response: `needed_before` gives the update to send ahead where no update of the user did so.
    """

    def __init__(self, shape: Shape, kind: ClientType, inward: AudioFormat, outward: AudioFormat) -> None:
        self.shape = shape
        self.kind = kind
        self.inward = inward
        self.outward = outward
        self._formats_told = self._formats_in_force = inward.name == "pcm16" and outward.name == "pcm16"

    def decode(self, frame: str | bytes) -> Incoming:
        """One server frame. Broken JSON, a missing type or broken base64 give `Malformed`."""
        if frame.__class__ is bytes and (audio := self._cut(frame)) is not None:
            return audio
        return self.decode_whole(frame)

    def decode_whole(self, frame: str | bytes) -> Incoming:
        """As `decode`, by parsing all of it: the reference for what is cut out."""
        try:
            payload = _parsed(frame)
        except (ValueError, RecursionError) as exc:
            return Malformed(ProtocolError(f"the provider sent a frame that is not JSON ({_short(exc)})"))
        if not isinstance(payload, dict):
            return _malformed("a frame that is not a JSON object")
        kind = payload.get("type")
        if not isinstance(kind, str) or not kind:
            return _malformed("an event without a type")
        if kind in AUDIO_DELTA_TYPES:
            return self._audio(kind, payload)
        if kind in _UPDATED:
            self._formats_in_force = self._formats_told
        elif kind == "error" and not self._formats_in_force:
            # A provider discards an update with any error as a whole, the formats in it too.
            self._formats_told = False
        return ServerEvent(kind, self.shape.names.get(kind, self.shape.unknown_name), payload)

    def _cut(self, frame: bytes) -> AudioDelta | None:
        """Long audio of the usual shape, cut out of its frame: None when anything about it is unusual.

        What is left must be JSON with one object open where the cut was made, so that `delta` is the event's
        own; and nothing behind the cut may be another `delta`, however it is spelled.
        """
        at = frame.find(b'"delta":', 0, MAX_AROUND)
        if at < 1 or frame[at - 1] == _BACKSLASH or frame.count(b"{", 0, at) != 1:
            return None
        begin = at + 9 if frame[at + 8 : at + 9] == b'"' else at + 10
        end = frame.find(b'"', begin)
        if end - begin < CUT_BYTES or frame[begin - 1] != _QUOTE or frame[begin - 2] not in b": ":
            return None
        tail = frame[end:]
        if tail != b'"}' and (len(tail) > MAX_AROUND or b'"delta"' in tail or b"\\" in tail):
            return None
        try:
            rest = _decode(frame[:begin] + tail)
            audio = pybase64.b64decode(memoryview(frame)[begin:end], validate=True)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        kind = rest.get("type") if isinstance(rest, dict) else None
        if not isinstance(kind, str) or kind not in AUDIO_DELTA_TYPES:
            return None
        response_id, item_id = rest.get("response_id"), rest.get("item_id")
        index = rest.get("content_index")
        if not isinstance(response_id, str) or not isinstance(item_id, str) or not isinstance(index, int):
            return None
        if (
            not (response_id.isascii() and item_id.isascii() and 0 <= index <= MAX_CONTENT_INDEX)
            or len(audio) % self.outward.sample_bytes
        ):
            return None
        return AudioDelta(MediaChunk(audio, response_id, item_id, index))

    def _audio(self, kind: str, payload: Event) -> Incoming:
        delta = payload.get("delta")
        if not isinstance(delta, str):
            return _malformed(f"{kind} whose delta is not a string")
        response_id, item_id = _given(payload, "response_id", ""), _given(payload, "item_id", "")
        index = _given(payload, "content_index", 0)
        if not _is_id(response_id) or not _is_id(item_id) or not isinstance(index, int):
            return _malformed(f"{kind} with ids of the wrong kind")
        if not 0 <= index <= MAX_CONTENT_INDEX:
            return _malformed(f"{kind} with a content_index out of range")
        try:
            audio = _unbase64(delta)
        except ValueError as exc:
            return _malformed(f"{kind} whose delta is not base64 ({_short(exc)})")
        if len(audio) % self.outward.sample_bytes:
            return _malformed(
                f"{kind} with {len(audio)} bytes, not a whole number of {self.outward.name} samples"
            )
        return AudioDelta(MediaChunk(audio, response_id, item_id, index))

    def encode(self, event: Mapping[str, Any]) -> str:
        """The JSON text of a client event, audio formats replaced by the connector's own."""
        kind = event.get("type")
        if not isinstance(kind, str) or not kind:
            raise InvalidEventError("a client event needs a 'type' (a string such as 'response.create')")
        event_id = event.get("event_id")
        if event_id is not None and not (isinstance(event_id, str) and 0 < len(event_id) <= MAX_EVENT_ID):
            raise InvalidEventError(f"{kind}: event_id must be a string of 1 to {MAX_EVENT_ID} characters")
        owned = self.shape.own_formats(event, self.kind, self.inward, self.outward)
        try:
            text = json.dumps(owned, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidEventError(f"{kind}: cannot be written as JSON ({_short(exc)})") from exc
        if kind in _UPDATES:
            self._formats_told = True
        return text

    @property
    def wants_formats(self) -> bool:
        """Whether audio must wait for what `needed_before` gives."""
        return not self._formats_told

    def needed_before(self, kind: str) -> str | None:
        """The update that must go ahead of audio or of an event of type `kind`, once, or None."""
        if self._formats_told or (kind not in _NEEDS_FORMATS and kind != "input_audio_buffer.append"):
            return None
        return self.encode(self.shape.formats_update(self.kind, self.inward, self.outward))


def encode_append(audio: bytes | bytearray | memoryview) -> bytes:
    """The UTF-8 JSON of an `input_audio_buffer.append`."""
    return b"".join((_APPEND_HEAD, pybase64.b64encode(audio), _APPEND_TAIL))


_decode = msgspec.json.Decoder().decode


def _parsed(frame: str | bytes) -> Any:
    """As json.loads: what msgspec takes it takes with the same meaning, what it refuses json decides."""
    try:
        return _decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return json.loads(frame, parse_constant=_refuse_constant)


def _unbase64(text: str) -> bytes:
    """As binascii when it is strict; what pybase64 refuses binascii decides."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return binascii.a2b_base64(text, strict_mode=True)


def _malformed(what: str) -> Malformed:
    return Malformed(ProtocolError(f"the provider sent {what}"))


def _given(payload: Event, field: str, default: object) -> Any:
    """The field's value; some providers write null where a field is not used."""
    value = payload.get(field)
    return default if value is None else value


def _is_id(value: object) -> bool:
    """Text that UTF-8 can carry: JSON can also hold halves of surrogate pairs."""
    return isinstance(value, str) and (value.isascii() or not any(0xD800 <= ord(c) <= 0xDFFF for c in value))


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _short(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    return text if len(text) <= 120 else text[:117] + "..."
