"""Order, coalescing and bounds of what waits to be sent, in virtual time."""

from __future__ import annotations

import base64
import json

import pytest
from parley_realtime import PCM16, PCMU, OutgoingQueueFull
from parley_realtime.client.outgoing import SendQueue

MS = PCM16.bytes_per_second // 1000


def queue(buffer_ms: int = 10_000, events: int = 8) -> SendQueue:
    return SendQueue(PCM16, buffer_ms, events)


def audio_of(data: str | bytes) -> bytes:
    return base64.b64decode(json.loads(data)["audio"])


def drain(q: SendQueue, now: float) -> list[str | bytes]:
    """Audio as the bytes it carries, events as text."""
    got: list[str | bytes] = []
    while (out := q.take(now)) is not None:
        got.append(audio_of(out.data) if out.audio_bytes else out.data)
    return got


def test_20_ms_go_at_once() -> None:
    q = queue()
    q.put_audio(b"\1" * 20 * MS, 0.0)
    assert drain(q, 0.0) == [b"\1" * 20 * MS]
    assert q.deadline() is None


def test_small_pieces_wait_for_20_ms() -> None:
    q = queue()
    q.put_audio(b"\1" * 10 * MS, 5.0)
    assert drain(q, 5.0) == []
    assert q.deadline() == pytest.approx(5.04)
    q.put_audio(b"\2" * 10 * MS, 5.01)
    assert drain(q, 5.01) == [b"\1" * 10 * MS + b"\2" * 10 * MS]


def test_a_small_piece_goes_after_40_ms() -> None:
    q = queue()
    q.put_audio(b"\1" * 5 * MS, 5.0)
    assert drain(q, 5.039) == []
    assert drain(q, 5.0401) == [b"\1" * 5 * MS]


def test_a_backlog_goes_in_pieces_of_40_ms() -> None:
    q = queue()
    q.put_audio(b"\1" * 100 * MS, 0.0)
    assert [len(x) // MS for x in drain(q, 0.0)] == [40, 40, 20]


def test_order_of_audio_and_events_is_kept() -> None:
    q = queue()
    q.put_audio(b"\1" * 3 * MS, 0.0)
    q.put_event("commit")
    q.put_audio(b"\2" * 20 * MS, 0.0)
    assert drain(q, 0.0) == [b"\1" * 3 * MS, "commit", b"\2" * 20 * MS]


def test_the_oldest_audio_goes_first_and_events_stay() -> None:
    q = queue(buffer_ms=100)
    assert q.put_audio(b"\1" * 60 * MS, 0.0) == 0
    q.put_event("one")
    assert q.put_audio(b"\2" * 60 * MS, 0.0) == 20 * MS
    assert q.put_audio(b"\3" * 60 * MS, 0.0) == 60 * MS
    assert drain(q, 9.0) == ["one", b"\2" * 40 * MS, b"\3" * 40 * MS, b"\3" * 20 * MS]


def test_what_is_kept_is_the_newest() -> None:
    q = queue(buffer_ms=100)
    q.put_event("first")
    for n in range(50):
        q.put_audio(bytes([n]) * 20 * MS, 0.0)
        assert q.audio_bytes <= 100 * MS
    sent = drain(q, 9.0)
    assert sent[0] == "first"
    kept = b"".join(x for x in sent[1:] if isinstance(x, bytes))
    assert kept == b"".join(bytes([n]) * 20 * MS for n in range(45, 50))


def test_one_piece_larger_than_the_buffer() -> None:
    q = queue(buffer_ms=100)
    assert q.put_audio(b"\1" * 60 * MS + b"\2" * 100 * MS, 0.0) == 60 * MS
    assert b"".join(x for x in drain(q, 9.0) if isinstance(x, bytes)) == b"\2" * 100 * MS


def test_events_have_a_bound() -> None:
    q = queue(events=2)
    q.put_event("a")
    q.put_event("b")
    with pytest.raises(OutgoingQueueFull, match="2 client events wait"):
        q.put_event("c")
    assert drain(q, 0.0) == ["a", "b"]
    q.put_event("d")
    assert drain(q, 0.0) == ["d"]


def test_g711_counts_its_own_bytes() -> None:
    q = SendQueue(PCMU, 1000, 8)
    q.put_audio(b"\1" * 160, 0.0)
    out = q.take(0.0)
    assert out is not None
    assert out.audio_bytes == 160
