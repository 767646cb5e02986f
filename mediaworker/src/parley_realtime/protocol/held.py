"""Audio of a caller's turn whose words are not known: as long as it is all there is of the turn. Pure.

Where nobody transcribes, every turn is held, at 48 kB a second. The newest may have to be heard again: half
of that, with all its frequencies. Older ones, which a provider only remembers, are packed to what a telephone
carries: a sixth.
"""

from __future__ import annotations

import soxr

from parley_realtime.audio import G711_RATE, QUALITY, Encoding, SampleFormat, Samples, decode, encode

PACKABLE = SampleFormat(Encoding.PCM16, 24_000)
"""The one format of providers that is worth it: the others are that small already."""


def compand(audio: bytes) -> bytes:
    """Whole samples of PCM16 in half the bytes: mu-law, its noise lies 37 dB under what is said."""
    return encode(decode(audio, Encoding.PCM16), Encoding.G711_ULAW)


def expand(data: bytes) -> bytes:
    """The samples again, as many."""
    return encode(decode(data, Encoding.G711_ULAW), Encoding.PCM16)


class HeldAudio:
    """The audio of one turn, `size` bytes of it, as they came; `of_halves` with half the bytes for it."""

    __slots__ = ("_data", "_halved", "packed", "size")

    def __init__(self, audio: bytes) -> None:
        self.size = len(audio)
        self._data = audio
        self._halved = False
        self.packed = False

    @classmethod
    def of_halves(cls, halves: bytes) -> HeldAudio:
        """Of samples that were halved already, see `compand`."""
        held = cls(b"")
        held._data, held.size, held._halved = halves, 2 * len(halves), True
        return held

    @property
    def takes(self) -> int:
        """Bytes of memory."""
        return len(self._data)

    def pack(self) -> None:
        """Keep it smaller, with a telephone's quality; once."""
        if self.packed:
            return
        if self._halved:
            samples = decode(self._data, Encoding.G711_ULAW)
        else:
            samples = decode(self._data[: self.size // 2 * 2], Encoding.PCM16)
        low: Samples = soxr.resample(samples, PACKABLE.rate, G711_RATE, quality=QUALITY)
        self._data = encode(low, Encoding.G711_ULAW)
        self.packed = True

    def whole(self) -> bytes:
        """In the format in which it came, and of the same length to a sample of a telephone."""
        if not self.packed:
            return expand(self._data) if self._halved else self._data
        low = decode(self._data, Encoding.G711_ULAW)
        high: Samples = soxr.resample(low, G711_RATE, PACKABLE.rate, quality=QUALITY)
        return encode(high, Encoding.PCM16)
