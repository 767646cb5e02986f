"""Opus packets as RFC 6716 describes them, and how ours are made. Pure: nothing is decoded here."""

from __future__ import annotations

from dataclasses import dataclass

OPUS_RATES = (8000, 16000, 24000, 48000)
"""Rates at which libopus takes and gives samples, of those that legs have."""
SAMPLES_48K_PER_MS = 48
MAX_SAMPLES_48K = 120 * SAMPLES_48K_PER_MS
"""No packet is longer, in samples at 48 kHz."""
BITRATES = (6_000, 128_000)
DEFAULT_BITRATE = 32_000
MAX_EXPECTED_LOSS = 50

_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)
_FRAME_SAMPLES = _SILK * 3 + _HYBRID * 2 + _CELT * 4
"""Samples at 48 kHz of one frame, by the configuration in a packet's first byte."""


def packet_samples(packet: bytes) -> int:
    """Duration of a packet in samples at 48 kHz: 120 (2.5 ms) to 5760 (120 ms); 0 for what is no packet.

    Only the first bytes are looked at: a packet with a duration may still not decode.
    """
    if not packet:
        return 0
    first = packet[0]
    frame = _FRAME_SAMPLES[first >> 3]
    code = first & 3
    if code == 0:
        return frame
    if code < 3:
        return frame * 2
    if len(packet) < 2:
        return 0
    samples = frame * (packet[1] & 63)
    return samples if samples <= MAX_SAMPLES_48K else 0


@dataclass(frozen=True, slots=True)
class OpusSettings:
    """How packets are made.

    `bitrate` is the mean in bits a second, 6000 to 128000. `expected_loss` is in percent, 0 to 50: above 0
    packets carry the one before them a second time, coarsely, for whoever sends them on over a network that
    loses some. ValueError names the field.
    """

    bitrate: int = DEFAULT_BITRATE
    expected_loss: int = 0
    complexity: int = 0
    """0 to 10. Bits are cheaper than CPU: docs/design/2026-11-26-opus.md has what each costs and gives."""

    def __post_init__(self) -> None:
        low, high = BITRATES
        if not low <= self.bitrate <= high:
            usual = f"or 0 for {DEFAULT_BITRATE}"
            raise ValueError(f"bitrate_bps is {self.bitrate}; use {low} to {high}, {usual}")
        if not 0 <= self.expected_loss <= MAX_EXPECTED_LOSS:
            raise ValueError(
                f"expected_loss_percent is {self.expected_loss}; use 1 to {MAX_EXPECTED_LOSS}, or 0 for none"
            )
