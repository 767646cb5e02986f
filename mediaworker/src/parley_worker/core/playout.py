"""What of the agent's audio was received, sent and heard, per content part: the ground for truncation.

Times are monotonic seconds, positions milliseconds within a content part. Nothing here sends or waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

from parley_realtime.formats import FRAME_MS

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
    acked_at: float = 0.0
    done: bool = False
    ends: float = 0.0
    marks: list[float] = field(default_factory=list)
    """Where marks stand that were sent and have not come back: few, and an empty deque takes 600 bytes."""

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
    """A caller's word on its player: `played_ms` of the part that was thrown away first; an empty item for
    'nothing was thrown away'."""

    item_id: str
    content_index: int
    played_ms: int


@dataclass(frozen=True, slots=True)
class Cut:
    """An item to truncate at `audio_end_ms` of the `received_ms` that came, and how that is known."""

    item_id: str
    content_index: int
    audio_end_ms: int
    source: Source
    epoch: int
    received_ms: float = field(default=0.0, compare=False)


class PlayoutLedger:
    """The playout side of one session. `buffer_ms` is what the caller declared its player to hold.

    A caller that asked for marks within the audio is taken to return them: between two of them its player is
    taken to go on in real time, and never past the next one that has not come back.
    """

    def __init__(self) -> None:
        self._parts: OrderedDict[PartKey, _Part] = OrderedDict()
        self._segments: deque[_Segment] = deque()
        self._sending: PartKey | None = None
        self._sent_part: _Part | None = None
        self._marking = False
        self.buffer_ms = 0
        self.epoch = 0
        self.received_at = 0.0

    def attached(self, buffer_ms: int, marking: bool) -> None:
        """A caller's player takes over; marks that are on their way were another player's."""
        self.buffer_ms, self._marking = buffer_ms, marking
        for part in self._parts.values():
            part.marks.clear()

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
                self._sending = None
        part.received += duration_ms
        return part.received - duration_ms

    def done(self, key: PartKey) -> None:
        """The provider has sent all of a part."""
        if key in self._parts:
            self._parts[key].done = True

    def sent(self, key: PartKey, position_ms: float, duration_ms: float, now: float) -> None:
        """A frame of a part went to the caller. The key of the frame before is known as the same object."""
        part = self._sent_part if key is self._sending else self._parts.get(key)
        if part is None:
            return
        self._sending, self._sent_part = key, part
        reached = position_ms + duration_ms
        part.sent = reached if reached < part.received else part.received
        start = now + self.buffer_ms / 1000
        if self._segments:
            last = self._segments[-1]
            end = last.start + last.length / 1000
            if end >= start - 0.005:
                start = end
                if last.key == key and -0.5 < last.position + last.length - position_ms < 0.5:
                    last.length += duration_ms
                    part.ends = last.start + last.length / 1000
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

    def marked(self, key: PartKey, position_ms: float) -> None:
        """A mark went to the caller behind this much of a part."""
        part = self._parts.get(key)
        if part is not None and self._marking:
            part.marks.append(position_ms)

    def acknowledge(self, key: PartKey, played_ms: float, source: Source, now: float) -> None:
        """The caller says how far it has heard a part; more than was sent counts as what was sent."""
        part = self._parts.get(key)
        if part is None:
            return
        while part.marks and part.marks[0] <= played_ms:
            part.marks.pop(0)
        acked = min(played_ms, part.sent)
        if acked >= part.acked:
            part.acked, part.acked_by, part.acked_at = acked, source, now

    def received_ms(self, key: PartKey) -> float:
        """How much of a part has come; 0 for one that is not followed (any more)."""
        part = self._parts.get(key)
        return part.received if part is not None else 0.0

    def playing_until(self) -> float:
        """When what was sent so far will have been heard, by the clock."""
        return self._segments[-1].end if self._segments else 0.0

    def unheard(self, now: float, above: int = 0) -> bool:
        """True while audio of epochs after `above` was received that the caller cannot have heard yet."""
        self._forget(now)
        return any(
            part.epoch > above
            and part.acked < part.received - ROUNDING_MS
            and (
                part.sent < part.received - ROUNDING_MS
                or bool(part.marks)
                or self._by_clock(key, now) < part.sent
            )
            for key, part in self._parts.items()
        )

    def cut(self, epoch: int, heard: Heard | None, now: float) -> list[Cut]:
        """Where to truncate what was not heard, up to `epoch`; the parts are forgotten.

        Never past what was sent, never less than was acknowledged. 0 only where nothing was sent, or where
        the caller proves that it was still at an earlier part; a part that it names was heard for a frame.
        """
        self._forget(now)
        self._sending = None
        keys = [key for key, part in self._parts.items() if part.epoch <= epoch]
        positions = self._positions(keys, heard, now)
        cuts = []
        for key, (position, source) in zip(keys, positions, strict=True):
            part = self._parts.pop(key)
            end = int(min(position, part.sent, part.received) + 1e-6)
            if end < int(part.received - ROUNDING_MS) or not part.done:
                cuts.append(Cut(key[0], key[1], end, source, part.epoch, part.received))
        self._segments = deque(s for s in self._segments if s.key in self._parts)
        return cuts

    def _positions(self, keys: list[PartKey], heard: Heard | None, now: float) -> list[tuple[float, Source]]:
        """How far each part was heard, and how that is known."""
        named = (heard.item_id, heard.content_index) if heard else None
        if heard and named in keys:
            floor = min(FRAME_MS, self._parts[named].sent)
            return self._around(keys, keys.index(named), "cleared", max(float(heard.played_ms), floor))
        acked = [i for i, key in enumerate(keys) if self._parts[key].acked > 0]
        if acked:
            part = self._parts[keys[acked[-1]]]
            if part.acked < part.sent or not part.done:
                if part.acked_by == "mark":
                    return self._by_marks(keys, acked[-1], now)
                return self._around(keys, acked[-1], part.acked_by, part.acked)
        return self._by_clock_and_marks(keys, now)

    def _around(
        self, keys: list[PartKey], current: int, source: Source, at: float
    ) -> list[tuple[float, Source]]:
        """The player is at `at` of one part: those before it were heard, of those after it what is known."""
        parts = [self._parts[key] for key in keys]
        before: list[tuple[float, Source]] = [(part.sent, source) for part in parts[:current]]
        after: list[tuple[float, Source]] = [(part.acked, source) for part in parts[current + 1 :]]
        return [*before, (max(at, parts[current].acked), source), *after]

    def _by_marks(self, keys: list[PartKey], current: int, now: float) -> list[tuple[float, Source]]:
        """From the last mark on in real time, up to the next one; ends of parts are passed by the clock."""
        result = self._around(keys, current, "mark", self._parts[keys[current]].acked)
        if not self._marking:
            return result
        at = self._parts[keys[current]].acked
        ahead = max(0.0, (now - self._parts[keys[current]].acked_at) * 1000)
        for i in range(current, len(keys)):
            part = self._parts[keys[i]]
            if i > current:
                ahead = min(ahead, self._by_clock(keys[i], now) + self.buffer_ms)
            reach = min(at + ahead, part.marks[0] if part.marks else part.sent, part.sent)
            result[i] = (max(reach, part.acked), "mark")
            if reach < part.sent or not part.complete:
                break
            ahead, at = ahead - (reach - at), 0.0
        return result

    def _by_clock_and_marks(self, keys: list[PartKey], now: float) -> list[tuple[float, Source]]:
        """By the clock; a mark that has not come back holds the player, and what comes after, there."""
        result: list[tuple[float, Source]] = []
        held = False
        for key in keys:
            part = self._parts[key]
            source: Source = "mark" if held else "clock"
            if part.acked > 0 or held:
                result.append((part.acked, part.acked_by if part.acked > 0 else source))
                continue
            position = max(self._by_clock(key, now), min(part.sent, FRAME_MS))
            if part.marks and part.marks[0] < position:
                position, source, held = part.marks[0], "mark", True
            result.append((position, source))
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
                self._sending = None
        while len(self._segments) > 1 and self._segments[0].key not in self._parts:
            self._segments.popleft()
