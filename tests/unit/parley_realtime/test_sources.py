"""Damaged and hostile sound files: told, bounded, never a crash. What may be opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parley_realtime.units.sources import Decoder, PlayerAccess, PlayerError, checked_path, checked_url
from sound_files import FORMATS, share_of_tone, sound_file

RATE = 24_000
FILES = {kind: sound_file(kind, seconds=0.2, rate=16_000, channels=1) for kind in FORMATS if kind != "opus"}
FILES["opus"] = sound_file("opus", seconds=0.2, channels=1)
ACCESS = PlayerAccess(max_seconds=2.0)


def decoded(data: bytes, *, loop: bool = False, access: PlayerAccess = ACCESS) -> int:
    """Samples of the whole source; asserts that it ends."""
    decoder, total = Decoder(data, RATE, access, loop, 1.0), 0
    try:
        for _ in range(400):
            block = decoder.block()
            if block is None:
                return total
            total += len(block)
    finally:
        decoder.close()
    raise AssertionError("the source does not end")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_has_its_length(kind: str) -> None:
    assert RATE * 0.19 < decoded(FILES[kind]) < RATE * 0.3


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_join_without_a_seam(kind: str) -> None:
    decoder, blocks = Decoder(sound_file(kind, seconds=2.0), RATE, PlayerAccess(), False, 1.0), []
    while (block := decoder.block()) is not None:
        blocks.append(block)
    assert len(blocks) > 3
    assert share_of_tone(np.concatenate(blocks)[: RATE * 2], RATE) > 0.999


def test_a_loop_ends_where_the_bound_is() -> None:
    assert RATE * 1.9 < decoded(FILES["wav"], loop=True) < RATE * 2.1


def test_what_is_too_short_is_not_looped() -> None:
    data = FILES["wav"][:46]
    assert decoded(data) <= 2
    with pytest.raises(PlayerError, match="cannot be looped"):
        decoded(data, loop=True)


def test_a_header_that_promises_more_than_there_is() -> None:
    data = bytearray(FILES["wav"])
    data[40:44] = (0x7FFFFFF0).to_bytes(4, "little")
    assert decoded(bytes(data)) < RATE * 0.3


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\0" * 1000, b"OggS" * 100, b"ID3" + bytes(500)])
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(PlayerError):
        decoded(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    st.integers(20, 6000),
    st.booleans(),
)
def test_damage_is_told_or_heard_and_always_ends(
    kind: str, changes: list[tuple[int, int]], length: int, loop: bool
) -> None:
    data = bytearray(FILES[kind][:length])
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(PlayerError):
        assert decoded(bytes(data), loop=loop) <= RATE * 30


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (("example.com",), True),
        (("example.com:8443",), True),
        (("example.com:443",), False),
        (("*.com",), True),
        (("*.example.com",), False),
        (("xample.com",), False),
        ((), False),
        (None, True),
    ],
)
def test_hosts(rules: tuple[str, ...] | None, allowed: bool) -> None:
    access = PlayerAccess(hosts=rules)
    if allowed:
        checked_url("https://Example.com:8443/x", access)
    else:
        with pytest.raises(PlayerError, match="is not allowed"):
            checked_url("https://Example.com:8443/x", access)


def test_a_host_hidden_behind_another_is_not_believed() -> None:
    access = PlayerAccess(hosts=("good.com",))
    for url in ("http://good.com@evil.com/", "http://evil.com#good.com", "http://evil.com/good.com"):
        with pytest.raises(PlayerError, match="host"):
            checked_url(url, access)


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "subterfuge").mkdir()
    for name in ("sub/a.wav", "subterfuge/a.wav"):
        (tmp_path / name).write_bytes(b"x")
    access = PlayerAccess(directories=(str(tmp_path / "sub"),))
    assert checked_path(str(tmp_path / "sub" / "a.wav"), access).is_file()
    for bad in ("subterfuge/a.wav", "sub/../subterfuge/a.wav", "sub", "sub/b.wav"):
        with pytest.raises(PlayerError):
            checked_path(str(tmp_path / bad), access)
