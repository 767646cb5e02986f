"""The buffer before NATS: order, bounds, what is given up first."""

from __future__ import annotations

import random

from parley_worker.core.model import SessionKey
from parley_worker.core.outbox import Dropped, Entry, Lane, Outbox, estimate
from parley_worker.core.records import EventRecord, RecordKind


def record(
    kind: RecordKind, sequence: int, uid: str = "u1", type_: str = "first_audio", text: str = ""
) -> EventRecord:
    fields = {"text": text} if text else {}
    return EventRecord(kind, SessionKey("ns", "n", uid, 1), sequence, 0.0, type_, fields)


def drain(box: Outbox) -> list[tuple[str, int]]:
    """Everything in the order in which it would be stored."""
    got = []
    while (taken := box.take()) is not None:
        lane, entry = taken
        got.append((entry.record.kind[0] + entry.record.key.uid, entry.record.sequence))
        box.stored(lane, len(got))
    return got


def take(box: Outbox) -> tuple[Lane, Entry]:
    taken = box.take()
    assert taken is not None
    return taken


def test_each_session_keeps_its_order_and_the_journal_goes_first() -> None:
    box = Outbox(100, 1 << 20, 8)
    for sequence in (1, 2):
        for uid in ("a", "b"):
            assert box.add(record("event", sequence, uid), 0) == []
            assert box.add(record("journal", sequence, uid), 0) == []
    got = drain(box)
    assert [g[0][0] for g in got] == ["j"] * 4 + ["e"] * 4
    for lane in ("ea", "eb", "ja", "jb"):
        assert [s for name, s in got if name == lane] == [1, 2]
    assert len(box) == 0
    assert box.size == 0


def test_one_record_of_a_session_is_under_way_at_a_time_and_the_window_bounds_all() -> None:
    box = Outbox(100, 1 << 20, 2)
    for uid in ("a", "b", "c"):
        for sequence in (1, 2):
            box.add(record("event", sequence, uid), 0)
    first, second = take(box), take(box)
    assert {first[0].key[1], second[0].key[1]} == {"a", "b"}
    assert box.take() is None
    box.stored(first[0], 1)
    assert take(box)[0].key[1] == "c"


def test_what_was_put_back_is_next_again() -> None:
    box = Outbox(100, 1 << 20, 8)
    for sequence in (1, 2, 3):
        box.add(record("journal", sequence), 0)
    take(box)
    assert box.take() is None
    box.put_all_back()
    assert drain(box) == [("ju1", 1), ("ju1", 2), ("ju1", 3)]


def test_overflow_drops_the_oldest_events_and_spares_the_journal() -> None:
    box = Outbox(4, 1 << 20, 8)
    box.add(record("journal", 1), 0)
    box.add(record("event", 1, "a"), 1)
    box.add(record("event", 1, "b"), 2)
    box.add(record("journal", 2), 3)
    assert not box.lossy
    assert box.add(record("event", 2, "a"), 4) == [Dropped("event", 1)]
    assert box.add(record("journal", 3), 5) == [Dropped("event", 1)]
    assert box.add(record("journal", 4), 6) == [Dropped("event", 1)]
    assert box.lossy
    assert box.add(record("event", 3, "a"), 7) == [Dropped("event", 1)]
    assert box.add(record("journal", 5), 8) == [Dropped("journal", 1)]
    assert drain(box) == [("ju1", n) for n in (2, 3, 4, 5)]
    assert not box.lossy


def test_bytes_are_a_bound_too() -> None:
    big = record("event", 1, text="x" * 5000)
    box = Outbox(1000, estimate(big) + 1000, 8)
    box.add(big, 0)
    assert box.add(record("event", 2, text="y" * 5000), 1) == [Dropped("event", 1)]
    assert drain(box) == [("eu1", 2)]


def test_a_record_larger_than_the_buffer_is_dropped_itself() -> None:
    box = Outbox(10, 1000, 8)
    assert box.add(record("journal", 1, text="x" * 5000), 0) == [Dropped("journal", 1)]
    assert len(box) == 0


def test_a_record_under_way_is_never_dropped() -> None:
    box = Outbox(1, 1 << 20, 8)
    box.add(record("event", 1), 0)
    lane, _ = take(box)
    assert box.add(record("event", 2), 0) == [Dropped("event", 1)]
    box.stored(lane, 1)
    assert len(box) == 0


def test_a_fenced_journal_takes_nothing_more_until_its_session_is_over() -> None:
    box = Outbox(100, 1 << 20, 8)
    for sequence in (1, 2, 3):
        box.add(record("journal", sequence), 0)
    lane, _ = take(box)
    assert box.fence(lane) == 3
    assert len(box) == 0
    refused = [Dropped("journal", 1, "fenced")]
    assert box.add(record("journal", 4), 0) == refused
    assert box.add(record("journal", 5, type_="session_ended"), 0) == refused
    assert box.take() is None
    assert box.add(record("event", 1), 0) == []
    assert drain(box) == [("eu1", 1)]


def test_age_is_that_of_the_oldest() -> None:
    box = Outbox(100, 1 << 20, 8)
    assert box.oldest_age(9) == 0
    box.add(record("event", 1), 3)
    box.add(record("journal", 1), 5)
    assert box.oldest_age(9) == 6
    drain(box)
    assert box.oldest_age(9) == 0


def test_clear_tells_what_is_lost() -> None:
    box = Outbox(100, 1 << 20, 8)
    for sequence in (1, 2):
        box.add(record("event", sequence), 0)
    box.add(record("journal", 1), 0)
    take(box)
    assert sorted(box.clear(), key=lambda d: d.kind) == [Dropped("event", 2), Dropped("journal", 1)]
    assert len(box) == box.size == box.under_way == 0


def test_closed_kinds_are_left_alone() -> None:
    box = Outbox(100, 1 << 20, 8)
    box.add(record("journal", 1), 0)
    assert box.take(frozenset({"journal"})) is None
    assert box.take(frozenset({"event"})) is not None


def test_whatever_fails_what_is_stored_keeps_every_sessions_order() -> None:
    source = random.Random(7)
    for _ in range(50):
        box = Outbox(12, 1 << 20, 4)
        counters: dict[tuple[str, str], int] = {}
        stored: dict[tuple[str, str], list[int]] = {}
        flying: list[tuple[Lane, Entry]] = []
        for _ in range(300):
            step = source.random()
            if step < 0.45:
                name: tuple[RecordKind, str] = (source.choice(("event", "journal")), source.choice("abc"))
                counters[name] = counters.get(name, 0) + 1
                box.add(record(name[0], counters[name], name[1]), 0)
            elif step < 0.7 and (taken := box.take()):
                flying.append(taken)
            elif step < 0.95 and flying:
                lane, entry = flying.pop(source.randrange(len(flying)))
                stored.setdefault((lane.key[0], lane.key[1]), []).append(entry.record.sequence)
                box.stored(lane, 1)
            elif step >= 0.95:
                box.put_all_back()
                flying.clear()
            assert len(box) <= 12 + 4
            assert box.under_way == len(flying) <= 4
        for sequences in stored.values():
            assert sequences == sorted(set(sequences))


def test_a_session_that_says_too_much_loses_its_own_records_and_nobody_elses() -> None:
    long = record("event", 1, text="x" * 1000)
    box = Outbox(100_000, 100 * estimate(long), 8)
    for sequence in range(1, 31):
        assert box.add(record("event", sequence, "quiet", text="x" * 1000), 0) == []
    lost = 0
    for sequence in range(1, 10_001):
        for dropped in box.add(record("event", sequence, "loud", text="x" * 1000), 0):
            assert dropped.kind == "event"
            lost += dropped.count
    assert lost > 9_900
    assert box.lossy
    got = drain(box)
    assert [s for name, s in got if name == "equiet"] == list(range(1, 31))
    loud = [s for name, s in got if name == "eloud"]
    assert loud == list(range(10_001 - len(loud), 10_001))
    assert box.size == 0


def test_one_session_alone_may_fill_half_of_the_buffer() -> None:
    long = record("journal", 1, text="x" * 1000)
    box = Outbox(100_000, 100 * estimate(long), 8)
    for sequence in range(1, 51):
        assert box.add(record("journal", sequence, text="x" * 1000), 0) == []
    assert box.add(record("journal", 51, text="x" * 1000), 0) != []
