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

from parley_realtime.errors import InvalidEventError, ProtocolError
from parley_realtime.events import AUDIO_DELTA_TYPES, MediaChunk
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.shape import ClientType, Event, Shape

MAX_EVENT_ID = 512
MAX_CONTENT_INDEX = 2**31 - 1
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
        try:
            payload = json.loads(frame, parse_constant=_refuse_constant)
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

    def _audio(self, kind: str, payload: Event) -> Incoming:
        delta, index = payload.get("delta"), _given(payload, "content_index", 0)
        response_id, item_id = _given(payload, "response_id", ""), _given(payload, "item_id", "")
        if not isinstance(delta, str):
            return _malformed(f"{kind} whose delta is not a string")
        if not _is_id(response_id) or not _is_id(item_id) or not isinstance(index, int):
            return _malformed(f"{kind} with ids of the wrong kind")
        if not 0 <= index <= MAX_CONTENT_INDEX:
            return _malformed(f"{kind} with a content_index out of range")
        try:
            audio = binascii.a2b_base64(delta, strict_mode=True) if delta else b""
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
    return b"".join((_APPEND_HEAD, binascii.b2a_base64(audio, newline=False), _APPEND_TAIL))


def _malformed(what: str) -> Malformed:
    return Malformed(ProtocolError(f"the provider sent {what}"))


def _given(payload: Event, field: str, default: object) -> Any:
    """The field's value; some providers write null where a field is not used."""
    value = payload.get(field)
    return default if value is None else value


def _is_id(value: object) -> bool:
    """Text that UTF-8 can carry: JSON can also hold halves of surrogate pairs."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _short(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    return text if len(text) <= 120 else text[:117] + "..."
