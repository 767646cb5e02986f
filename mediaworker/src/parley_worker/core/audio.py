"""Audio formats on both sides of a session. The library's; named here as the worker's messages name them."""

from __future__ import annotations

from parley_realtime.audio import (
    G711_RATE,
    PCM_RATES,
    Converter,
    Encoding,
    Samples,
    converter,
    decode,
    delay_ms,
    encode,
)
from parley_realtime.audio import SampleFormat as AudioFormat
from parley_realtime.formats import FORMATS

__all__ = [
    "G711_RATE",
    "PCM_RATES",
    "PROVIDER_FORMATS",
    "AudioFormat",
    "Converter",
    "Encoding",
    "Samples",
    "converter",
    "decode",
    "delay_ms",
    "encode",
]

PROVIDER_FORMATS = {audio.beta_name: audio.samples for audio in FORMATS.values()}
