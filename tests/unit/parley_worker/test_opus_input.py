"""Packets that were lost, late or none at all, with a decoder that says what it was asked for."""

from __future__ import annotations

import pytest
from parley_opus import OpusError
from parley_worker.codec.opus import MAX_UNDECODABLE, UNDECODABLE, OpusInput

RATE = 24_000
FRAME = bytes([1 << 3, 7])
"""20 ms."""
TEN = bytes([0, 7])
SIXTY = bytes([3 << 3, 7])
BROKEN = bytes([1 << 3, 0xBB])
"""Looks like 20 ms and does not decode."""
NONE = bytes([1 << 3 | 3])
SAMPLES = 480


class Double:
    """A decoder: samples of a packet are ones, made-up ones twos, recovered ones threes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def decode(self, packet: bytes) -> bytes:
        self.asked.append("decode")
        if packet == BROKEN:
            raise OpusError("corrupted stream")
        return b"\1\0" * (SAMPLES if packet == FRAME else SAMPLES // 2)

    def conceal(self, samples: int, following: bytes | None = None) -> bytes:
        self.asked.append(f"conceal {samples}{' from next' if following else ''}")
        if following == BROKEN:
            raise OpusError("corrupted stream")
        return (b"\3\0" if following else b"\2\0") * samples

    def reset(self) -> None:
        self.asked.append("reset")


class Leg:
    """A leg's packets and what was told of them."""

    def __init__(self) -> None:
        self.decoder = Double()
        self.concealed: list[tuple[str, int]] = []
        self.input = OpusInput(self.decoder, RATE, lambda cause, count: self.concealed.append((cause, count)))

    def hear(self, packet: bytes, sequence: int) -> bytes:
        samples = self.input.accept(packet, sequence)
        assert isinstance(samples, bytes)
        return samples

    def asked(self) -> list[str]:
        asked, self.decoder.asked = self.decoder.asked, []
        return asked


def test_packets_in_order_are_decoded_and_nothing_else() -> None:
    leg = Leg()
    for sequence in (1, 2, 3):
        assert leg.hear(FRAME, sequence) == b"\1\0" * SAMPLES
    assert leg.asked() == ["decode"] * 3
    assert leg.concealed == []


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_small_gap_is_filled_before_the_packet_behind_it(lost: int) -> None:
    leg = Leg()
    leg.hear(FRAME, 5)
    leg.asked()
    heard = leg.hear(FRAME, 6 + lost)
    assert heard == b"\3\0" * SAMPLES * lost + b"\1\0" * SAMPLES
    assert leg.asked() == [f"conceal {SAMPLES * lost} from next", "decode"]
    assert leg.concealed == [("lost", lost)]


def test_a_gap_of_more_than_60_ms_is_not_made_up() -> None:
    leg = Leg()
    leg.hear(FRAME, 1)
    assert leg.hear(FRAME, 6) == b"\1\0" * SAMPLES
    assert leg.asked() == ["decode", "reset", "decode"]
    assert leg.concealed == []


def test_a_gap_is_measured_in_packets_of_the_length_that_came_last() -> None:
    leg = Leg()
    leg.hear(TEN, 1)
    assert len(leg.hear(FRAME, 8)) == 2 * (6 * SAMPLES // 2 + SAMPLES)  # six of 10 ms
    leg.hear(SIXTY, 9)
    leg.asked()
    leg.hear(FRAME, 11)
    assert leg.asked()[0] == f"conceal {3 * SAMPLES} from next"  # one of 60 ms
    leg.hear(SIXTY, 12)
    leg.asked()
    leg.hear(FRAME, 15)
    assert leg.asked()[0] == "reset"  # two of them


def test_the_first_frame_may_have_any_number() -> None:
    leg = Leg()
    assert leg.hear(FRAME, 1000) == b"\1\0" * SAMPLES
    assert leg.asked() == ["decode"]


@pytest.mark.parametrize("packet", [FRAME, NONE])
def test_a_frame_that_is_not_newer_is_silence_of_its_length_and_leaves_the_decoder_alone(
    packet: bytes,
) -> None:
    leg = Leg()
    leg.hear(FRAME, 3)
    leg.asked()
    for sequence in (3, 1):
        assert leg.hear(packet, sequence) == bytes(2 * SAMPLES)
    assert leg.asked() == []
    assert leg.hear(FRAME, 4) == b"\1\0" * SAMPLES


def test_a_frame_without_bytes_is_left_to_the_session() -> None:
    leg = Leg()
    assert leg.hear(b"", 1) == b""
    assert leg.asked() == []


@pytest.mark.parametrize("packet", [BROKEN, NONE])
def test_what_does_not_decode_is_made_up_and_counted(packet: bytes) -> None:
    leg = Leg()
    leg.hear(FRAME, 1)
    assert leg.hear(packet, 2) == b"\2\0" * SAMPLES
    assert leg.concealed == [("undecodable", 1)]
    assert leg.hear(FRAME, 3) == b"\1\0" * SAMPLES


@pytest.mark.parametrize("packet", [BROKEN, NONE])
def test_a_gap_before_a_broken_packet_is_filled_without_its_help(packet: bytes) -> None:
    leg = Leg()
    leg.hear(FRAME, 1)
    assert leg.hear(packet, 3) == b"\2\0" * SAMPLES * 2


def test_many_in_a_row_end_the_leg_and_a_good_one_between_them_does_not() -> None:
    leg = Leg()
    sequence = 0
    for _ in range(3):
        for _ in range(MAX_UNDECODABLE - 1):
            sequence += 1
            assert len(leg.hear(BROKEN, sequence)) == 2 * SAMPLES
        sequence += 1
        leg.hear(FRAME, sequence)
    for _ in range(MAX_UNDECODABLE - 1):
        sequence += 1
        leg.hear(BROKEN, sequence)
    refusal = leg.input.accept(BROKEN, sequence + 1)
    assert refusal is UNDECODABLE
    assert refusal.field == "audio.payload"
    assert "RFC 6716" in refusal.message
