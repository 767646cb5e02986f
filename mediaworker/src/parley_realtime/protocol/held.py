"""Audio of a caller's turn whose words are not known: as long as it is all there is of the turn. Pure.

Where nobody transcribes, every turn is held, at 48 kB a second. The newest stays as it came: it may have to
be heard again. Older ones, which a provider only remembers, are packed to what a telephone carries: a sixth.
"""

from __future__ import annotations

import soxr

from parley_realtime.audio import G711_RATE, QUALITY, Encoding, SampleFormat, Samples, decode, encode

PACKABLE = SampleFormat(Encoding.PCM16, 24_000)
"""The one format of providers that is worth it: the others are that small already."""


class HeldAudio:
    """The audio of one turn, `size` bytes of it."""

    __slots__ = ("_data", "packed", "size")

    def __init__(self, audio: bytes) -> None:
        self._data = audio
        self.packed = False
        self.size = len(audio)

    @property
    def takes(self) -> int:
        """Bytes of memory."""
        return len(self._data)

    def pack(self) -> None:
        """Keep it smaller, with a telephone's quality; once."""
        if self.packed:
            return
        low: Samples = soxr.resample(
            decode(self._data[: self.size // 2 * 2], Encoding.PCM16),
            PACKABLE.rate,
            G711_RATE,
            quality=QUALITY,
        )
        self._data = encode(low, Encoding.G711_ULAW)
        self.packed = True

    def whole(self) -> bytes:
        """In the format in which it came, and of the same length to a sample of a telephone."""
        if not self.packed:
            return self._data
        low = decode(self._data, Encoding.G711_ULAW)
        high: Samples = soxr.resample(low, G711_RATE, PACKABLE.rate, quality=QUALITY)
        return encode(high, Encoding.PCM16)
