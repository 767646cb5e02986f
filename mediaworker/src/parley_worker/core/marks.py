"""Marks within the agent's audio: named when they are sent, and read when they come back. Pure."""

from __future__ import annotations

from parley_worker.core import events as ev
from parley_worker.core.effects import Mark

MAX_MARKS = 4096


class Marks:
    """The marks of one leg that have not come back; beyond MAX_MARKS the oldest is forgotten."""

    def __init__(self) -> None:
        self._sent: dict[str, ev.PartSent] = {}
        self._number = 0

    def forget(self) -> None:
        """The player that was sent them is gone. Names are not used again."""
        self._sent.clear()

    def after(self, part: ev.PartSent) -> Mark:
        """The mark to send behind audio that was sent."""
        self._number += 1
        name = f"m{self._number}"
        self._sent[name] = part
        while len(self._sent) > MAX_MARKS:
            del self._sent[next(iter(self._sent))]
        return Mark(name, part.epoch, part.item_id, part.content_index, int(part.position_ms))

    def back(self, mark: ev.MarkPlayed) -> ev.PartSent | None:
        """Where a mark stood that came back; None for one that is not known, or not of that epoch."""
        part = self._sent.pop(mark.name, None)
        return part if part is not None and part.epoch == mark.epoch else None
