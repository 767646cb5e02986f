"""Audio files, pacing and levels: what stands between a WAV on disk and a call in real time."""

from __future__ import annotations

import asyncio
import math
import struct
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import soxr

from .errors import AudioError
from .events import AgentAudio, Heard, Mark
from .formats import FRAME_MS, PCM16_24K, AudioFormat, Samples
from .playout import PlayoutLine

SILENT_DB: Final = -90.0
MAX_WAV_SECONDS: Final = 3600


def read_wav(path: Path | str, rate: int) -> Samples:
    """Read a WAV (PCM of 8, 16, 24 or 32 bits, any rate, any number of channels) as one channel at `rate`.

    Raises:
        AudioError: the file is missing, no PCM WAV, empty, or longer than an hour.
    """
    path = Path(path)
    try:
        with wave.open(str(path), "rb") as source:
            channels, width, own_rate = source.getnchannels(), source.getsampwidth(), source.getframerate()
            count = source.getnframes()
            if own_rate <= 0 or count > own_rate * MAX_WAV_SECONDS:
                raise AudioError(f"{path}: {count} samples at {own_rate} Hz; a file holds one hour at most")
            data = source.readframes(count)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror or error}") from error
    except (wave.Error, EOFError, struct.error) as error:
        raise AudioError(f"{path}: not a PCM WAV file ({error or 'it ends too early'})") from error
    data = data[: len(data) // (width * channels) * (width * channels)]
    if not data:
        raise AudioError(f"{path}: the file holds no audio")
    mixed = _as_float(data, width, path).reshape(-1, channels).mean(axis=1)
    return resample(mixed, own_rate, rate)


def resample(samples: np.ndarray, own_rate: int, rate: int) -> Samples:
    """Return samples (16-bit integers, or floats of -1 to 1) at another rate, as 16-bit integers."""
    floats = samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples.astype(np.float32)
    if own_rate != rate:
        floats = soxr.resample(floats, own_rate, rate, quality="HQ")
    return np.clip(np.rint(floats * 32768), -32768, 32767).astype(np.int16)


def _as_float(data: bytes, width: int, path: Path) -> np.ndarray:
    if width == 1:
        return (np.frombuffer(data, dtype=np.uint8).astype(np.float32) - 128) / 128
    if width == 2:
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768
    if width == 3:
        raw = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        return (((raw[:, 0] << 8 | raw[:, 1] << 16 | raw[:, 2] << 24) >> 8) / float(1 << 23)).astype(
            np.float32
        )
    if width == 4:
        return (np.frombuffer(data, dtype="<i4") / float(1 << 31)).astype(np.float32)
    raise AudioError(f"{path}: {width * 8}-bit samples are not read; save it with 16 bits")


def frames(samples: Samples, format: AudioFormat) -> Iterator[bytes]:
    """Cut samples at the format's rate into frames of 20 ms, the last one filled up with silence."""
    per_frame = format.sample_rate_hz * FRAME_MS // 1000
    for start in range(0, len(samples), per_frame):
        piece = samples[start : start + per_frame]
        if len(piece) < per_frame:
            piece = np.concatenate([piece, np.zeros(per_frame - len(piece), dtype=np.int16)])
        yield format.encode(piece)


async def pace(source: Iterator[bytes], *, clock: Callable[[], float] | None = None) -> AsyncIterator[bytes]:
    """Give out frames of 20 ms in real time. A late consumer catches up, but for more than a second."""
    now = clock or asyncio.get_running_loop().time
    due = now()
    for frame in source:
        yield frame
        due = max(due + FRAME_MS / 1000, now() - 1.0)
        if (wait := due - now()) > 0:
            await asyncio.sleep(wait)


async def paced_wav(
    path: Path | str, format: AudioFormat = PCM16_24K, *, lead_ms: int = 0, tail_ms: int = 0
) -> AsyncIterator[bytes]:
    """Read a WAV of any rate and give out its frames in real time, ready for `Call.send_audio`.

    Args:
        path: the file.
        format: the call's input format.
        lead_ms: silence before it, in milliseconds.
        tail_ms: silence after it: a server's voice detection needs some to notice the end.
    """
    samples = await asyncio.to_thread(read_wav, path, format.sample_rate_hz)
    padded = np.concatenate([_silence(lead_ms, format), samples, _silence(tail_ms, format)])
    async for frame in pace(frames(padded, format)):
        yield frame


async def paced_silence(format: AudioFormat, seconds: float = math.inf) -> AsyncIterator[bytes]:
    """Give out silence in real time: what a telephone sends while its user listens."""
    frame = format.encode(_silence(FRAME_MS, format))
    count = 0

    def source() -> Iterator[bytes]:
        nonlocal count
        while count * FRAME_MS / 1000 < seconds:
            count += 1
            yield frame

    async for piece in pace(source()):
        yield piece


def _silence(milliseconds: int, format: AudioFormat) -> Samples:
    return np.zeros(format.sample_rate_hz * milliseconds // 1000, dtype=np.int16)


def write_wav(path: Path | str, samples: Samples, rate: int) -> None:
    """Write one channel of 16-bit samples; the folder is made when it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes(samples.astype("<i2", copy=False).tobytes())


class LevelMeter:
    """The loudness of the last frames in dBFS (-90 is silence): fast to rise, slow to fall."""

    def __init__(self, format: AudioFormat) -> None:
        self._format = format
        self.db = SILENT_DB

    def feed(self, payload: bytes) -> None:
        """Measure a frame."""
        samples = self._format.decode(payload).astype(np.float32)
        power = float(np.mean(samples * samples)) if len(samples) else 0.0
        level = 10 * math.log10(power / 32768**2) if power > 0 else SILENT_DB
        self.db = max(level, self.db - 1.5, SILENT_DB)


class BufferedPlayer:
    """Plays on a clock into nothing: answers Clear and marks truthfully without a sound device.

    The base of players that do something with what is heard: override `on_heard`.

    Args:
        buffer_ms: jitter buffer; also declared to the worker as `playout_buffer_ms`.
    """

    def __init__(self, *, buffer_ms: int = 60) -> None:
        if not 0 <= buffer_ms <= 5000:
            raise AudioError(f"buffer_ms {buffer_ms}: 0 to 5000")
        self.buffer_ms = buffer_ms
        self.line: PlayoutLine | None = None

    def start(self, format: AudioFormat, now: float) -> None:
        """The call is attached; called again after each resume, with the same format."""
        if self.line is None:
            self.line = PlayoutLine(format, buffer_ms=self.buffer_ms)

    def play(self, audio: AgentAudio, now: float) -> None:
        """Queue a piece."""
        self._line.push(audio, now)

    def mark(self, mark: Mark, now: float) -> None:
        """Queue a mark."""
        self._line.mark(mark, now)

    def clear(self, epoch: int, now: float) -> Heard:
        """Throw away what was not heard; say how far it was."""
        return self._line.clear(epoch, now)

    def tick(self, now: float) -> list[Mark]:
        """Let time pass; return the marks that were heard."""
        for stretch in self._line.take_stretches(now):
            self.on_heard(stretch.start, stretch.payload)
        return self._line.take_marks(now)

    def heard(self, now: float) -> Heard:
        """How far the current item was heard."""
        return self._line.heard(now)

    @property
    def idle(self) -> bool:
        """True when nothing waits to be heard."""
        return self.line is None or self.line.idle

    def close(self, now: float) -> None:
        """The call is over: nothing more is heard after `now`."""
        if self.line is not None:
            self.tick(now)

    def on_heard(self, start: float, payload: bytes) -> None:
        """A piece in the call's output format was heard from `start` on."""

    @property
    def _line(self) -> PlayoutLine:
        if self.line is None:
            raise RuntimeError("the player has not been started")
        return self.line


class WavRecorder(BufferedPlayer):
    """Records what the caller hears on a real-time line, silence included.

    The file holds 16-bit PCM at the call's output rate. It is written as the call goes on, so memory stays
    flat; its header is right after `close`.

    Args:
        path: file to write; its folder is made when it is missing.
        buffer_ms: jitter buffer.
    """

    def __init__(self, path: Path | str, *, buffer_ms: int = 60) -> None:
        super().__init__(buffer_ms=buffer_ms)
        self.path = Path(path)
        self.meter: LevelMeter | None = None
        self._file: wave.Wave_write | None = None
        self._origin = 0.0
        self._written = 0

    def start(self, format: AudioFormat, now: float) -> None:
        first = self.line is None
        super().start(format, now)
        if not first:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = wave.open(str(self.path), "wb")  # noqa: SIM115
        except OSError as error:
            raise AudioError(f"{self.path}: {error.strerror or error}") from error
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(format.sample_rate_hz)
        self.meter = LevelMeter(format)
        self._origin = now

    def on_heard(self, start: float, payload: bytes) -> None:
        self._pad_until(start)
        format = self._line.format
        samples = format.decode(payload)
        if self._file is not None:
            self._file.writeframesraw(samples.astype("<i2", copy=False).tobytes())
            self._written += len(samples)
        if self.meter is not None:
            self.meter.feed(payload)

    def close(self, now: float) -> None:
        super().close(now)
        if self._file is None:
            return
        self._pad_until(now)
        self._file.close()
        self._file = None

    def _pad_until(self, moment: float) -> None:
        rate = self._line.format.sample_rate_hz
        missing = round((moment - self._origin) * rate) - self._written
        while missing > 1 and self._file is not None:
            count = min(missing, rate)
            self._file.writeframesraw(bytes(2 * count))
            self._written += count
            missing -= count
