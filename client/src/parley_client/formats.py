"""Audio formats of the media plane, and G.711 by table. Pure.

Samples of an Opus call are PCM16 for its users: the call itself makes the packets and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

Samples = NDArray[np.int16]

PCM16_RATES: Final = (8000, 16000, 24000, 48000)
G711_RATE: Final = 8000
FRAME_MS: Final = 20


class Encoding(StrEnum):
    """How samples are written."""

    PCM16 = "pcm16"
    """Signed 16-bit little-endian PCM."""
    G711_ULAW = "g711_ulaw"
    """ITU-T G.711 mu-law."""
    G711_ALAW = "g711_alaw"
    """ITU-T G.711 A-law."""
    OPUS = "opus"
    """Opus packets on the stream, PCM16 for the call's user."""


_G711: Final = frozenset({Encoding.G711_ULAW, Encoding.G711_ALAW})


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """An encoding with its rate; one channel always.

    Raises:
        UsageError: the pair is none that a worker speaks.
    """

    encoding: Encoding
    sample_rate_hz: int

    def __post_init__(self) -> None:
        rates = (G711_RATE,) if self.is_g711 else PCM16_RATES
        if self.sample_rate_hz not in rates:
            raise UsageError(
                f"audio format {self}: {self.encoding} is spoken at {', '.join(map(str, rates))} Hz only"
            )

    @classmethod
    def parse(cls, text: str) -> AudioFormat:
        """Read `pcm16@24000`, `pcm16` (24 kHz), `opus` (24 kHz), `g711_ulaw` or `g711_ulaw@8000`."""
        name, _, rate = text.strip().lower().partition("@")
        try:
            encoding = Encoding(name)
        except ValueError:
            raise UsageError(
                f"audio format {text!r}: the encoding is one of {', '.join(Encoding)}, such as pcm16@24000"
            ) from None
        if not rate:
            return cls(encoding, G711_RATE if encoding in _G711 else 24000)
        if not rate.isdecimal():
            raise UsageError(f"audio format {text!r}: the rate is a number of hertz, such as pcm16@24000")
        return cls(encoding, int(rate))

    def __str__(self) -> str:
        return f"{self.encoding}@{self.sample_rate_hz}"

    @property
    def is_g711(self) -> bool:
        """True when a sample is one byte of G.711."""
        return self.encoding in _G711

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, as the call's user gives and gets it."""
        return 1 if self.is_g711 else 2

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of 20 ms."""
        return self.sample_rate_hz * FRAME_MS // 1000 * self.sample_bytes

    def seconds(self, payload_bytes: int) -> float:
        """How long that many bytes last."""
        return payload_bytes / (self.sample_bytes * self.sample_rate_hz)

    def bytes_for(self, seconds: float) -> int:
        """Bytes of the whole samples that fit into that time."""
        return max(0, int(seconds * self.sample_rate_hz + 1e-6)) * self.sample_bytes

    def decode(self, payload: bytes) -> Samples:
        """Return the samples of a payload as 16-bit integers."""
        if not self.is_g711:
            if len(payload) % 2:
                raise UsageError(f"{len(payload)} bytes are not whole samples of {self}")
            return np.frombuffer(payload, dtype="<i2").astype(np.int16, copy=False)
        return _levels(self.encoding)[np.frombuffer(payload, dtype=np.uint8)]

    def encode(self, samples: Samples) -> bytes:
        """Write 16-bit samples in this format."""
        if not self.is_g711:
            return samples.astype("<i2", copy=False).tobytes()
        codes, borders = _quantizer(self.encoding)
        encoded: bytes = codes[np.searchsorted(borders, samples, side="right")].tobytes()
        return encoded


PCM16_24K: Final = AudioFormat(Encoding.PCM16, 24000)
PCM16_16K: Final = AudioFormat(Encoding.PCM16, 16000)
PCM16_8K: Final = AudioFormat(Encoding.PCM16, 8000)
G711_ULAW: Final = AudioFormat(Encoding.G711_ULAW, G711_RATE)
G711_ALAW: Final = AudioFormat(Encoding.G711_ALAW, G711_RATE)


@cache
def _levels(encoding: Encoding) -> Samples:
    """The 256 decision values of G.711, by code word."""
    codes = np.arange(256, dtype=np.int32)
    if encoding is Encoding.G711_ULAW:
        word = ~codes & 0xFF
        exponent, mantissa = (word >> 4) & 7, word & 15
        magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
        return np.where(word & 0x80, -magnitude, magnitude).astype(np.int16)
    word = codes ^ 0x55
    exponent, mantissa = (word >> 4) & 7, word & 15
    magnitude = np.where(
        exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(word & 0x80, magnitude, -magnitude).astype(np.int16)


@cache
def _quantizer(encoding: Encoding) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Code words in rising order of level, and the borders half-way between neighbouring levels."""
    levels = _levels(encoding)
    order = np.argsort(levels, kind="stable").astype(np.uint8)
    rising = levels[order].astype(np.float64)
    return order, (rising[:-1] + rising[1:]) / 2
