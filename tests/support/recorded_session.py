"""Recorded sessions: JSON lines of every frame, without audio and secrets, that can be replayed.

The first line is `{"recording": 1, "shape": "ga" or "beta", "title": ...}`. Each further line is one of the
client's trace, `{"t": seconds, "sent" or "received": frame}`; an audio delta is
`{"type": "audio delta", "response_id", "item_id", "content_index", "bytes"}` and is replayed as so many bytes
of silence. A last line `{"heard": [names...], "audio": {item_id: bytes}}` says what listeners and media units
were given when it was recorded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parley_realtime.formats import DEFAULT_FORMAT
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.core import AudioDelta, Incoming, ProtocolCore, ServerEvent
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import ClientType, Shape

VERSION = 1
MAX_LINES = 100_000
MAX_AUDIO_BYTES = 16 * 1024 * 1024
SHAPES: Mapping[str, Shape] = {"ga": GA, "beta": BETA}
DELTA_TYPES = {"ga": "response.output_audio.delta", "beta": "response.audio.delta"}


class RecordingError(ValueError):
    """A recording that cannot be read; the text names the line and the remedy."""


@dataclass(frozen=True)
class Step:
    """One frame: `direction` is the client's view, `sent` or `received`."""

    t: float
    direction: str
    frame: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A session as it was. `heard` is None where nobody wrote it down."""

    shape: str
    title: str
    steps: tuple[Step, ...]
    heard: tuple[str, ...] | None = None
    audio: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The file's lines."""
        head = {"recording": VERSION, "shape": self.shape, "title": self.title}
        body = [{"t": round(step.t, 3), step.direction: step.frame} for step in self.steps]
        tail = [] if self.heard is None else [{"heard": list(self.heard), "audio": dict(self.audio)}]
        return [json.dumps(line, ensure_ascii=False) for line in (head, *body, *tail)]


def from_trace(lines: Iterable[str], shape: str, title: str) -> Recording:
    """The recording of a client whose parameter `trace` was a path. Raises RecordingError."""
    head = json.dumps({"recording": VERSION, "shape": shape, "title": title})
    kept = [line for line in lines if not line.startswith('{"trace"')]
    return parse([head, *kept])


def parse(lines: Iterable[str]) -> Recording:
    """Read a file's lines. Raises RecordingError."""
    parsed = [_line(text, number) for number, text in enumerate(lines, 1) if text.strip()]
    if len(parsed) > MAX_LINES:
        raise RecordingError(f"line {MAX_LINES}: a recording has at most so many lines")
    if not parsed or parsed[0].get("recording") != VERSION:
        raise RecordingError(f'line 1: must be {{"recording": {VERSION}, "shape": ..., "title": ...}}')
    shape, title = parsed[0].get("shape"), parsed[0].get("title", "")
    if not isinstance(shape, str) or shape not in SHAPES or not isinstance(title, str):
        raise RecordingError("line 1: shape must be 'ga' or 'beta' and title a string")
    heard: tuple[str, ...] | None = None
    audio: dict[str, int] = {}
    body = parsed[1:]
    if body and "heard" in body[-1]:
        heard, audio = _outcome(body.pop(), len(parsed))
    steps = tuple(_step(line, number) for number, line in enumerate(body, 2))
    if sum(s.frame["bytes"] for s in steps if s.frame.get("type") == "audio delta") > MAX_AUDIO_BYTES:
        raise RecordingError(
            f"line {len(parsed)}: a recording holds at most {MAX_AUDIO_BYTES} bytes of audio"
        )
    return Recording(shape, title, steps, heard, audio)


def _line(text: str, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"line {number}: is not JSON") from error
    if not isinstance(line, dict):
        raise RecordingError(f"line {number}: must be a JSON object")
    return line


def _step(line: dict[str, Any], number: int) -> Step:
    t = line.get("t")
    for direction in ("sent", "received"):
        frame = line.get(direction)
        if isinstance(frame, dict) and isinstance(t, int | float) and not isinstance(t, bool):
            if frame.get("type") == "audio delta" and not _size(frame.get("bytes")):
                raise RecordingError(f"line {number}: bytes must be a number of 0 to {MAX_AUDIO_BYTES}")
            return Step(float(t), direction, frame)
    raise RecordingError(f"line {number}: needs 't' (seconds) and 'sent' or 'received' (an object)")


def _size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AUDIO_BYTES


def _outcome(line: dict[str, Any], number: int) -> tuple[tuple[str, ...], dict[str, int]]:
    heard, audio = line["heard"], line.get("audio", {})
    if not isinstance(heard, list) or not all(isinstance(name, str) for name in heard):
        raise RecordingError(f"line {number}: 'heard' must be a list of names")
    if not isinstance(audio, dict) or not all(_size(size) for size in audio.values()):
        raise RecordingError(f"line {number}: 'audio' must map item ids to bytes")
    return tuple(heard), dict(audio)


def wire_text(recording: Recording, frame: Mapping[str, Any]) -> str:
    """The text of a received frame as it was on the wire, silence for its audio."""
    if frame.get("type") != "audio delta":
        return json.dumps(frame)
    rest = {key: value for key, value in frame.items() if key not in ("type", "bytes")}
    delta = base64.b64encode(bytes(frame["bytes"])).decode()
    return json.dumps({"type": DELTA_TYPES[recording.shape], **rest, "delta": delta})


@dataclass(frozen=True)
class Replayed:
    """What came of a replay: every frame decoded, the names listeners would be told, audio bytes by item."""

    incoming: Sequence[Incoming]
    heard: tuple[str, ...]
    audio: Mapping[str, int]


def replay(recording: Recording) -> Replayed:
    """Feed the received frames to the protocol core."""
    core = ProtocolCore(SHAPES[recording.shape], ClientType.REALTIME, DEFAULT_FORMAT, DEFAULT_FORMAT)
    incoming = [
        core.decode(wire_text(recording, step.frame))
        for step in recording.steps
        if step.direction == "received"
    ]
    audio: dict[str, int] = {}
    for one in incoming:
        if isinstance(one, AudioDelta):
            audio[one.chunk.item_id] = audio.get(one.chunk.item_id, 0) + len(one.chunk.payload)
    heard = tuple(one.name for one in incoming if isinstance(one, ServerEvent))
    return Replayed(incoming, heard, audio)
