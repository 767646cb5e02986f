"""Records that wait for the bus: bounded, in order within each session, oldest facts given up first.

A lane is one session's records of one kind. One record of a lane is under way at a time, so what is stored
keeps the lane's order whatever fails; lanes go side by side, and a window bounds how many.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from parley_worker.core.records import EventRecord, RecordKind

MAX_IDLE_LANES = 4096
SHARES = 8
"""Once half of the buffer is full no lane holds more than one of so many parts of it: a session that says too
much loses its own."""
_OVERHEAD = 400

LaneKey = tuple[RecordKind, str, int]


@dataclass(slots=True, eq=False)
class Entry:
    """One waiting record. `first_sent` is set once it was sent: it may be stored without our knowing."""

    record: EventRecord
    size: int
    added: float
    first_sent: float | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """One session's waiting records of one kind. `expected` is the stream sequence of the last stored record
    of the journal's subject, as far as known."""

    key: LaneKey
    waiting: deque[Entry] = field(default_factory=deque)
    under_way: Entry | None = None
    expected: int = 0
    size: int = 0
    fenced: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """Records that were given up; `cause` is `overflow` or `fenced`."""

    kind: RecordKind
    count: int
    cause: str = "overflow"


def estimate(record: EventRecord) -> int:
    """Bytes that a record will need, roughly: its texts and a constant."""
    return _OVERHEAD + sum(len(v) if isinstance(v, str) else 16 for v in record.fields.values())


class Outbox:
    """The buffer before NATS.

    A lane over its share gives up its own oldest, once half of the buffer is full. Overflow of all, by count
    or bytes: the oldest waiting events go first, whichever session's; journal records go (the oldest first)
    only when no event is left. A record under way is never dropped.
    """

    def __init__(self, max_count: int, max_bytes: int, window: int) -> None:
        self._max_count, self._max_bytes, self._window = max_count, max_bytes, window
        self._lanes: OrderedDict[LaneKey, Lane] = OrderedDict()
        self._ready: dict[RecordKind, OrderedDict[LaneKey, Lane]] = {
            "event": OrderedDict(),
            "journal": OrderedDict(),
        }
        self._order: dict[RecordKind, OrderedDict[int, Entry]] = {
            "event": OrderedDict(),
            "journal": OrderedDict(),
        }
        self._count: dict[RecordKind, int] = {"event": 0, "journal": 0}
        self._bytes = 0
        self._under_way = 0
        self._lossy = False

    def __len__(self) -> int:
        return self._count["event"] + self._count["journal"]

    def count(self, kind: RecordKind) -> int:
        return self._count[kind]

    @property
    def size(self) -> int:
        return self._bytes

    @property
    def under_way(self) -> int:
        return self._under_way

    @property
    def lossy(self) -> bool:
        """True from a loss until everything that waits is delivered."""
        return self._lossy

    def oldest_age(self, now: float) -> float:
        """Seconds that the oldest record waits; 0 when none does."""
        ages = [now - next(iter(order.values())).added for order in self._order.values() if order]
        return max(ages, default=0.0)

    def add(self, record: EventRecord, now: float) -> list[Dropped]:
        """Take a record; returns what had to go for it (perhaps the record itself)."""
        key: LaneKey = (record.kind, record.key.uid, record.key.attempt)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            self._forget_idle(key)
        if record.kind == "journal" and record.type == "session_ended":
            lane.closed = True
        if lane.fenced:
            if lane.closed:
                del self._lanes[key]
            return [Dropped("journal", 1, "fenced")]
        entry = Entry(record, estimate(record), now)
        lane.waiting.append(entry)
        self._order[record.kind][id(entry)] = entry
        self._count[record.kind] += 1
        self._bytes += entry.size
        lane.size += entry.size
        self._offer(lane)
        return self._trim_lane(lane) + self._trim()

    def expect(self, key: LaneKey, sequence: int) -> None:
        """The lane's next record is to be stored behind that sequence of the stream."""
        self._lanes.setdefault(key, Lane(key)).expected = sequence

    def empty(self, key: LaneKey) -> bool | None:
        """Whether all records of the lane are stored; None when they never will be."""
        lane = self._lanes.get(key)
        if lane is None:
            return True
        return None if lane.fenced else not lane.waiting and lane.under_way is None

    def take(self, closed_kinds: frozenset[RecordKind] = frozenset()) -> tuple[Lane, Entry] | None:
        """The next record to send, journal first; None when the window is full or nothing can go.

        `closed_kinds` are left alone.
        """
        if self._under_way >= self._window:
            return None
        for kind in ("journal", "event"):
            ready = self._ready[kind]
            if not ready or kind in closed_kinds:
                continue
            _, lane = ready.popitem(last=False)
            lane.under_way = entry = lane.waiting.popleft()
            self._under_way += 1
            return lane, entry
        return None

    def stored(self, lane: Lane, sequence: int) -> None:
        """The record under way is stored at that stream sequence."""
        lane.expected = sequence
        self._finish(lane)

    def give_up(self, lane: Lane) -> None:
        """The record under way can never be stored."""
        self._lossy = True
        self._finish(lane)

    def put_back(self, lane: Lane) -> None:
        """The record under way was not acknowledged: it is the lane's next again."""
        if lane.under_way is not None:
            lane.waiting.appendleft(lane.under_way)
            lane.under_way = None
            self._under_way -= 1
            self._offer(lane)

    def put_all_back(self) -> None:
        for lane in list(self._lanes.values()):
            self.put_back(lane)

    def fence(self, lane: Lane) -> int:
        """Someone newer writes this journal: drop the lane's records, and those to come. Returns how many."""
        lane.fenced = True
        dropped = len(lane.waiting) + (lane.under_way is not None)
        while lane.waiting:
            self._remove(lane.waiting.popleft())
        self._ready["journal"].pop(lane.key, None)
        self._finish(lane)
        return dropped

    def clear(self) -> list[Dropped]:
        """Give everything up; returns what was lost."""
        lost = [Dropped(kind, count) for kind, count in self._count.items() if count]
        self.put_all_back()
        for lane in self._lanes.values():
            while lane.waiting:
                self._remove(lane.waiting.popleft())
        for ready in self._ready.values():
            ready.clear()
        self._lossy = self._lossy or bool(lost)
        return lost

    def _finish(self, lane: Lane) -> None:
        if lane.under_way is not None:
            self._remove(lane.under_way)
            lane.under_way = None
            self._under_way -= 1
        if lane.waiting:
            self._offer(lane)
        elif lane.closed or (lane.key[0] == "event" and not lane.fenced):
            self._lanes.pop(lane.key, None)
        if not len(self):
            self._lossy = False

    def _offer(self, lane: Lane) -> None:
        if lane.waiting and lane.under_way is None:
            self._ready[lane.key[0]].setdefault(lane.key, lane)

    def _remove(self, entry: Entry) -> None:
        kind = entry.record.kind
        del self._order[kind][id(entry)]
        self._count[kind] -= 1
        self._bytes -= entry.size
        lane = self._lanes.get((kind, entry.record.key.uid, entry.record.key.attempt))
        if lane is not None:
            lane.size -= entry.size

    def _trim_lane(self, lane: Lane) -> list[Dropped]:
        count = 0
        while 2 * self._bytes > self._max_bytes < SHARES * lane.size and len(lane.waiting) > 1:
            self._remove(lane.waiting.popleft())
            count += 1
        if not count:
            return []
        self._lossy = True
        return [Dropped(lane.key[0], count)]

    def _trim(self) -> list[Dropped]:
        counts: dict[RecordKind, int] = {}
        while len(self) > self._max_count or self._bytes > self._max_bytes:
            entry = self._oldest_waiting("event") or self._oldest_waiting("journal")
            if entry is None:
                break
            record = entry.record
            lane = self._lanes[record.kind, record.key.uid, record.key.attempt]
            lane.waiting.remove(entry)
            if not lane.waiting:
                self._ready[record.kind].pop(lane.key, None)
            self._remove(entry)
            self._lossy = True
            counts[record.kind] = counts.get(record.kind, 0) + 1
        return [Dropped(kind, count) for kind, count in counts.items()]

    def _oldest_waiting(self, kind: RecordKind) -> Entry | None:
        for entry in self._order[kind].values():
            record = entry.record
            if self._lanes[kind, record.key.uid, record.key.attempt].under_way is not entry:
                return entry
        return None

    def _forget_idle(self, keep: LaneKey) -> None:
        if len(self._lanes) <= MAX_IDLE_LANES:
            return
        for key, lane in self._lanes.items():
            if not lane.waiting and lane.under_way is None and key != keep:
                del self._lanes[key]
                return
