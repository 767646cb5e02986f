"""Frames between a worker and a scenario's process: four bytes of length, then a JSON object. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""A frame that is longer ends the connection."""
MAX_ASKED_BYTES = 2 * 1024 * 1024
"""Of a frame that a scenario sends: the worker reads it beside its other calls."""
HEADER_BYTES = 4
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class WireError(Exception):
    """What came is no frame. The connection cannot be used any more."""


def encode(frame: Mapping[str, Any], most: int = MAX_FRAME_BYTES) -> bytes:
    """The bytes of a frame. WireError when it is too long or no JSON; never a half of one.

    Halves of characters (lone surrogates) become question marks.
    """
    try:
        text = json.dumps(frame, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        body = text.encode(errors="replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a frame must be JSON: {error}") from None
    if len(body) > most:
        raise WireError(f"a frame has {len(body)} bytes; at most {most} are taken")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes, most: int = MAX_FRAME_BYTES) -> int:
    """The length that a header announces. WireError when it is too long."""
    length = int.from_bytes(header, "big")
    if length > most:
        raise WireError(f"a frame announces {length} bytes; at most {most} are taken")
    return length


def decode(body: bytes) -> dict[str, Any]:
    """The object of a frame's body, in whole characters and numbers. WireError when it is none."""
    try:
        frame = json.loads(body, parse_constant=_no_number)
        if _SURROGATE.search(body):
            frame = json.loads(json.dumps(frame, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        raise WireError("a frame is not JSON") from None
    if not isinstance(frame, dict):
        raise WireError("a frame is not a JSON object")
    return frame


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


class Decoder:
    """Frames out of a stream of bytes; holds one unfinished frame at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The frames that are complete now. WireError: see `body_length` and `decode`."""
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + body_length(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER_BYTES:end])
            del self._buffer[:end]
            yield decode(body)
