"""What the provider needs of speech. Implementations live beside this module and know nothing of sessions.

Samples are mono float32 arrays in [-1, 1] at the rate the interface states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class SpeechError(Exception):
    """Speech could not be recognised or made; the text names the part and the remedy, never the content."""


@dataclass(frozen=True, slots=True)
class VadFrame:
    """Likelihood (0 to 1) of speech in the frame of audio that ends `end_ms` after the first byte fed."""

    end_ms: float
    probability: float


class Vad(Protocol):
    """A voice activity detector over one stream of audio."""

    def feed(self, audio: bytes) -> list[VadFrame]:
        """Take more audio in the stream's wire format; return the frames that it completed."""
        ...


class SpeechToText(Protocol):
    """Recognises one utterance. Called on an executor thread, one call at a time per instance."""

    def transcribe(self, samples: Samples, rate: int) -> str:
        """Return the words spoken in `samples`; empty where nothing was. Raises SpeechError."""
        ...


class TextToSpeech(Protocol):
    """Speaks text."""

    async def synthesize(self, text: str, voice: str, speed: float) -> tuple[Samples, int]:
        """Return samples and their rate in Hz. `speed` 1.0 is normal. Raises SpeechError."""
        ...
