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
    """A stream that comes in these pieces."""

    total_bytes = 7

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


async def read(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    taken: list[bytes] = []

    def take(line: bytes) -> bool:
        if line.startswith(b"t"):
            taken.append(line)
        return line.startswith(b"t")

    sieve = Sieve(Content(pieces), take)  # type: ignore[arg-type]
    left = b"".join([chunk async for chunk in sieve.iter_chunked(1024)])
    assert sieve.total_bytes == 7
    return taken, left


LINES = st.lists(st.sampled_from([b"t1", b"t", b"x", b"yy", b"zt"]), max_size=12)


@given(lines=LINES, cuts=st.lists(st.integers(0, 40), max_size=6), ended=st.booleans())
def test_every_line_goes_one_way_whole(lines: list[bytes], cuts: list[int], ended: bool) -> None:
    whole = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in pairwise(at)]
    taken, left = run(read(pieces))
    # The last line is only sure to be whole when it is ended; the reader judges what is not.
    sure = lines if whole.endswith(b"\n") else lines[:-1]
    assert taken == [line for line in sure if line.startswith(b"t")]
    assert left.split(b"\n") == [
        *(line for line in sure if not line.startswith(b"t")),
        b"" if whole.endswith(b"\n") or not lines else lines[-1],
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"type":"ADDED","object":{"a":1}}', ("VoiceSession", {"a": 1}, False, False)),
        (b'{"type":"MODIFIED","object":{"a":1}}', ("VoiceSession", {"a": 1}, False, True)),
        (b'{"type":"DELETED","object":{"a":1}}', None),
        (b'{"type":"BOOKMARK","object":{"a":1}}', None),
        (b'{"type":"ERROR","object":{"code":410}}', None),
        (b'{"type":"ADDED","object":3}', None),
        (b'{"type":"ADDED"}', None),
        (b"[]", None),
        (b"no JSON", None),
    ],
)
def test_only_what_is_new_of_sessions_is_taken(line: bytes, told: Any) -> None:
    seen: list[Any] = []
    assert taken_line(lambda *event: seen.append(event), line) is (told is not None)
    assert seen == ([told] if told else [])
