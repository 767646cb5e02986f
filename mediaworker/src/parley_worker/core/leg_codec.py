"""Codecs at a leg's border: the session hears and gives samples, the leg carries packets. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from parley_opus.packets import OPUS_RATES

from parley_worker.core.audio import AudioFormat, Converter


@dataclass(frozen=True, slots=True)
class OpusFormat:
    """Opus, one packet a frame, one channel.

    `rate` says how much of the audio the caller has a use for: packets are the same at any. ValueError names
    the field.
    """

    rate: int

    def __post_init__(self) -> None:
        if self.rate not in OPUS_RATES:
            raise ValueError(
                f"sample_rate_hz is {self.rate}; opus takes {', '.join(map(str, OPUS_RATES))}, usually 48000"
            )

    def __str__(self) -> str:
        return f"opus@{self.rate}"


LegFormat = AudioFormat | OpusFormat
"""What a leg's frames hold."""


@dataclass(frozen=True, slots=True)
class LegCodec:
    """A codec at a leg's border: what its frames hold, and by how much it delays the audio.

    It takes and gives whole frames of 20 ms.
    """

    format: OpusFormat
    delay_ms: float = 0.0

    def behind(self, conversion: Converter, leg: AudioFormat) -> Converter:
        """The conversion with so much silence behind each part that the codec keeps none of the part back."""
        return _Followed(conversion, leg.silence * round(leg.rate * self.delay_ms / 1000))


class _Followed:
    def __init__(self, conversion: Converter, tail: bytes) -> None:
        self.convert = conversion.convert
        self._flush, self._tail = conversion.flush, tail

    def flush(self) -> bytes:
        return self._flush() + self._tail
