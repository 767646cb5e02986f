"""The agent's words beside its audio: what was said, and how much of it was heard. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from parley_realtime.protocol.alignment import Alignment

from parley_worker.core.fields import MAX_INTEGER
from parley_worker.core.playout import MAX_PARTS, PartKey

MAX_CHARACTERS = 100_000


@dataclass(slots=True)
class _Words:
    alignment: Alignment = field(default_factory=Alignment)
    heard_ms: int | None = None
    told: Said | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a part: all that were made, and those that were heard where the part was truncated."""

    item_id: str
    content_index: int
    text: str
    heard_text: str = ""
    truncated: bool = False
    audio_ms: int = field(default=0, compare=False)
    """How much audio of the part has come."""


class SpokenWords:
    """The last parts that the agent spoke, by item and content index.

    `audio_ms` is always how much of the part's audio has come so far.
    """

    def __init__(self) -> None:
        self._parts: OrderedDict[PartKey, _Words] = OrderedDict()

    def words(self, key: PartKey, delta: str, audio_ms: float) -> None:
        """A piece of the transcript came."""
        part = self._of(key, audio_ms)
        part.alignment.words(delta[: max(0, MAX_CHARACTERS - len(part.alignment.text))])

    def finished(self, key: PartKey, text: str, audio_ms: float) -> Said | None:
        """The provider's final transcript came; None where it says nothing that was not said already."""
        part = self._of(key, audio_ms)
        part.alignment.finish(text[:MAX_CHARACTERS])
        return self._said(key, part, text)

    def truncated(self, key: PartKey, heard_ms: int, audio_ms: float) -> Said | None:
        """The part was heard up to there; None while no word of it has come."""
        part = self._of(key, audio_ms)
        part.heard_ms = heard_ms
        return self._said(key, part, part.alignment.text) if part.alignment.text else None

    def _of(self, key: PartKey, audio_ms: float) -> _Words:
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Words()
            while len(self._parts) > MAX_PARTS:
                self._parts.popitem(last=False)
        if audio_ms > part.alignment.audio_ms:
            part.alignment.audio(audio_ms - part.alignment.audio_ms)
        return part

    def _said(self, key: PartKey, part: _Words, text: str) -> Said | None:
        audio_ms = min(int(part.alignment.audio_ms), MAX_INTEGER)
        said = Said(key[0], key[1], text, audio_ms=audio_ms)
        if part.heard_ms is not None:
            heard = part.alignment.heard(part.heard_ms)
            said = Said(key[0], key[1], text, heard, truncated=True, audio_ms=audio_ms)
        if said == part.told:
            return None
        part.told = said
        return said
