"""From raw times of callers and of the provider to what a window saw, for callers made elsewhere. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from parley_client.bench.histogram import Histogram
from parley_client.bench.windows import Traffic

PIECE_S: Final = 0.02
PATIENCE_S: Final = 0.5
"""An answer is judged so long after its nominal end."""
UNDERRUN_MS: Final = 20.0
EDGE_PIECES: Final = 2
"""Pieces that a lossy codec may make too quiet to be told from silence, for an answer."""


def traffic(
    callers: Mapping[str, Any],
    connections: Sequence[Mapping[str, Any]],
    begin: float,
    end: float,
    answer_s: float,
) -> Traffic:
    """What happened between `begin` and `end` (CLOCK_MONOTONIC seconds).

    Args:
        callers: `{"rx_bytes_ms": b, "sessions": [{"sid", "rx_t", "rx_b"}, ...]}`.
        provider: `{"connections": [{"sid", "rate_bytes_ms", "ap_t", "ap_b", "resp"}, ...]}`: arrival of
            appends with the bytes so far, and for each answer the times at which its deltas were sent.
        answer_s: length of an answer.

    Upwards only the jitter is known, against the best append of the call: such a caller joins in midstream.
    """
    known = {c["sid"]: c for c in sorted(connections, key=lambda c: len(c["ap_t"])) if c.get("sid")}
    up: list[float] = []
    first: list[float] = []
    late: list[float] = []
    due = received = drops = complete = responses = sent = 0
    for session in callers["sessions"]:
        connection = known.get(session["sid"])
        if connection is None:
            continue
        jitter = list(_jitter(connection, begin, end))
        sent += len(jitter)
        up += jitter
        for began, pieces in _answers(session, connection, begin, end, answer_s):
            responses += 1
            due += round(answer_s / PIECE_S)
            got = sum(size for _, size in pieces) / callers["rx_bytes_ms"] / 1000 / PIECE_S
            received += round(got)
            missing = round(answer_s / PIECE_S - got)
            drops += missing if missing > EDGE_PIECES else 0
            complete += missing <= EDGE_PIECES
            if pieces:
                first.append((pieces[0][0] - began) * 1000)
                late += _lateness(pieces, callers["rx_bytes_ms"])
    return Traffic(
        sessions=len(callers["sessions"]),
        up=Histogram.of(up),
        first=Histogram.of(first),
        down=Histogram.of(late),
        frames_sent=sent,
        frames_due=due,
        frames_received=received,
        drops_down=drops,
        underruns=sum(1 for value in late if value > UNDERRUN_MS),
        responses=responses,
        responses_complete=complete,
    )


def _jitter(connection: Mapping[str, Any], begin: float, end: float) -> Iterator[float]:
    """Milliseconds of each append behind the best one of the call."""
    rate = connection["rate_bytes_ms"]
    behind = [
        (at, at * 1000 - total / rate)
        for at, total in zip(connection["ap_t"], connection["ap_b"], strict=True)
    ]
    if behind:
        best = min(value for _, value in behind)
        yield from (value - best for at, value in behind if begin <= at <= end)


def _answers(
    session: Mapping[str, Any], connection: Mapping[str, Any], begin: float, end: float, answer_s: float
) -> Iterator[tuple[float, Sequence[tuple[float, int]]]]:
    """The answers whose time is over in the window: when each began, and its pieces at the caller."""
    times, sizes = session["rx_t"], session["rx_b"]
    starts = [deltas[0] for deltas in connection["resp"] if deltas]
    for number, began in enumerate(starts):
        if not begin < began + answer_s + PATIENCE_S <= end:
            continue
        until = starts[number + 1] if number + 1 < len(starts) else end
        low, high = bisect_left(times, began), bisect_left(times, until)
        yield began, list(zip(times[low:high], sizes[low:high], strict=True))


def _lateness(pieces: Sequence[tuple[float, int]], bytes_ms: float) -> Iterator[float]:
    """Milliseconds of each piece behind playout that began with the first; early pieces are not late."""
    begin, played = pieces[0][0], 0.0
    for at, size in pieces:
        yield max(0.0, (at - begin) * 1000 - played)
        played += size / bytes_ms
