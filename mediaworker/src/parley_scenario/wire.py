"""Frames between a worker and a scenario's process: four bytes of length, then a JSON object. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""A frame that is longer ends the connection."""
HEADER_BYTES = 4


class WireError(Exception):
    """What came is no frame. The connection cannot be used any more."""


def encode(frame: Mapping[str, Any]) -> bytes:
    """The bytes of a frame. WireError when it is too long or no JSON; never a half of one."""
    try:
        body = json.dumps(frame, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a frame must be JSON: {error}") from None
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"a frame has {len(body)} bytes; at most {MAX_FRAME_BYTES} are taken")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """The length that a header announces. WireError when it is too long."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame announces {length} bytes; at most {MAX_FRAME_BYTES} are taken")
    return length


def decode(body: bytes) -> dict[str, Any]:
    """The object of a frame's body. WireError when it is none."""
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("a frame is not JSON") from None
    if not isinstance(frame, dict):
        raise WireError("a frame is not a JSON object")
    return frame


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
