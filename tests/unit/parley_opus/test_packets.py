"""Durations of packets as RFC 6716 has them, and the bounds of how ours are made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_opus.packets import MAX_SAMPLES_48K, OpusSettings, packet_samples

MS = 48


@pytest.mark.parametrize(
    ("config", "milliseconds"),
    [
        (0, 10),
        (1, 20),
        (2, 40),
        (3, 60),
        (4, 10),
        (9, 20),
        (11, 60),
        (12, 10),
        (13, 20),
        (14, 10),
        (15, 20),
        (16, 2.5),
        (17, 5),
        (18, 10),
        (19, 20),
        (28, 2.5),
        (31, 20),
    ],
)
def test_one_frame_lasts_as_its_configuration_says(config: int, milliseconds: float) -> None:
    for stereo in (0, 4):
        assert packet_samples(bytes([config << 3 | stereo])) == milliseconds * MS


@pytest.mark.parametrize("code", [1, 2])
def test_two_frames_last_twice_as_long(code: int) -> None:
    assert packet_samples(bytes([1 << 3 | code, 0])) == 40 * MS


@pytest.mark.parametrize(
    ("packet", "milliseconds"),
    [
        (bytes([19 << 3 | 3, 6]), 120),
        (bytes([19 << 3 | 3, 0xC0 | 3]), 60),  # the two highest bits are flags
        (bytes([16 << 3 | 3, 48]), 120),
        (bytes([19 << 3 | 3, 7]), 0),  # 140 ms
        (bytes([16 << 3 | 3, 63]), 0),
        (bytes([1 << 3 | 3, 0]), 0),  # no frame at all
        (bytes([1 << 3 | 3]), 0),  # the count is missing
        (b"", 0),
    ],
)
def test_any_number_of_frames_up_to_120_ms(packet: bytes, milliseconds: int) -> None:
    assert packet_samples(packet) == milliseconds * MS


@given(st.binary(max_size=8))
def test_no_bytes_last_longer_than_a_packet_may(packet: bytes) -> None:
    assert 0 <= packet_samples(packet) <= MAX_SAMPLES_48K
    assert packet_samples(packet) % (MS * 5 // 2) == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"bitrate": 5_999}, "bitrate_bps"),
        ({"bitrate": 128_001}, "bitrate_bps"),
        ({"expected_loss": -1}, "expected_loss_percent"),
        ({"expected_loss": 51}, "expected_loss_percent"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(settings: dict[str, int], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is {next(iter(settings.values()))}; use "):
        OpusSettings(**settings)
