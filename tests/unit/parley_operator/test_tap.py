"""Lines that are taken never reach the reader, and all others do, however the stream is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_operator.handlers.kopf_app import taken_line
from parley_operator.kube.tap import Sieve
from virtual_time import run


class Content:
    """A stream that comes in these pieces, and may break after them."""

    total_bytes = 7

    def __init__(self, pieces: list[bytes], broken: bool = False) -> None:
        self.pieces = pieces
        self.broken = broken

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.broken:
            raise ConnectionError


def bookmark(version: str) -> bytes:
    return b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%s"}}}' % version.encode()


async def read(content: Content) -> tuple[list[bytes], list[bytes]]:
    """What was taken and what came through, line by line. Lines that begin with t are taken; they are their
    versions."""
    taken: list[bytes] = []

    def take(line: bytes) -> str:
        if line.startswith(b"t"):
            taken.append(line)
        return line.decode() if line.startswith(b"t") else ""

    sieve = Sieve(content, take)  # type: ignore[arg-type]
    left = b""
    try:
        async for chunk in sieve.iter_chunked(1024):
            left += chunk
    except ConnectionError:
        assert content.broken
    assert sieve.total_bytes == 7
    return taken, [line for line in left.split(b"\n") if line]


LINES = st.lists(st.sampled_from([b"t1", b"t", b"x", b"yy", b"zt"]), max_size=12)


@given(lines=LINES, cuts=st.lists(st.integers(0, 40), max_size=6), ended=st.booleans(), broken=st.booleans())
def test_every_line_goes_one_way_whole(
    lines: list[bytes], cuts: list[int], ended: bool, broken: bool
) -> None:
    whole = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    taken, left = run(read(Content([whole[a:b] for a, b in pairwise(at)], broken)))
    # The last line is only sure to be whole when it is ended; the reader judges what is not, if it comes.
    sure = lines if whole.endswith(b"\n") else lines[:-1]
    assert taken == [line for line in sure if line.startswith(b"t")]
    expected = [line for line in sure if not line.startswith(b"t")]
    if sure and sure[-1].startswith(b"t"):
        expected.append(bookmark(sure[-1].decode()))
    if not whole.endswith(b"\n") and lines and not broken:
        expected.append(lines[-1])
    assert left == expected


async def test_a_long_row_of_lines_that_are_taken_is_marked_on_the_way() -> None:
    pieces = [b"t%d\n" % number for number in range(150)]
    _, left = await read(Content(pieces))
    assert left == [bookmark("t63"), bookmark("t127"), bookmark("t149")]


BODY = b'{"metadata":{"resourceVersion":"12"}}'
FOUND = {"metadata": {"resourceVersion": "12"}}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"type":"ADDED","object":' + BODY + b"}", ("VoiceSession", FOUND, False, False)),
        (b'{"type":"MODIFIED","object":' + BODY + b"}", ("VoiceSession", FOUND, False, True)),
        (b'{"type":"DELETED","object":{"a":1}}', None),
        (b'{"type":"BOOKMARK","object":{"a":1}}', None),
        (b'{"type":"ERROR","object":{"code":410}}', None),
        (b'{"type":"ADDED","object":3}', None),
        (b'{"type":"ADDED","object":{"metadata":{}}}', None),
        (b'{"type":"ADDED"}', None),
        (b"[]", None),
        (b"no JSON", None),
    ],
)
def test_only_what_is_new_of_sessions_is_taken(line: bytes, told: Any) -> None:
    seen: list[Any] = []
    assert taken_line(lambda *event: seen.append(event), line) == ("12" if told else "")
    assert seen == ([told] if told else [])
