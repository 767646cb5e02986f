"""The demo's voice and ears: a question synthesised at run time, digits recognised in a recording."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Final

import numpy as np

from parley_client.audio import read_wav, resample, write_wav
from parley_client.errors import ParleyError

DIGITS: Final = 6
VOICES: Final = ("rms", "awb")
RECOGNISER_RATE: Final = 16000


def random_code() -> str:
    """Six random digits, no two neighbours alike: a listener can count them.

    None begins with 1, 2, 4 or 8: after a word, "is four" is also "is for", and "is one" is heard as "is".
    """
    code = secrets.choice("035679")
    while len(code) < DIGITS:
        digit = secrets.choice("0123456789")
        if digit != code[-1]:
            code += digit
    return code


def question_for(code: str) -> str:
    """The words that are spoken to the agent."""
    return f"My code is {code}."


async def speak(text: str, path: Path, voice: str = VOICES[0]) -> None:
    """Synthesise `text` into a WAV.

    Raises:
        ParleyError: the voice does not work.
    """
    from parley_local.speech.flite import Flite
    from parley_local.speech.interfaces import SpeechError

    try:
        samples, rate = await Flite().synthesize(text, voice, 1.0)
    except SpeechError as error:
        raise ParleyError(f"the question cannot be spoken: {error}") from error
    write_wav(path, resample(samples, rate, rate), rate)


async def recognise(path: Path) -> str:
    """Return the words in a recording.

    Raises:
        AudioError: the file cannot be read.
        ParleyError: the recogniser does not work.
    """
    return await asyncio.to_thread(_recognise, path)


def _recognise(path: Path) -> str:
    from parley_local.speech.interfaces import SpeechError
    from parley_local.speech.whisper import Whisper

    samples = read_wav(path, RECOGNISER_RATE)
    try:
        return Whisper().transcribe(samples.astype(np.float32) / np.float32(32768), RECOGNISER_RATE)
    except SpeechError as error:
        raise ParleyError(f"the answer cannot be recognised: {error}") from error


def digits_in(text: str) -> str:
    """All digits in a text, spoken ones included, in order."""
    from parley_local.speech.digits import extract

    return extract(text)
