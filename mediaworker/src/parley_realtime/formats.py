"""Audio formats of the provider's side: what both protocol shapes can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FRAME_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One mono format: `rate` in Hz, and its names in the GA and the beta shape."""

    name: str
    rate: int
    sample_bytes: int
    ga_type: str
    beta_name: str

    @property
    def bytes_per_second(self) -> int:
        return self.rate * self.sample_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of a 20 ms frame."""
        return int(self.bytes_per_second * FRAME_SECONDS)

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
