"""The input audio buffer and the turns found in it. Times are ms from the first byte ever appended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from parley_local.speech.interfaces import Vad, VadFrame
from parley_local.speech.wire import WireFormat

from .settings import TurnDetection

VadFactory = Callable[[WireFormat], Vad]
MAX_BUFFER_BYTES = 32 * 1024 * 1024
ONSET_MS = 60  # speech shorter than this opens no turn


class TurnState(Enum):
    """Whether the caller is in a turn; the edges are `TurnDetector.EDGES`."""

    SILENT = "silent"
    SPEAKING = "speaking"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn began (`SPEAKING`) or ended (`SILENT`) at `at_ms`."""

    state: TurnState
    at_ms: int


class TurnDetector:
    """Turns out of speech likelihoods: onset after 60 ms of speech, end after the configured silence."""

    EDGES = ((TurnState.SILENT, TurnState.SPEAKING), (TurnState.SPEAKING, TurnState.SILENT))

    def __init__(self) -> None:
        self.state = TurnState.SILENT
        self._speech_since: float | None = None
        self._last_speech: float = 0.0
        self._position: float = 0.0

    def _move(self, state: TurnState) -> None:
        if (self.state, state) not in self.EDGES:
            raise AssertionError(f"no edge from {self.state} to {state}")
        self.state = state

    def feed(self, frames: Iterable[VadFrame], rules: TurnDetection) -> list[Turn]:
        turns: list[Turn] = []
        for frame in frames:
            begin, self._position = self._position, frame.end_ms
            # Leaving speech takes a clearly lower score than entering it.
            level = rules.threshold if self.state is TurnState.SILENT else max(rules.threshold - 0.15, 0.01)
            if frame.probability >= level:
                self._last_speech = frame.end_ms
                self._speech_since = begin if self._speech_since is None else self._speech_since
            elif self.state is TurnState.SILENT:
                self._speech_since = None
            turn = self._judge(frame.end_ms, rules)
            if turn is not None:
                turns.append(turn)
        return turns

    def _judge(self, now: float, rules: TurnDetection) -> Turn | None:
        if self.state is TurnState.SILENT:
            if self._speech_since is None or now - self._speech_since < ONSET_MS:
                return None
            self._move(TurnState.SPEAKING)
            return Turn(self.state, max(0, int(self._speech_since - rules.prefix_padding_ms)))
        if now - self._last_speech < max(rules.patience_ms, 1):
            return None
        self._move(TurnState.SILENT)
        self._speech_since = None
        return Turn(self.state, int(now))

    def reset(self) -> None:
        """Forget a turn in progress (the buffer was committed or cleared by the client)."""
        self.state = TurnState.SILENT
        self._speech_since = None


class InputBuffer:
    """Audio appended and not yet committed, with the position of its first byte in the whole stream."""

    def __init__(self, wire: WireFormat, vad_factory: VadFactory) -> None:
        self._factory = vad_factory
        self.detector = TurnDetector()
        self._audio = bytearray()
        self.wire = wire
        self._offset_ms = 0.0  # stream position where `wire` began
        self._dropped = 0  # bytes of `wire` before the buffer's first byte
        self._vad: Vad | None = None
        self._vad_origin = 0.0

    @property
    def size(self) -> int:
        return len(self._audio)

    @property
    def duration_ms(self) -> float:
        return self.wire.duration_ms(self._audio)

    @property
    def end_ms(self) -> float:
        """Stream position after the last byte appended."""
        return self._offset_ms + (self._dropped + len(self._audio)) / self.wire.bytes_per_ms

    def set_format(self, wire: WireFormat) -> None:
        """Change the wire format: what is buffered in the old one is dropped."""
        if wire is self.wire:
            return
        self._offset_ms, self._dropped = self.end_ms, 0
        self._audio.clear()
        self.wire = wire
        self._vad = None
        self.detector.reset()

    def append(self, audio: bytes, rules: TurnDetection | None) -> list[Turn]:
        """Add audio; return the turns it began or ended. With `rules` silence before a turn is not kept."""
        origin = self.end_ms
        self._audio += audio
        if rules is None:
            self._vad = None
            return []
        if self._vad is None:
            self._vad, self._vad_origin = self._factory(self.wire), origin
            self.detector.reset()
        shift = self._vad_origin
        frames = [VadFrame(frame.end_ms + shift, frame.probability) for frame in self._vad.feed(audio)]
        turns = self.detector.feed(frames, rules)
        if self.detector.state is TurnState.SILENT and not turns:
            self._trim(rules.prefix_padding_ms + 200)
        return turns

    def _trim(self, keep_ms: int) -> None:
        surplus = len(self._audio) - keep_ms * self.wire.bytes_per_ms
        # Cut in large steps: moving the tail on every frame would cost more than it frees.
        if surplus > 500 * self.wire.bytes_per_ms:
            surplus -= surplus % self.wire.width
            del self._audio[:surplus]
            self._dropped += surplus

    def take(self, start_ms: float | None = None, end_ms: float | None = None) -> bytes:
        """Remove and return the audio between two stream positions; earlier audio goes, later stays."""
        begin = 0 if start_ms is None else self._index(start_ms)
        end = len(self._audio) if end_ms is None else self._index(end_ms)
        taken = bytes(self._audio[begin:end])
        self._dropped += end
        del self._audio[:end]
        return taken

    def _index(self, at_ms: float) -> int:
        frame = int((at_ms - self._offset_ms) * self.wire.rate / 1000) * self.wire.width
        return min(max(frame - self._dropped, 0), len(self._audio))

    def clear(self) -> None:
        self.take()
        self.detector.reset()
