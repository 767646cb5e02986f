"""Words beside audio: as exact as with a tuple a point, for an eighth of the memory."""

from __future__ import annotations

import tracemalloc
from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st
from parley_realtime.protocol.alignment import FASTEST_SPEECH, MAX_POINTS, Alignment

PIECES = st.lists(st.tuples(st.sampled_from(["", "a", " word", " two words", "  "]), st.integers(0, 400)))


def reference(points: list[tuple[float, int]], text: str, milliseconds: float) -> float:
    """Characters by the points alone."""
    at = bisect_right(points, (milliseconds, len(text)))
    if at >= len(points):
        return float(len(text))
    (ms0, count0), (ms1, count1) = points[at - 1], points[at]
    return count0 + (count1 - count0) * ((milliseconds - ms0) / (ms1 - ms0) if ms1 > ms0 else 1.0)


@given(PIECES, st.integers(1, 5000))
def test_what_was_heard_lies_between_the_pieces_that_came(pieces: list[tuple[str, int]], asked: int) -> None:
    alignment, points = Alignment(), [(0.0, 0)]
    for words, ms in pieces:
        alignment.words(words)
        alignment.audio(ms)
        points.append((alignment.audio_ms, len(alignment.text)))
    count = int(min(reference(points, alignment.text, asked), FASTEST_SPEECH * asked / 1000) + 1e-6)
    heard = alignment.heard(asked)
    assert alignment.text[:count].startswith(heard)
    assert len(heard.split()) in (
        len(alignment.text[:count].split()),
        len(alignment.text[:count].split()) - 1,
    )


def test_long_answers_are_thinned_out_and_stay_in_step() -> None:
    alignment = Alignment()
    for _ in range(5 * MAX_POINTS):
        alignment.words(" word")
        alignment.audio(300.0)
    half = alignment.audio_ms / 2
    assert abs(len(alignment.heard(half)) - len(alignment.text) / 2) < 10


def test_a_point_takes_few_bytes() -> None:
    count, points = 200, 20
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [Alignment() for _ in range(count)]
        for alignment in kept:
            for piece in range(points):
                alignment.audio(149.5 + piece)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / count < 800, "with tuples of floats it is 2,400"
