"""Which conversation events a caller is told."""

from __future__ import annotations

import re
from collections.abc import Sequence

NONE = "none"
MAX_PATTERNS = 64
MAX_CHARACTERS = 128
_PATTERN = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?")
_REMEMBERED = 256


class EventFilter:
    """By type. `patterns` are types, beginnings of types with `.*` behind them, or `none` alone; no patterns
    stand for all events."""

    __slots__ = ("_beginnings", "_known", "_types")

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._types = frozenset(each for each in patterns if not each.endswith(".*"))
        self._beginnings = tuple(each[:-1] for each in patterns if each.endswith(".*"))
        self._known: dict[str, bool] = {}

    def wants(self, kind: str) -> bool:
        """Whether events of this type are told."""
        wanted = self._known.get(kind)
        if wanted is None:
            everything = not self._types and not self._beginnings
            wanted = everything or kind in self._types or kind.startswith(self._beginnings)
            # The provider chooses the types.
            if len(self._known) < _REMEMBERED:
                self._known[kind] = wanted
        return wanted


def objection(patterns: Sequence[str]) -> str:
    """What is wrong with the patterns; empty when nothing is."""
    if len(patterns) > MAX_PATTERNS:
        return f"has {len(patterns)} entries; use at most {MAX_PATTERNS}"
    for each in patterns:
        if len(each) > MAX_CHARACTERS or not _PATTERN.fullmatch(each):
            return f"has {each[:MAX_CHARACTERS]!r}; use a type, a beginning with .* behind it, or none"
    if NONE in patterns and len(patterns) > 1:
        return "has none beside others; use it alone"
    return ""
