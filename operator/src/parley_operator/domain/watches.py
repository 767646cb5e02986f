"""Whether the watches tell what happens.

A watch that fell silent looks just like a quiet cluster. What gives it away is a change that is known from
elsewhere: a write of our own that the API server has confirmed, or a count of objects that is not ours. From
then on the watch owes an event, and its age grows until one comes.
"""

from __future__ import annotations

from collections.abc import Iterable


class WatchHealth:
    """By kind. Times are monotonic seconds, versions the resource versions of objects."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self._heard: dict[str, int] = dict.fromkeys(kinds, 0)
        # Kind to when and of which version the oldest event is owed; 0 for one that
        # nobody knows, -1 for the same after everything was read again.
        self._owed: dict[str, tuple[float, int]] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._heard)

    def heard(self, kind: str, version: str) -> None:
        """The watch told of an object. It tells in order, so that nothing older is owed any more."""
        if kind not in self._heard:
            return
        number = int(version) if version.isdigit() else 0
        self._heard[kind] = max(number, self._heard[kind])
        _, owed = self._owed.get(kind, (0.0, 0))
        if owed <= self._heard[kind]:
            self._owed.pop(kind, None)

    def written(self, kind: str, version: str, now: float) -> None:
        """The API server confirmed a write of ours, or another change that the watch has to tell."""
        number = int(version) if version.isdigit() else 0
        if kind in self._heard and number > self._heard[kind]:
            self._owed.setdefault(kind, (now, number))

    def counted(self, kind: str, there: int, known: int, now: float) -> None:
        """The API server has `there` objects of the kind, we know of `known`."""
        if there != known and kind in self._heard:
            self._owed.setdefault(kind, (now, 0))
        elif self._owed.get(kind, (0.0, 1))[1] == 0:
            self._owed.pop(kind, None)

    def relisted(self) -> None:
        """Everything was read again: the counts are equal now, and only events can show that the watches
        live."""
        self._owed = {kind: (since, version or -1) for kind, (since, version) in self._owed.items()}

    def age(self, kind: str, now: float) -> float:
        """Seconds since when the watch owes an event; 0 when it owes none."""
        since, _ = self._owed.get(kind, (now, 0))
        return max(0.0, now - since)

    def oldest(self, now: float) -> tuple[str, float]:
        """The kind whose watch is behind most, with its age; an empty name when none is."""
        ages = [(self.age(kind, now), kind) for kind in self._owed]
        age, kind = max(ages, default=(0.0, ""))
        return kind, age
