"""Opus for legs and for callers: what a packet says of itself, and libopus behind it.

Importing this package loads no library; making an `Encoder` or a `Decoder` does.
"""

from parley_opus.errors import OpusError, OpusUnavailable
from parley_opus.packets import (
    DEFAULT_BITRATE,
    MAX_SAMPLES_48K,
    OPUS_RATES,
    SAMPLES_48K_PER_MS,
    OpusSettings,
    packet_samples,
)

__all__ = [
    "DEFAULT_BITRATE",
    "MAX_SAMPLES_48K",
    "OPUS_RATES",
    "SAMPLES_48K_PER_MS",
    "OpusError",
    "OpusSettings",
    "OpusUnavailable",
    "packet_samples",
]
