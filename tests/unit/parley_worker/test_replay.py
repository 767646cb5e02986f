"""What a caller that comes back is given again is what was kept, however it is kept."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from parley_worker.core.effects import ConversationEvent
from parley_worker.core.replay import PACKED_BYTES, PACKED_TOGETHER, Replay


class Plain:
    """The same without packing."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events, self._max_bytes = max_events, max_bytes
        self.kept: deque[ConversationEvent] = deque()

    @property
    def bytes(self) -> int:
        return sum(len(event.event_json.encode()) for event in self.kept)

    def added(self, event: ConversationEvent) -> None:
        self.kept.append(event)
        while len(self.kept) > self._max_events or self.bytes > self._max_bytes:
            self.kept.popleft()

    def since(self, attempt: int, sequence: int) -> list[ConversationEvent]:
        return [event for event in self.kept if (event.attempt, event.sequence) > (attempt, sequence)]


def word(number: int, size: int) -> dict[str, Any]:
    return {
        "type": f"response.kind{number % 3}",
        "event_id": f"event_{number}",
        "text": "wörd "[:size] * size,
    }


@given(
    st.integers(0, 3 * PACKED_TOGETHER),
    st.sampled_from([600, 4000, 200_000]),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 200)), max_size=12),
    st.integers(0, 500),
)
def test_the_latest_events_come_back_as_they_were(
    max_events: int, max_bytes: int, runs: list[tuple[int, int]], asked: int
) -> None:
    replay, plain = Replay(2, max_events, max_bytes), Plain(max_events, max_bytes)
    made = 0
    for count, size in runs:
        for _ in range(count):
            made += 1
            plain.added(replay.add(word(made, size)))
    kept = list(plain.kept)
    assert (len(replay), replay.bytes, replay.last) == (len(kept), plain.bytes, made)
    assert replay.since(asked) == plain.since(2, asked)
    assert replay.since(0, 1) == kept
    most = plain.bytes // 2
    newest = replay.newest(40, most)
    assert newest == kept[len(kept) - len(newest) :]
    assert len(newest) <= 40
    assert sum(len(event.event_json.encode()) for event in newest) <= most


def test_events_of_an_earlier_attempt_go_first_and_are_told_apart() -> None:
    replay = Replay(3, 512, 1 << 20)
    late = [ConversationEvent(n, 2, "error", f'{{"n":{n}}}') for n in range(90, 140)]
    for event in late:
        replay.carry(event)
    own = [replay.add({"type": "error", "n": n}) for n in range(50)]
    assert replay.since(0, 1) == late + own
    assert replay.since(120, 2) == late[31:] + own
    assert replay.since(0) == own
    assert replay.since(45) == own[45:]


def ordinary(number: int) -> dict[str, Any]:
    """As providers say them: most of it is the same each time."""
    return {
        "type": "response.output_audio_transcript.delta",
        "event_id": f"event_{number * 7919:024x}",
        "response_id": f"resp_{number // 20 * 104729:024x}",
        "item_id": f"item_{number // 20 * 1299709:024x}",
        "output_index": 0,
        "content_index": 0,
        "delta": f" word{number % 50}",
    }


def test_what_is_kept_is_small() -> None:
    replay = Replay(1, 512, 1 << 20)
    for number in range(2000):
        replay.add(ordinary(number))
    assert len(replay) == 512
    assert replay.bytes > 100_000
    assert replay.packed_bytes < replay.bytes / 4


def large(number: int) -> dict[str, Any]:
    return {"type": "error", "n": number, "text": "x" * (PACKED_BYTES // 2)}


def test_large_events_are_not_left_unpacked() -> None:
    replay = Replay(1, 512, 1 << 20)
    for number in range(20):
        replay.add(large(number))
    assert replay.packed_bytes < 2 * PACKED_BYTES
    assert [json.loads(event.event_json)["n"] for event in replay.since(0)] == list(range(20))


def counted(make: Callable[[int], dict[str, Any]], max_bytes: int) -> list[int]:
    replay = Replay(1, 512, max_bytes)
    for number in range(100):
        replay.add(make(number))
    return [event.sequence for event in replay.since(0)]


def test_the_bound_in_bytes_is_of_what_is_given_again() -> None:
    size = len(json.dumps(large(10), separators=(",", ":")))
    assert counted(large, 3 * size) == [98, 99, 100]
    assert counted(large, size - 1)[-1] == 100, "too large for the bound: told by name"
