"""Audio between the wire (PCM16 at 24 kHz, G.711 at 8 kHz) and float samples."""

from __future__ import annotations

from enum import Enum

import numpy as np
import soxr
from numpy.typing import NDArray

from .interfaces import Samples


class WireFormat(Enum):
    """The audio formats of the protocol: GA name, beta name, sample rate in Hz, bytes per sample."""

    PCM16 = ("audio/pcm", "pcm16", 24000, 2)
    PCMU = ("audio/pcmu", "g711_ulaw", 8000, 1)
    PCMA = ("audio/pcma", "g711_alaw", 8000, 1)

    def __init__(self, ga_name: str, beta_name: str, rate: int, width: int) -> None:
        self.ga_name = ga_name
        self.beta_name = beta_name
        self.rate = rate
        self.width = width

    @property
    def bytes_per_ms(self) -> int:
        return self.rate * self.width // 1000

    def duration_ms(self, audio: bytes | bytearray) -> float:
        """Length of `audio` in milliseconds."""
        return len(audio) / self.bytes_per_ms


def _ulaw_table() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)


def _alaw_table() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code & 0x70) >> 4
    base = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, base, (base + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _inverse(table: NDArray[np.int16]) -> NDArray[np.uint8]:
    """For each 16-bit value (offset by 32768) the code whose decoded value is nearest."""
    order = np.argsort(table, kind="stable")
    levels = table[order].astype(np.float64)
    bounds = (levels[1:] + levels[:-1]) / 2
    values = np.arange(-32768, 32768)
    return order[np.searchsorted(bounds, values)].astype(np.uint8)


_DECODE = {WireFormat.PCMU: _ulaw_table(), WireFormat.PCMA: _alaw_table()}
_ENCODE = {wire: _inverse(table) for wire, table in _DECODE.items()}


def decode(audio: bytes, wire: WireFormat) -> Samples:
    """Wire bytes to samples at the format's own rate. A trailing half sample is ignored."""
    if wire is WireFormat.PCM16:
        pcm = np.frombuffer(audio[: len(audio) & ~1], dtype="<i2")
    else:
        pcm = _DECODE[wire][np.frombuffer(audio, dtype=np.uint8)]
    return np.asarray(pcm, dtype=np.float32) / np.float32(32768)


def encode(samples: Samples, rate: int, wire: WireFormat) -> bytes:
    """Samples at `rate` Hz to wire bytes, resampled where the rates differ, clipped at full scale."""
    resampled = resample(samples, rate, wire.rate)
    pcm = np.clip(np.rint(resampled * 32767), -32768, 32767).astype("<i2")
    if wire is WireFormat.PCM16:
        return pcm.tobytes()
    return _ENCODE[wire][pcm.astype(np.int32) + 32768].tobytes()


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """A whole recording at another rate."""
    if rate == target or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, rate, target, quality="HQ"), dtype=np.float32)
