"""Caller audio straight into the socket, while nothing else has to be done for it. No I/O of its own.

This runs for every 20 ms of every client, so it knows nothing but that way. A connection opens it while its
socket takes more and nothing waits to be sent, and shuts it else; whatever it cannot do goes around.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parley_realtime.client.parameters import Statistics
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.core import encode_append
from parley_realtime.protocol.tape import InputTape

MOST_FRAMES: Final = 5
"""Of 20 ms, in an append that is sent as it came."""


class Uplink:
    """See the module. `around` takes what cannot be sent at once; `tape`, if any, keeps what goes out."""

    def __init__(self, audio: AudioFormat, around: Callable[[bytes], None]) -> None:
        self._around = around
        self.tape: InputTape | None = None
        self._name = audio.name
        self._sample = audio.sample_bytes
        self._least, self._usual = audio.append_bytes
        self._most = audio.frame_bytes * MOST_FRAMES
        self._send: Callable[[bytes], None] | None = None
        self._appends = 0
        self._bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether a frame would go straight to a socket."""
        return self._send is not None

    def open(self, send: Callable[[bytes], None]) -> None:
        """From now on `send` takes appends."""
        self._send = send

    def shut(self) -> None:
        """From now on everything goes around."""
        self._send = None

    def put(self, payload: bytes | bytearray | memoryview) -> None:
        """As `put_whole`, with longer pieces cut into appends of the usual length."""
        if len(payload) > self._usual:
            self._around(self._checked(payload))
        else:
            self.put_whole(payload)

    def put_whole(self, payload: bytes | bytearray | memoryview) -> None:
        """An append of its own, of 20 ms to MOST_FRAMES times that; other lengths go around. ValueError: it
        is no whole number of samples."""
        audio = self._checked(payload)
        size = len(audio)
        send = self._send
        if send is None or not self._least <= size <= self._most:
            self._around(audio)
            return
        if self.tape is not None:
            self.tape.append(audio)
        send(encode_append(audio))
        self._appends += 1
        self._bytes += size

    def _checked(self, payload: bytes | bytearray | memoryview) -> bytes:
        audio = payload if isinstance(payload, bytes) else bytes(payload)
        size = len(audio)
        if size % self._sample:
            raise ValueError(f"push_media: {size} bytes are no whole number of {self._name} samples")
        return audio

    def count(self, statistics: Statistics) -> None:
        """Add what went this way since it was last asked."""
        statistics.events_sent += self._appends
        statistics.audio_bytes_sent += self._bytes
        self._appends = self._bytes = 0

    def let_go(self) -> None:
        """The client is over: what still comes is forgotten, and nothing is referred to."""
        self._send = self.tape = None
        self._around = _forgotten


def _forgotten(payload: bytes) -> None:
    return None
