"""Which words of a spoken answer belong to its first milliseconds. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right

MAX_POINTS = 512
FASTEST_SPEECH = 30.0
"""Characters a second: transcripts run ahead of their audio, speech itself is never faster."""
_SLACK_MS = 1.0


class Alignment:
    """The transcript and the audio of one content part, as they came, side by side.

    Providers send no times with words. A word lies not later than the audio that came right behind it, and
    in a finished part about as far along as its share of the text; the smaller of both is taken, so that
    what was heard is never overstated by much.
    """

    __slots__ = ("_characters", "_ms", "audio_ms", "complete", "text")

    def __init__(self) -> None:
        self.text = ""
        self.audio_ms = 0.0
        self.complete = False
        # A point for every piece of audio, of every answer of a call: 12 bytes each, and not 100.
        self._ms = array("d", (0.0,))
        self._characters = array("I", (0,))

    def words(self, delta: str) -> None:
        """A piece of the transcript came."""
        self.text += delta

    def audio(self, milliseconds: float) -> None:
        """A piece of the audio came."""
        self.audio_ms += milliseconds
        self._ms.append(self.audio_ms)
        self._characters.append(len(self.text))
        if len(self._ms) > MAX_POINTS:
            del self._ms[1:-1:2]
            del self._characters[1:-1:2]

    def finish(self, text: str | None = None) -> None:
        """The part is whole; `text` is the provider's final transcript, if it gave one."""
        self.complete = True
        if text:
            self.text = text

    def heard(self, milliseconds: float) -> str:
        """The whole words within the first `milliseconds`; all of them when that is all of a whole part."""
        if milliseconds <= 0:
            return ""
        if not self.complete:
            count = min(self._by_points(milliseconds), FASTEST_SPEECH * milliseconds / 1000)
        elif milliseconds >= self.audio_ms - _SLACK_MS:
            return self.text
        else:
            count = min(self._by_points(milliseconds), len(self.text) * milliseconds / self.audio_ms)
        return _whole_words(self.text, int(count + 1e-6))

    def _by_points(self, milliseconds: float) -> float:
        at = bisect_right(self._ms, milliseconds)
        if at >= len(self._ms):
            return float(len(self.text))
        ms0, ms1 = self._ms[at - 1], self._ms[at]
        count0, count1 = self._characters[at - 1], self._characters[at]
        share = (milliseconds - ms0) / (ms1 - ms0) if ms1 > ms0 else 1.0
        return count0 + (count1 - count0) * share


def _whole_words(text: str, count: int) -> str:
    """The first `count` characters without a word that they cut in two."""
    head = text[:count]
    if count < len(text) and not text[count].isspace():
        while head and not head[-1].isspace():
            head = head[:-1]
    return head.rstrip()
