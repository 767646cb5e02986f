"""Real speech for tests: a caller's voice and a recogniser of the digits in an answer.

Needs the program `flite` and the `[local]` extra. The model is loaded once a process.
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from parley_local.speech import digits, whisper
from parley_local.speech.flite import Flite
from parley_local.speech.interfaces import Samples
from parley_local.speech.wire import WireFormat, decode, resample

LEAD_S = 0.4
TAIL_S = 1.2


def random_code() -> str:
    """Six random digits, no two neighbours equal (the recogniser may miscount a digit said thrice).

    None begins with 1, 2, 4 or 8: after a word, "is four" is also "is for", and "is one" is heard as "is".
    """
    code = secrets.choice("035679")
    while len(code) < 6:
        code += secrets.choice("0123456789".replace(code[-1], ""))
    return code


def code_phrase(code: str) -> str:
    """The sentence around a code that synthesis and recognition carry most reliably."""
    return f"My code is {code}."


def synthesize(text: str, rate: int, *, voice: str = "rms", tail_s: float = TAIL_S) -> bytes:
    """Speech as PCM16 mono at `rate` Hz, with silence before it and enough after it to end a turn."""

    def speak() -> tuple[Samples, int]:
        return asyncio.run(Flite().synthesize(text, voice, 1.0))

    with ThreadPoolExecutor(max_workers=1) as pool:  # callers may be inside a running event loop
        samples, made_at = pool.submit(speak).result(timeout=60)
    speech = resample(samples, made_at, rate)
    lead, tail = (np.zeros(int(seconds * rate), dtype=np.float32) for seconds in (LEAD_S, tail_s))
    pcm = np.clip(np.rint(np.concatenate([lead, speech, tail]) * 32767), -32768, 32767)
    return pcm.astype("<i2").tobytes()


def recognize(pcm: bytes, rate: int) -> str:
    """The words in PCM16 mono audio."""
    return whisper.shared().transcribe(decode(pcm, WireFormat.PCM16), rate)


def recognize_digits(pcm: bytes, rate: int) -> str:
    """The digits spoken in PCM16 mono audio, in order."""
    return digits.extract(recognize(pcm, rate))
