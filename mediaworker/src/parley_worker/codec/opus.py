"""A caller's Opus packets to samples: what is lost is made up, what is no packet is told apart. Pure.

The codec is given: nothing here knows whose it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from parley_opus.errors import OpusError
from parley_opus.packets import SAMPLES_48K_PER_MS, packet_samples

from parley_worker.core.events import LegRefusal, Status

MAX_CONCEALED_MS = 60
"""A longer gap is only counted: what would be made up for it is no speech."""
MAX_UNDECODABLE = 10
USUAL_MS = 20

UNDECODABLE = LegRefusal(
    Status.INVALID_ARGUMENT,
    "opus-undecodable",
    f"{MAX_UNDECODABLE} frames in a row were no Opus packets: send one packet of RFC 6716 a frame, "
    "without Ogg or RTP around it",
    "audio.payload",
)


class PacketDecoder(Protocol):
    """One caller's decoder, as `parley_opus.library.Decoder` describes it."""

    def decode(self, packet: bytes) -> bytes: ...

    def conceal(self, samples: int, following: bytes | None = None) -> bytes: ...

    def reset(self) -> None: ...


class OpusInput:
    """One leg's packets on their way to the session, decoded at `rate`.

    `concealed` is told how many packets were made up and why: `lost` or `undecodable`.
    """

    def __init__(self, decoder: PacketDecoder, rate: int, concealed: Callable[[str, int], None]) -> None:
        self._decoder = decoder
        self._rate = rate
        self._concealed = concealed
        self._last = 0
        self._usual = USUAL_MS * SAMPLES_48K_PER_MS
        self._undecodable = 0

    def accept(self, packet: bytes, sequence: int) -> bytes | LegRefusal:
        """16-bit samples for the session: of the packet, behind those made up for lost ones before it.

        A frame without bytes gives none, one that is not newer than the last gives silence of its length: the
        session judges both as it does every frame.
        """
        if not packet:
            return b""
        if sequence <= self._last:
            return bytes(2 * self._samples(packet_samples(packet) or self._usual))
        lost = sequence - self._last - 1 if self._last else 0
        self._last = sequence
        length = packet_samples(packet)
        before = self._fill(lost, packet if length else None) if lost else b""
        try:
            if not length:
                raise OpusError("no packet has such a first byte")
            decoded = self._decoder.decode(packet)
        except OpusError:
            self._undecodable += 1
            if self._undecodable >= MAX_UNDECODABLE:
                return UNDECODABLE
            self._concealed("undecodable", 1)
            return before + self._decoder.conceal(self._samples(self._usual))
        self._undecodable = 0
        self._usual = length
        return before + decoded if before else decoded

    def _samples(self, at_48k: int) -> int:
        return at_48k * self._rate // (1000 * SAMPLES_48K_PER_MS)

    def _fill(self, lost: int, following: bytes | None) -> bytes:
        """Samples for lost packets, each taken to be as long as the last one that came."""
        missing = lost * self._usual
        if missing > MAX_CONCEALED_MS * SAMPLES_48K_PER_MS:
            self._decoder.reset()
            return b""
        self._concealed("lost", lost)
        try:
            return self._decoder.conceal(self._samples(missing), following)
        except OpusError:
            return self._decoder.conceal(self._samples(missing))
