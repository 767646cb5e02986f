"""How a recording is written: WAV, or Opus in Ogg. Both are playable however short they are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.int16]
CHANNELS = 2
UNKNOWN_SIZE = 0xFFFFFFFF
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
MAX_WAV_BYTES = UNKNOWN_SIZE - _HEADER.size


class Encoder(Protocol):
    """Makes the bytes of one file, in order."""

    suffix: str

    def encode(self, frames: Frames) -> bytes:
        """Bytes to append; may be empty, the rest comes later."""

    def finish(self) -> bytes:
        """The last bytes."""

    def header(self, size: int) -> bytes:
        """What the beginning of a file of `size` bytes is to be; empty when it is right as it was written."""


class WavEncoder:
    """Stereo PCM16. Written with sizes unknown, as for a stream; `header` has them."""

    suffix = "wav"

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._begun = False
        self._size = 0

    def encode(self, frames: Frames) -> bytes:
        """See Encoder. Past 4 GiB nothing is added: the format ends there."""
        data = b"" if self._begun else self._header(UNKNOWN_SIZE, UNKNOWN_SIZE)
        self._begun = True
        room = MAX_WAV_BYTES - self._size
        payload = frames.astype("<i2", copy=False).tobytes()[: room - room % 4]
        self._size += len(payload)
        return data + payload

    def finish(self) -> bytes:
        """See Encoder."""
        return b"" if self._begun else self.encode(np.zeros((0, CHANNELS), np.int16))

    def header(self, size: int) -> bytes:
        """See Encoder."""
        return self._header(size - 8, size - _HEADER.size)

    def _header(self, riff: int, data: int) -> bytes:
        width = CHANNELS * 2
        return _HEADER.pack(
            *(b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, CHANNELS, self._rate, self._rate * width, width, 16),
            *(b"data", data),
        )


class _Tail:
    """A file of which only what is appended matters."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._at = 0

    def write(self, data: bytes) -> int:
        self.data += data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """The encoder looks for the end before it begins; it goes back to nothing that was written."""
        return self._at if whence else offset

    def read(self, size: int = -1) -> bytes:
        return b""

    def flush(self) -> None:
        """Nothing is buffered."""

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data


class OpusEncoder:
    """Stereo Opus in Ogg, by libsndfile; about a page a second."""

    suffix = "opus"

    def __init__(self, rate: int) -> None:
        import soundfile

        self._tail = _Tail()
        self._file = soundfile.SoundFile(
            self._tail, "w", rate, CHANNELS, format="OGG", subtype="OPUS", closefd=False
        )

    def encode(self, frames: Frames) -> bytes:
        """See Encoder."""
        self._file.write(frames)
        return self._tail.take()

    def finish(self) -> bytes:
        """See Encoder."""
        self._file.close()
        return self._tail.take()

    def header(self, size: int) -> bytes:
        """See Encoder."""
        return b""


ENCODERS: dict[str, Callable[[int], Encoder]] = {"wav": WavEncoder, "opus": OpusEncoder}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def make_encoder(name: str, rate: int) -> Encoder:
    """An encoder by name; ValueError names the choices."""
    if name not in ENCODERS:
        raise ValueError(f"recording format {name!r} is unknown: use one of {', '.join(ENCODERS)}")
    if name == "opus" and rate not in OPUS_RATES:
        raise ValueError(f"rate {rate}: Opus takes one of {', '.join(map(str, OPUS_RATES))}")
    return ENCODERS[name](rate)
