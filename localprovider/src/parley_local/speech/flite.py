"""Text to speech by the program `flite`, run once a phrase."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import wave

import numpy as np

from .digits import WORDS, find_runs
from .interfaces import Samples, SpeechError

VOICES = ("rms", "slt", "awb", "kal")
DIGIT_PAUSE_S = 0.3  # long enough to tell "one one" from "one", too short to end a turn
REMEDY = "install it with: apt-get install flite"
MAX_TEXT = 4000


class Flite:
    """Speaks with flite's built-in voices; other voice names fall back to the first, clearest one.

    At most `parallel` programs run at once; the others wait their turn within the caller's deadline.
    """

    def __init__(self, *, program: str = "flite", timeout_s: float = 20.0, parallel: int = 2) -> None:
        found = shutil.which(program)
        if found is None:
            raise SpeechError(f"the program {program!r} is not on PATH: {REMEDY}")
        self._program = found
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(parallel)
        self._digits: dict[tuple[str, str, float], tuple[Samples, int]] = {}

    async def synthesize(self, text: str, voice: str, speed: float) -> tuple[Samples, int]:
        words = re.sub(r"[^\w\s.,;:!?'\-%&]", " ", text)[:MAX_TEXT]
        name = voice if voice in VOICES else VOICES[0]
        stretch = 1.0 / min(max(speed, 0.25), 1.5)
        spoken: list[Samples] = []
        rate = 16000
        for phrase, pause_s in _phrases(words):
            key = (phrase, name, stretch)
            made = self._digits.get(key)
            if made is None:
                made = await self._phrase(*key)
                if phrase in WORDS:
                    self._digits[key] = made
            samples, rate = made
            if pause_s:
                samples = _trim(samples, rate)
            spoken += [samples, np.zeros(int(pause_s * rate), dtype=np.float32)]
        return np.concatenate(spoken) if spoken else np.zeros(rate // 10, dtype=np.float32), rate

    async def _phrase(self, phrase: str, voice: str, stretch: float) -> tuple[Samples, int]:
        async with self._turns:
            data = await self._speak(f"{phrase}.", voice, stretch)
        try:
            with wave.open(io.BytesIO(data)) as recording:
                rate = recording.getframerate()
                pcm = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
        except (wave.Error, EOFError) as error:
            raise SpeechError("flite wrote something that is not a WAV file") from error
        return np.asarray(pcm, dtype=np.float32) / np.float32(32768), rate

    async def _speak(self, text: str, voice: str, stretch: float) -> bytes:
        process = await asyncio.create_subprocess_exec(
            self._program, "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}",
            "-t", text, "-o", "/dev/stdout",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._timeout_s):
                data, _ = await process.communicate()
        except TimeoutError as error:
            raise SpeechError(f"flite did not finish within {self._timeout_s:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise SpeechError(f"flite ended with exit status {process.returncode}")
        return data


def _trim(samples: Samples, rate: int) -> Samples:
    """`samples` without the silence around the word, so that pauses are as long as they are meant to be."""
    block = rate // 100
    levels = np.sqrt(np.square(samples[: len(samples) // block * block]).reshape(-1, block).mean(axis=1))
    loud = np.flatnonzero(levels > 0.01)
    if not len(loud):
        return samples
    return samples[max(0, int(loud[0]) - 2) * block : (int(loud[-1]) + 3) * block]


def _phrases(text: str) -> list[tuple[str, float]]:
    """`text` as phrases with the pause after each, in seconds; runs of digits are said one by one."""
    phrases: list[tuple[str, float]] = []
    names = {digit: word for word, digit in WORDS.items()}
    cursor = 0
    for start, end, digits in find_runs(text):
        if len(digits) > 1:
            phrases.append((text[cursor:start], DIGIT_PAUSE_S))
            phrases += [(names[digit], DIGIT_PAUSE_S) for digit in digits]
            cursor = end
    phrases.append((text[cursor:], 0.0))
    return [(phrase.strip(), pause) for phrase, pause in phrases if re.search(r"\w", phrase)]
