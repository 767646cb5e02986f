"""Sound for tests of Opus: something to say, as packets, and how well it was heard."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from parley.media.v1 import media_pb2 as pb
from parley_opus.library import Decoder, Encoder
from parley_opus.packets import OpusSettings

Samples = npt.NDArray[np.int16]


def opus(rate: int = 48000) -> pb.AudioFormat:
    return pb.AudioFormat(encoding=pb.AUDIO_ENCODING_OPUS, sample_rate_hz=rate)


def sweep(seconds: float, rate: int = 24000, hertz: float = 300) -> Samples:
    """A tone that rises from `hertz` to three times that, so that no moment is like another."""
    at = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * hertz * (at + at * at / seconds)) * 8000).astype(np.int16)


def packets(
    samples: Samples, rate: int = 48000, ms: float = 20, settings: OpusSettings | None = None
) -> list[bytes]:
    """Whole packets of so many milliseconds."""
    encoder, size = Encoder(rate, settings), round(rate * ms / 1000) * 2
    payload = samples.tobytes()
    return [encoder.encode(payload[at : at + size]) for at in range(0, len(payload) - size + 1, size)]


def decoded(frames: Iterable[bytes], rate: int = 24000) -> Samples:
    """The samples of packets, by a decoder that knows none before them."""
    decoder = Decoder(rate)
    return np.frombuffer(b"".join(map(decoder.decode, frames)), "<i2")


def snr(heard: Samples, said: Samples, late: int | None = None) -> float:
    """dB of `said` over what differs from it in `heard`, so many samples later or at the best delay to 20 ms.

    The first tenth, where codecs begin, is left out.
    """

    def at(late: int, most: int) -> float:
        length = min(len(said), len(heard) - late, most)
        ours = heard[late + length // 10 : late + length].astype(float)
        theirs = said[length // 10 : length].astype(float)
        gain = float(ours @ theirs / (theirs @ theirs))
        noise = ours - gain * theirs
        if not 0.5 < gain < 2:
            return -math.inf
        return 10 * math.log10(gain**2 * float(theirs @ theirs) / max(float(noise @ noise), 1e-9))

    if late is not None:
        return at(late, len(said))
    about = max(range(480), key=lambda late: at(late, 12_000))
    return max(at(late, len(said)) for late in range(max(0, about - 4), about + 5))
