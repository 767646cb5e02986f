"""What a caller said last, kept so that it can be said again to another worker. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

LEAD_FRAMES: Final = 60
"""Frames before the word that speech began: the provider needs some to notice."""


class SentAudio:
    """The newest frames of the leg as they are now, at most `frames` of them.

    Knows from which on they belong to a turn that nobody has the words of yet.
    """

    def __init__(self, frames: int) -> None:
        self._frames: deque[tuple[int, bytes]] = deque(maxlen=max(1, frames))
        self._keeps = frames > 0
        self._turn: int | None = None

    def sent(self, number: int, frame: bytes) -> None:
        """A frame went out."""
        if self._keeps:
            self._frames.append((number, frame))

    def event(self, type: str) -> None:
        """A conversation event came: turns begin, and end when their words are known or they are answered."""
        if type == "input_audio_buffer.speech_started":
            newest = self._frames[-1][0] if self._frames else 0
            self._turn = max(1, newest - LEAD_FRAMES)
        elif type in ("conversation.item.input_audio_transcription.completed", "response.created"):
            self._turn = None

    def take(self, first: int) -> list[bytes]:
        """Frames from that number on, to be sent again; the leg they went to is over."""
        again = [frame for number, frame in self._frames if number >= first] if first > 0 else []
        self._frames.clear()
        return again

    def take_turn(self) -> list[bytes]:
        """Frames of the turn whose words are not known, to be sent again."""
        first, self._turn = self._turn or 0, None
        return self.take(first)
