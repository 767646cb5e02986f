"""Who waits for a place in which pool, first come first served."""

from __future__ import annotations

from bisect import bisect_left, insort

from .queue import Key

PoolName = tuple[str, str]
_Entry = tuple[float, str, Key]


class WaitingLine:
    """Ordered by creation time, then uid."""

    def __init__(self) -> None:
        self._lines: dict[PoolName, list[_Entry]] = {}
        self._member: dict[str, tuple[PoolName, _Entry]] = {}

    def join(self, uid: str, pool: PoolName, created: float, key: Key) -> int:
        """Take or keep a place in the line; returns how many are before."""
        entry = (created, uid, key)
        if self._member.get(uid) != (pool, entry):
            self.leave(uid)
            insort(self._lines.setdefault(pool, []), entry)
            self._member[uid] = (pool, entry)
        return bisect_left(self._lines[pool], entry)

    def leave(self, uid: str) -> None:
        pool, entry = self._member.pop(uid, (None, None))
        if pool is not None and entry is not None:
            line = self._lines[pool]
            line.pop(bisect_left(line, entry))
            if not line:
                del self._lines[pool]

    def first(self, pool: PoolName, count: int) -> list[Key]:
        return [entry[2] for entry in self._lines.get(pool, [])[:count]]

    def __len__(self) -> int:
        return len(self._member)
