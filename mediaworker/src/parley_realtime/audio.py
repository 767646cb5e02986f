"""Sample formats, G.711 by table, and streaming conversion between formats. Bytes in, bytes out; pure.

Resampling is soxr's `LQ` recipe. It works in blocks, so output trails input; with 20 ms blocks and
soxr 1.1 by:

    recipe   8<->24 kHz mean / worst   16<->24 kHz   48<->24 kHz
    QQ        0.2 / 0.2 ms             0.1 ms        0.1 ms    no filter: aliases
    LQ       23 / 40 ms                11 / 20 ms    12 / 20 ms   chosen
    MQ       42 / 75 ms                21 / 38 ms    22 / 39 ms
    HQ       44 / 73 ms                23 / 37 ms    21 / 38 ms
    VHQ      88 / 153 ms               43 / 76 ms    22 / 37 ms

G.711 on both sides is passed through untouched, without delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

Samples = npt.NDArray[np.int16]
QUALITY = "LQ"


class Encoding(Enum):
    """How samples are written."""

    PCM16 = "pcm16"
    G711_ULAW = "g711_ulaw"
    G711_ALAW = "g711_alaw"


PCM_RATES = (8000, 16000, 24000, 48000)
G711_RATE = 8000


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """One channel of `encoding` at `rate` samples a second; ValueError names the field that cannot work."""

    encoding: Encoding
    rate: int
    sample_bytes: int = field(init=False, repr=False, compare=False)
    bytes_per_ms: int = field(init=False, repr=False, compare=False)
    bytes_per_second: int = field(init=False, repr=False, compare=False)
    frame_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of a 20 ms frame."""

    def __post_init__(self) -> None:
        rates = PCM_RATES if self.encoding is Encoding.PCM16 else (G711_RATE,)
        if self.rate not in rates:
            raise ValueError(
                f"sample_rate_hz is {self.rate}; {self.encoding.value} takes {', '.join(map(str, rates))}"
            )
        sample = 2 if self.encoding is Encoding.PCM16 else 1
        derived = {
            "sample_bytes": sample,
            "bytes_per_ms": self.rate // 1000 * sample,
            "bytes_per_second": self.rate * sample,
            "frame_bytes": self.rate // 50 * sample,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def ms(self, size: int) -> float:
        """Duration of `size` bytes in milliseconds."""
        return size / self.bytes_per_ms

    def seconds(self, size: int) -> float:
        """Duration of `size` bytes in seconds."""
        return size / self.bytes_per_second

    @property
    def silence(self) -> bytes:
        """One sample of silence."""
        return {Encoding.PCM16: b"\x00\x00", Encoding.G711_ULAW: b"\xff", Encoding.G711_ALAW: b"\xd5"}[
            self.encoding
        ]

    def __str__(self) -> str:
        return f"{self.encoding.value}@{self.rate}"


def _ulaw_decode_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_decode_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code & 0x70) >> 4
    mantissa = (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _nearest(magnitudes: npt.NDArray[np.int32], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """For 0 to 32768 the code of the nearest magnitude; ties go to the smaller one."""
    order = np.argsort(magnitudes)
    values = magnitudes[order]
    samples = np.arange(32769, dtype=np.int32)
    right = np.clip(np.searchsorted(values, samples), 1, len(values) - 1)
    smaller = samples - values[right - 1] <= values[right] - samples
    return codes[order[np.where(smaller, right - 1, right)]]


def _encode_table(decode: Samples) -> npt.NDArray[np.uint8]:
    """For every sample (as unsigned) the nearest code of its sign; codes from 128 on are positive."""
    values = decode.astype(np.int32)
    codes = np.arange(256, dtype=np.uint8)
    positive = _nearest(values[128:], codes[128:])
    negative = _nearest(-values[:128], codes[:128])
    return np.concatenate((positive[:32768], negative[:0:-1]))


_DECODE = {Encoding.G711_ULAW: _ulaw_decode_table(), Encoding.G711_ALAW: _alaw_decode_table()}
_ENCODE = {encoding: _encode_table(table) for encoding, table in _DECODE.items()}
# Looked up with `clip`: each table has an entry for every index, and the check for others costs a fifth.


def decode(payload: bytes, encoding: Encoding) -> Samples:
    """Bytes to samples."""
    if encoding is Encoding.PCM16:
        return np.frombuffer(payload, dtype="<i2")
    return _DECODE[encoding].take(np.frombuffer(payload, dtype=np.uint8), mode="clip")


def encode(samples: Samples, encoding: Encoding) -> bytes:
    """Samples to bytes."""
    if encoding is Encoding.PCM16:
        return samples.astype("<i2", copy=False).tobytes()
    return _ENCODE[encoding].take(samples.view(np.uint16), mode="clip").tobytes()


class Converter(Protocol):
    """A streaming conversion of whole samples."""

    def convert(self, payload: bytes) -> bytes:
        """What is ready after `payload`; may be empty, the rest comes later."""

    def flush(self) -> bytes:
        """The rest; the next `convert` starts anew."""


class _Untouched:
    def convert(self, payload: bytes) -> bytes:
        return payload

    def flush(self) -> bytes:
        return b""


class _Recoder:
    def __init__(self, source: Encoding, target: Encoding) -> None:
        self._source, self._target = source, target

    def convert(self, payload: bytes) -> bytes:
        return encode(decode(payload, self._source), self._target)

    def flush(self) -> bytes:
        return b""


class _Resampler:
    def __init__(self, source: SampleFormat, target: SampleFormat) -> None:
        self._source, self._target = source, target
        self._stream = self._new()
        self._fresh = True

    def _new(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._source.rate, self._target.rate, 1, dtype="int16", quality=QUALITY)

    def convert(self, payload: bytes) -> bytes:
        self._fresh = False
        samples: Samples = self._stream.resample_chunk(decode(payload, self._source.encoding))
        return encode(samples, self._target.encoding)

    def flush(self) -> bytes:
        if self._fresh:
            return b""
        tail: Samples = self._stream.resample_chunk(np.zeros(0, dtype=np.int16), last=True)
        self._stream = self._new()
        self._fresh = True
        return encode(tail, self._target.encoding)


def converter(source: SampleFormat, target: SampleFormat) -> Converter:
    """The cheapest conversion from `source` to `target`; equal formats pass bytes through untouched."""
    if source == target:
        return _Untouched()
    if source.rate == target.rate:
        return _Recoder(source.encoding, target.encoding)
    return _Resampler(source, target)


_DELAY_MS = {8000: 40.0, 16000: 20.0, 48000: 20.4}


def delay_ms(source: SampleFormat, target: SampleFormat) -> float:
    """Worst delay that the conversion adds with 20 ms blocks, in milliseconds."""
    if source.rate == target.rate:
        return 0.0
    low, high = sorted((source.rate, target.rate))
    return _DELAY_MS.get(high if low == 24000 else low, 40.0)
