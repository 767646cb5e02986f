"""Audio formats: what both protocol shapes can carry, and the encodings that media units may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from parley_realtime.audio import Encoding, SampleFormat

FRAME_MS = 20
FRAME_SECONDS = FRAME_MS / 1000
CATCH_UP_SECONDS = 0.2
"""A clock of frames that is later than this begins anew instead of sending what it missed."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One mono format: `rate` in Hz, and its names in the GA and the beta shape."""

    name: str
    rate: int
    sample_bytes: int
    ga_type: str
    beta_name: str

    @property
    def samples(self) -> SampleFormat:
        """How its samples are written."""
        return _SAMPLES[self.name]

    @property
    def bytes_per_second(self) -> int:
        return self.rate * self.sample_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of a 20 ms frame."""
        return int(self.bytes_per_second * FRAME_SECONDS)

    @property
    def append_bytes(self) -> tuple[int, int]:
        """The least and the most that an append holds while audio comes steadily."""
        return self.frame_bytes, self.frame_bytes * 2

    def seconds(self, size: int) -> float:
        """Duration of `size` bytes."""
        return size / self.bytes_per_second

    def ga(self) -> dict[str, Any]:
        """The GA `format` object."""
        return (
            {"type": self.ga_type, "rate": self.rate}
            if self.ga_type == "audio/pcm"
            else {"type": self.ga_type}
        )

    @staticmethod
    def named(name: str) -> AudioFormat:
        """The format called `pcm16`, `pcmu` or `pcma`; ValueError names the choices."""
        try:
            return FORMATS[name]
        except KeyError:
            raise ValueError(f"audio format {name!r} is unknown: use one of {', '.join(FORMATS)}") from None


PCM16 = AudioFormat("pcm16", 24_000, 2, "audio/pcm", "pcm16")
PCMU = AudioFormat("pcmu", 8_000, 1, "audio/pcmu", "g711_ulaw")
PCMA = AudioFormat("pcma", 8_000, 1, "audio/pcma", "g711_alaw")
FORMATS = {f.name: f for f in (PCM16, PCMU, PCMA)}
DEFAULT_FORMAT = PCM16
_SAMPLES = {
    "pcm16": SampleFormat(Encoding.PCM16, 24_000),
    "pcmu": SampleFormat(Encoding.G711_ULAW, 8_000),
    "pcma": SampleFormat(Encoding.G711_ALAW, 8_000),
}


class WebSocketAudioEncoding(StrEnum):
    """Encodings of media sent to a unit, in VoxEngine's words."""

    PCM16_8KHZ = "PCM8"
    PCM16_16KHZ = "PCM16"
    ALAW = "ALAW"
    ULAW = "ULAW"
    OPUS = "OPUS"


ENCODINGS = {
    WebSocketAudioEncoding.PCM16_8KHZ: SampleFormat(Encoding.PCM16, 8_000),
    WebSocketAudioEncoding.PCM16_16KHZ: SampleFormat(Encoding.PCM16, 16_000),
    WebSocketAudioEncoding.ALAW: _SAMPLES["pcma"],
    WebSocketAudioEncoding.ULAW: _SAMPLES["pcmu"],
}


def unit_format(encoding: str) -> SampleFormat:
    """The sample format of an encoding in VoxEngine's words, or of a provider's format (`pcm16`, ...).

    Words tell them apart by case: `PCM16` has 16 kHz, `pcm16` the provider's 24 kHz. ValueError names the
    choices.
    """
    if encoding == WebSocketAudioEncoding.OPUS:
        raise ValueError(
            "encoding 'OPUS': Opus packets are not made here; use PCM16 (16 kHz), or a recorder for files"
        )
    for name, samples in (*ENCODINGS.items(), *_SAMPLES.items()):
        if encoding == name:
            return samples
    choices = ", ".join([*ENCODINGS, *_SAMPLES])
    raise ValueError(f"encoding {encoding!r} is unknown: use one of {choices}")


def encoding_name(samples: SampleFormat) -> str:
    """What media units are told: the provider's name of a format, else VoxEngine's, else `pcm16@48000`."""
    for name, known in (*_SAMPLES.items(), *ENCODINGS.items()):
        if known == samples:
            return str(name)
    return str(samples)


def wanted_format(unit: object, encoding: str | None, given: SampleFormat) -> SampleFormat:
    """The unit's own format, else what is asked for, else its `default_encoding`, else the source's.

    ValueError: the encoding cannot be had.
    """
    own = getattr(unit, "media_format", None)
    samples = own.samples if isinstance(own, AudioFormat) else own
    if not isinstance(samples, SampleFormat):
        encoding = encoding or getattr(unit, "default_encoding", None)
        return unit_format(encoding) if encoding else given
    if encoding and unit_format(encoding) != samples:
        raise ValueError(
            f"encoding {encoding!r}: the media unit takes {encoding_name(samples)!r} only; leave it out"
        )
    return samples
