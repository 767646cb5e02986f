"""The line that a caller hears: what is queued, what was heard, where a Clear cuts.

Pure: time is an argument (seconds). A piece of audio that arrives while the line is idle starts after
the jitter buffer; one that arrives in time starts where the last one ends. Nothing is heard twice or out of
order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from .events import AgentAudio, Heard, Mark
from .formats import AudioFormat

MAX_QUEUED_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Audio that was heard, in the line's format, from `start` (seconds on the caller's clock)."""

    start: float
    payload: bytes


@dataclass(slots=True)
class _Piece:
    audio: AgentAudio
    start: float
    end: float


@dataclass(slots=True)
class _PendingMark:
    mark: Mark
    due: float


class PlayoutLine:
    """Plays agent audio on a clock that the caller owns.

    Args:
        format: format of the pieces.
        buffer_ms: how long audio waits when it arrives on an idle line (the jitter buffer).
    """

    def __init__(self, format: AudioFormat, *, buffer_ms: int = 60) -> None:
        self.format = format
        self._buffer = buffer_ms / 1000
        self._pieces: deque[_Piece] = deque()
        self._marks: deque[_PendingMark] = deque()
        self._stretches: list[Stretch] = []
        self._heard = Heard()
        self._end = float("-inf")
        self._cleared_epoch = 0
        self.dropped = 0
        """Pieces thrown away: they came after their Clear, or past the queue's bound of 10 minutes."""

    @property
    def idle(self) -> bool:
        """True when nothing is queued or waits to be marked."""
        return not self._pieces and not self._marks

    def queued_ms(self, now: float) -> int:
        """Milliseconds of audio not heard yet."""
        return max(0, round((self._end - now) * 1000)) if self._pieces else 0

    def push(self, audio: AgentAudio, now: float) -> None:
        """Queue a piece; one that belongs to a cleared epoch is dropped and counted."""
        self._advance(now)
        if audio.epoch <= self._cleared_epoch or self._end - now > MAX_QUEUED_SECONDS:
            self.dropped += 1
            return
        start = self._end if self._end >= now else now + self._buffer
        self._end = start + self.format.seconds(len(audio.payload))
        self._pieces.append(_Piece(audio, start, self._end))

    def mark(self, mark: Mark, now: float) -> None:
        """Queue a mark behind all the audio that is queued now; one of a cleared epoch is forgotten."""
        self._advance(now)
        if mark.epoch > self._cleared_epoch:
            self._marks.append(_PendingMark(mark, max(now, self._end)))

    def clear(self, epoch: int, now: float) -> Heard:
        """Throw away what was not heard of this and earlier epochs; return how far it was heard.

        When nothing of those epochs was queued or heard, the answer has an empty `item_id`.
        """
        self._advance(now)
        self._cleared_epoch = max(self._cleared_epoch, epoch)
        kept: deque[_Piece] = deque()
        first_dropped: AgentAudio | None = None
        for piece in self._pieces:
            if piece.audio.epoch > epoch:
                kept.append(piece)
                continue
            cut = self.format.bytes_for(now - piece.start)
            if cut:
                self._stretches.append(Stretch(piece.start, piece.audio.payload[:cut]))
                self._heard = self._position(piece, now)
            elif first_dropped is None:
                first_dropped = piece.audio
        self._pieces = kept
        self._marks = deque(m for m in self._marks if m.mark.epoch > epoch)
        self._end = kept[-1].end if kept else min(self._end, now)
        if self._heard.item_id and self._heard.epoch <= epoch and not _is_newer(first_dropped, self._heard):
            return replace(self._heard, epoch=epoch)
        if first_dropped is None:
            return Heard(epoch=epoch)
        return Heard(first_dropped.item_id, first_dropped.content_index, epoch, first_dropped.position_ms)

    def heard(self, now: float) -> Heard:
        """Return how far the item that is being played, or was played last, was heard."""
        self._advance(now)
        if self._pieces and self._pieces[0].start < now:
            return self._position(self._pieces[0], now)
        return self._heard

    def take_marks(self, now: float) -> list[Mark]:
        """Return the marks that were passed since the last call."""
        due: list[Mark] = []
        while self._marks and self._marks[0].due <= now:
            due.append(self._marks.popleft().mark)
        return due

    def take_stretches(self, now: float) -> list[Stretch]:
        """Return the audio that was heard since the last call, whole pieces only, oldest first."""
        self._advance(now)
        stretches, self._stretches = self._stretches, []
        return stretches

    def next_deadline(self) -> float | None:
        """When something will be heard or passed, or None on an idle line."""
        times = [piece.end for piece in (*self._pieces,)[:1]] + [mark.due for mark in (*self._marks,)[:1]]
        return min(times, default=None)

    def _advance(self, now: float) -> None:
        while self._pieces and self._pieces[0].end <= now:
            piece = self._pieces.popleft()
            self._stretches.append(Stretch(piece.start, piece.audio.payload))
            self._heard = self._position(piece, piece.end)

    def _position(self, piece: _Piece, now: float) -> Heard:
        audio = piece.audio
        played = audio.position_ms + round((min(now, piece.end) - piece.start) * 1000)
        return Heard(audio.item_id, audio.content_index, audio.epoch, played)


def _is_newer(dropped: AgentAudio | None, heard: Heard) -> bool:
    """True when the first piece dropped unheard belongs to a later epoch than what was heard last."""
    return dropped is not None and dropped.epoch > heard.epoch
