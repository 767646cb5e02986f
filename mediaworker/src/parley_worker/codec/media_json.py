"""Media streams of JSON text frames: what their kinds have in common. Text in, core types out; no I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from parley_worker.codec.media_pb import StartMessage
from parley_worker.core import events as ev
from parley_worker.core.effects import ToLeg
from parley_worker.core.fields import text_of
from parley_worker.core.media_path import OutFrame

Frame = MutableMapping[str, Any]
MAX_CREDENTIAL = 512
PLAYOUT_BUFFER_MS = 60
"""What lies between a frame that left and the caller's ear is not known; marks soon tell it better."""


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """A frame of the caller, as `SessionPort.leg_audio` takes it."""

    payload: bytes = field(repr=False)
    sequence: int
    media_time_ms: int


class Dialect(Protocol):
    """One connection of a kind of caller. Pure: it keeps what the connection's own frames said.

    It is a `Wire` towards the caller, too.
    """

    def begin(self, text: str) -> StartMessage | ev.LegRefusal | None:
        """A frame before the start; None when the start is still to come."""

    def read(self, text: str) -> CallerAudio | ev.LegCommand | ev.LegRefusal | None:
        """A frame after the start; None when it means nothing here. A refusal ends the leg."""

    def write(self, message: ToLeg) -> Frame | None: ...

    def write_audio(self, frame: OutFrame, sequence: int) -> Frame: ...

    def size(self, message: Frame) -> int: ...

    def audio_size(self, frame: OutFrame) -> int: ...

    def closed(self, code: int | None) -> ev.LegCommand | None:
        """What the end of the connection means, by its close code: a hang-up, or None for a lost caller."""

    def last(self) -> Frame | None:
        """What is said before the worker closes the connection of a session that is over."""


def parse(text: str) -> dict[str, Any] | ev.LegRefusal:
    """A JSON object with an `event`."""
    try:
        frame: Any = json.loads(text)
    except (ValueError, RecursionError):
        return invalid("frame-not-json", "the frame is not JSON: send JSON objects as text", "frame")
    if not isinstance(frame, dict) or not isinstance(frame.get("event"), str):
        return invalid("frame-without-event", "the frame has no event: name what it is", "event")
    return frame


def whole(values: Mapping[str, Any], name: str) -> int | None:
    """A whole number from 0 on, also written as text; None for anything else."""
    found = values.get(name)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 15:
        return int(found)
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 10**15:
        return found
    return None


def caller_audio(media: Mapping[str, Any]) -> CallerAudio | ev.LegRefusal:
    """`media` with chunk (from 1), timestamp (ms) and payload (Base64)."""
    chunk = whole(media, "chunk")
    if not chunk:
        return invalid("chunk-invalid", "media.chunk is not a whole number from 1 on", "media.chunk")
    try:
        payload = base64.b64decode(text_of(media, "payload"), validate=True)
    except (binascii.Error, ValueError):
        return invalid("payload-invalid", "media.payload is not Base64", "media.payload")
    return CallerAudio(payload, chunk, whole(media, "timestamp") or 0)


def audio_text(payload: bytes) -> str:
    """Audio as Base64."""
    return base64.b64encode(payload).decode("ascii")


FRAME_BYTES = 150
"""What a frame takes as text beside its audio, about."""


def audio_size(frame: OutFrame) -> int:
    """About the bytes of a frame of audio as text, and not less."""
    return FRAME_BYTES + (len(frame.payload) + 2) // 3 * 4


def ticket(in_path: str, parameters: Mapping[str, Any]) -> str | ev.LegRefusal:
    """The ticket of the path, or that of the start's customParameters; they may not differ."""
    given = text_of(parameters, "ticket")
    if in_path and given and in_path != given:
        return invalid(
            "ticket-ambiguous", "path and customParameters name different tickets: give one", "ticket"
        )
    found = given or in_path
    if not found or len(found) > MAX_CREDENTIAL:
        words = "no ticket" if not found else "a ticket that is too long"
        return ev.LegRefusal(
            ev.Status.UNAUTHENTICATED,
            "credential-missing",
            f"start has {words}: give customParameters.ticket, or the ticket as the last part of the path",
            "start.customParameters.ticket",
        )
    return found


def invalid(reason: str, message: str, name: str) -> ev.LegRefusal:
    """A refusal for a frame of bad form."""
    return ev.LegRefusal(ev.Status.INVALID_ARGUMENT, reason, message, name)
