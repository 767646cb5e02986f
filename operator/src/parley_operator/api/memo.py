"""Remembering what was read from an object that is still the same object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class ByIdentity(Generic[S, T]):
    """`parse`, called once for each object as long as it is among the last `size` ones.

    For objects that nobody changes, such as those of the cache: identity decides, never equality. Errors
    are not remembered.
    """

    def __init__(self, parse: Callable[[S], T], size: int) -> None:
        self._parse = parse
        self._size = size
        self._kept: dict[int, tuple[S, T]] = {}

    def __call__(self, value: S) -> T:
        kept = self._kept.get(id(value))
        if kept is not None and kept[0] is value:
            return kept[1]
        found = self._parse(value)
        # Holding the object keeps its id from being given to another one.
        self._kept[id(value)] = (value, found)
        if len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]
        return found
