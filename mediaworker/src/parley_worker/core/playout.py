"""What of the agent's audio was received, sent and heard, per content part: the ground for truncation.

Times are monotonic seconds, positions milliseconds within a content part. Nothing here sends or waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

FRAME_MS = 20.0
ROUNDING_MS = 2.0
MAX_PARTS = 64
SURELY_HEARD_SECONDS = 2.0

PartKey = tuple[str, int]
Source = Literal["cleared", "mark", "progress", "clock"]


@dataclass(slots=True)
class _Part:
    epoch: int
    received: float = 0.0
    sent: float = 0.0
    acked: float = 0.0
    acked_by: Source = "progress"
    done: bool = False
    ends: float = 0.0

    @property
    def complete(self) -> bool:
        """All of it was sent."""
        return self.done and self.sent >= self.received - ROUNDING_MS


@dataclass(slots=True)
class _Segment:
    """Audio that plays without a break: from `start` on, positions `position` to `position + length`."""

    key: PartKey
    start: float
    position: float
    length: float

    @property
    def end(self) -> float:
        return self.start + self.length / 1000


@dataclass(slots=True)
class AudioCounters:
    """Milliseconds of caller audio given to the provider, and of agent audio given to callers."""

    input_ms: float = 0.0
    output_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A caller's word on its player: `played_ms` of a part; an empty item for 'nothing was playing'."""

    item_id: str
    content_index: int
    played_ms: int


@dataclass(frozen=True, slots=True)
class Cut:
    """An item to truncate at `audio_end_ms`, and how that is known."""

    item_id: str
    content_index: int
    audio_end_ms: int
    source: Source
    epoch: int


class PlayoutLedger:
    """The playout side of one session. `buffer_ms` is what the caller declared its player to hold."""

    def __init__(self) -> None:
        self._parts: OrderedDict[PartKey, _Part] = OrderedDict()
        self._segments: deque[_Segment] = deque()
        self.buffer_ms = 0
        self.epoch = 0
        self.received_at = 0.0

    def received(self, key: PartKey, epoch: int, duration_ms: float, now: float) -> float:
        """Audio of a part came from the provider; gives where in the part it begins."""
        self.received_at = now
        part = self._parts.get(key)
        if part is None:
            self._forget(now)
            self.epoch = max(self.epoch, epoch)
            part = self._parts[key] = _Part(epoch)
            while len(self._parts) > MAX_PARTS:
                self._parts.popitem(last=False)
        part.received += duration_ms
        return part.received - duration_ms

    def done(self, key: PartKey) -> None:
        """The provider has sent all of a part."""
        if key in self._parts:
            self._parts[key].done = True

    def sent(self, key: PartKey, position_ms: float, duration_ms: float, now: float) -> None:
        """A frame of a part went to the caller."""
        part = self._parts.get(key)
        if part is None:
            return
        part.sent = min(position_ms + duration_ms, part.received)
        last = self._segments[-1] if self._segments else None
        start = now + self.buffer_ms / 1000
        if last is not None and last.end >= start - 0.005:
            start = last.end
            if last.key == key and abs(last.position + last.length - position_ms) < 0.5:
                last.length += duration_ms
                part.ends = last.end
                return
        self._segments.append(_Segment(key, start, position_ms, duration_ms))
        part.ends = self._segments[-1].end
        while len(self._segments) > 4 * MAX_PARTS:
            self._segments.popleft()

    def unsent(self, key: PartKey, position_ms: float) -> None:
        """A part's audio from there on was thrown away before it left."""
        part = self._parts.get(key)
        if part is not None:
            part.sent = min(part.sent, position_ms)
            part.acked = min(part.acked, part.sent)

    def stop(self, now: float) -> None:
        """The caller's player throws away what it holds: nothing sent so far is heard after `now`."""
        kept = [segment for segment in self._segments if segment.start < now]
        for segment in kept:
            segment.length = min(segment.length, (now - segment.start) * 1000)
        self._segments = deque(kept)

    def acknowledge(self, key: PartKey, played_ms: float, source: Source) -> None:
        """The caller says how far it has heard a part; more than was sent counts as what was sent."""
        part = self._parts.get(key)
        if part is None:
            return
        acked = min(played_ms, part.sent)
        if acked >= part.acked:
            part.acked, part.acked_by = acked, source

    def playing_until(self) -> float:
        """When what was sent so far will have been heard, by the clock."""
        return self._segments[-1].end if self._segments else 0.0

    def unheard(self, now: float) -> bool:
        """True while audio was received that the caller cannot have heard yet."""
        self._forget(now)
        return any(
            part.acked < part.received - ROUNDING_MS
            and (part.sent < part.received - ROUNDING_MS or self._by_clock(key, now) < part.sent)
            for key, part in self._parts.items()
        )

    def cut(self, epoch: int, heard: Heard | None, now: float) -> list[Cut]:
        """Where to truncate what was not heard, up to `epoch`; the parts are forgotten.

        Never past what was sent, never less than was acknowledged. 0 only where nothing was sent, or where
        the caller proves that it was still at an earlier part.
        """
        self._forget(now)
        keys = [key for key, part in self._parts.items() if part.epoch <= epoch]
        positions = self._positions(keys, heard, now)
        cuts = []
        for key, (position, source) in zip(keys, positions, strict=True):
            part = self._parts.pop(key)
            end = int(min(position, part.sent, part.received) + 1e-6)
            if end < int(part.received - ROUNDING_MS) or not part.done:
                cuts.append(Cut(key[0], key[1], end, source, part.epoch))
        self._segments = deque(s for s in self._segments if s.key in self._parts)
        return cuts

    def _positions(self, keys: list[PartKey], heard: Heard | None, now: float) -> list[tuple[float, Source]]:
        source: Source
        current, source, at = len(keys), "clock", 0.0
        named = (heard.item_id, heard.content_index) if heard else None
        if heard and named in keys and heard.played_ms > 0:
            current, source, at = keys.index(named), "cleared", float(heard.played_ms)
        else:
            acked = [i for i, key in enumerate(keys) if self._parts[key].acked > 0]
            if acked:
                part = self._parts[keys[acked[-1]]]
                if part.acked < part.sent or not part.done:
                    current, source, at = acked[-1], part.acked_by, part.acked
        result: list[tuple[float, Source]] = []
        for i, key in enumerate(keys):
            part = self._parts[key]
            if i < current < len(keys):
                result.append((part.sent, source))
            elif i == current:
                result.append((max(at, part.acked), source))
            elif i > current:
                result.append((part.acked, source))
            elif part.acked > 0:
                result.append((part.acked, part.acked_by))
            else:
                floor = min(part.sent, FRAME_MS)
                result.append((max(self._by_clock(key, now), floor), "clock"))
        return result

    def _by_clock(self, key: PartKey, now: float) -> float:
        position = 0.0
        for segment in self._segments:
            if segment.key == key and segment.start < now:
                position = max(position, segment.position + min((now - segment.start) * 1000, segment.length))
        return position

    def _forget(self, now: float) -> None:
        """Drop what has surely been heard: sent in full, and over by the clock for a while."""
        for key, part in list(self._parts.items()):
            if part.complete and part.ends + SURELY_HEARD_SECONDS < now:
                del self._parts[key]
        while len(self._segments) > 1 and self._segments[0].key not in self._parts:
            self._segments.popleft()
