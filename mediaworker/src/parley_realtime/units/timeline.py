"""The two sides of a recording on one time line: what was said when, and what of it was heard. Pure.

Times are seconds on the caller's clock, positions milliseconds within a content part. Left is one live stream
that is written as it comes. Right is audio sent ahead of its playing: it waits for `hold` seconds past the
moment it is heard, and until then can be cut where the listener stopped hearing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parley_realtime.audio import Converter, Encoding, SampleFormat, Samples, converter, decode

GAP_SECONDS = 0.2
"""Left audio that is late by less than this follows what came before; later, silence lies between."""
MAX_AHEAD_SECONDS = 900.0
"""Right audio that would be heard later than this from now is not recorded."""
PartKey = tuple[str, int]


@dataclass(slots=True)
class _Sent:
    """Right audio that may still be cut."""

    start: float
    payload: bytes
    audio: SampleFormat
    key: PartKey
    position_ms: float

    @property
    def end(self) -> float:
        return self.start + self.audio.seconds(len(self.payload))

    def keep(self, seconds: float) -> None:
        """Keep only so much of it."""
        size = int(max(seconds, 0.0) * self.audio.rate + 0.5) * self.audio.sample_bytes
        self.payload = self.payload[:size]


class _Lane:
    """One side as samples from `base` on; what was never written is silence."""

    def __init__(self, rate: int) -> None:
        self._target = SampleFormat(Encoding.PCM16, rate)
        self._samples = np.zeros(0, np.int16)
        self._base = 0
        self._at = 0
        self._audio: SampleFormat | None = None
        self._convert: Converter | None = None

    def write(self, at: int | None, payload: bytes, audio: SampleFormat) -> None:
        """Write at sample `at`; None goes on where the last ended. What lies before `base` is lost."""
        if audio != self._audio or at is not None:
            self.finish()
            self._audio, self._convert = audio, converter(audio, self._target)
        if at is not None:
            self._at = max(at, self._at, self._base)
        assert self._convert is not None
        self._put(decode(self._convert.convert(payload), Encoding.PCM16))

    def finish(self) -> None:
        """Write what conversion still holds."""
        if self._convert is not None:
            self._put(decode(self._convert.flush(), Encoding.PCM16))

    def _put(self, samples: Samples) -> None:
        if self._at < self._base:
            lost = min(self._base - self._at, len(samples))
            samples, self._at = samples[lost:], self._at + lost
        start = self._at - self._base
        missing = start + len(samples) - len(self._samples)
        if len(samples) == 0:
            return
        if missing > 0:
            self._samples = np.concatenate((self._samples, np.zeros(missing, np.int16)))
        self._samples[start : start + len(samples)] = samples
        self._at += len(samples)

    def take(self, upto: int) -> Samples:
        """The samples from `base` to `upto`, which becomes the base."""
        size = upto - self._base
        taken = self._samples[:size]
        self._samples = self._samples[size:].copy()
        self._base = upto
        return np.concatenate((taken, np.zeros(size - len(taken), np.int16))) if len(taken) < size else taken


class Timeline:
    """See the module. `start` is the moment of the first sample. Not for use by several threads at once."""

    def __init__(self, rate: int, start: float, hold: float = 1.0) -> None:
        self._rate, self._start, self._hold = rate, start, hold
        self._left, self._right = _Lane(rate), _Lane(rate)
        self._left_end: float | None = None
        self._sent: deque[_Sent] = deque()
        self._right_end = start
        self._right_wrote: float | None = None
        self.buffer = 0.0
        self.written = 0
        """Samples taken so far."""
        self.dropped_ms = 0.0
        """Right audio too far ahead to be kept."""

    def left(self, at: float, payload: bytes, audio: SampleFormat) -> None:
        """Live audio that came at `at`."""
        fresh = self._left_end is None or at > self._left_end + GAP_SECONDS
        self._left.write(self._index(at) if fresh else None, payload, audio)
        begin = at if fresh or self._left_end is None else self._left_end
        self._left_end = begin + audio.seconds(len(payload))

    def right(self, at: float, payload: bytes, audio: SampleFormat, key: PartKey, position_ms: float) -> None:
        """Audio sent at `at`: it is heard when all sent before is, and not before the player's buffer."""
        start = at + self.buffer
        if self._right_end >= start - 0.005:
            start = self._right_end
        if start > at + MAX_AHEAD_SECONDS:
            self.dropped_ms += audio.ms(len(payload))
            return
        sent = _Sent(start, payload, audio, key, position_ms)
        self._right_end = sent.end
        self._sent.append(sent)

    def cut(self, key: PartKey, end_ms: float) -> None:
        """Nothing of this part past `end_ms` is heard."""
        self._trim(lambda sent: (end_ms - sent.position_ms) / 1000 if sent.key == key else None)

    def cleared(self, at: float) -> None:
        """The player was emptied: what is sent from here on is not behind what was in it."""
        self._right_end = min(self._right_end, max(at, self._start))

    def hush(self, at: float) -> None:
        """Nothing sent so far is heard past `at`."""
        self._trim(lambda sent: at - sent.start)
        self.cleared(at)

    def _trim(self, kept_seconds: Callable[[_Sent], float | None]) -> None:
        kept: deque[_Sent] = deque()
        for sent in self._sent:
            seconds = kept_seconds(sent)
            if seconds is not None and seconds < sent.end - sent.start - 1e-6:
                sent.keep(seconds)
            if sent.payload:
                kept.append(sent)
        self._sent = kept

    def take(self, now: float) -> npt.NDArray[np.int16]:
        """Everything that is certain at `now`, as frames of left and right: it cannot be cut later."""
        return self._upto(now - self._hold)

    def finish(self, at: float) -> npt.NDArray[np.int16]:
        """The rest; the recording ends at `at`."""
        self.hush(at)
        return self._upto(at, last=True)

    def _upto(self, until: float, last: bool = False) -> npt.NDArray[np.int16]:
        while self._sent and self._sent[0].start < until:
            sent = self._sent.popleft()
            follows = self._right_wrote is not None and abs(sent.start - self._right_wrote) < 0.001
            self._right.write(None if follows else self._index(sent.start), sent.payload, sent.audio)
            self._right_wrote = sent.end
        if last:
            self._left.finish()
            self._right.finish()
        upto = max(self._index(until), self.written)
        frames = np.stack((self._left.take(upto), self._right.take(upto)), axis=1)
        self.written = upto
        return frames

    def _index(self, at: float) -> int:
        return max(0, round((at - self._start) * self._rate))
