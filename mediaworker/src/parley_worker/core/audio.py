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

PROVIDER_FORMATS = {
    "pcm16": AudioFormat(Encoding.PCM16, 24000),
    "g711_ulaw": AudioFormat(Encoding.G711_ULAW, 8000),
    "g711_alaw": AudioFormat(Encoding.G711_ALAW, 8000),
}
