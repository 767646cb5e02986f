"""Opus between a call and its stream: the call's user gives and gets PCM16, the stream carries packets."""

from __future__ import annotations

from dataclasses import replace

from parley_opus import OpusError, OpusSettings, OpusUnavailable, packet_samples
from parley_opus.library import Decoder, Encoder

from .errors import MissingProgram, ProtocolError
from .events import AgentAudio
from .formats import AudioFormat, Encoding


class Packet(bytes):
    """A packet that its sender has made already."""


_REMEDY = "apt-get install libopus0 (macOS: brew install opus)"


def carried_per_second(format: AudioFormat, settings: OpusSettings) -> int:
    """Bytes that a second takes on the stream; of Opus the mean."""
    if format.encoding is Encoding.OPUS:
        return settings.bitrate // 8
    return format.sample_bytes * format.sample_rate_hz


class CallCodecs:
    """The codecs of one call, none for a side that is not Opus.

    Raises:
        MissingProgram: a side is Opus and libopus is not installed.
    """

    def __init__(self, incoming: AudioFormat, outgoing: AudioFormat, settings: OpusSettings) -> None:
        self._rate = incoming.sample_rate_hz
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None
        try:
            if incoming.encoding is Encoding.OPUS:
                self._encoder = Encoder(incoming.sample_rate_hz, settings)
            if outgoing.encoding is Encoding.OPUS:
                self._decoder = Decoder(outgoing.sample_rate_hz)
        except OpusUnavailable:
            raise MissingProgram("libopus", _REMEDY) from None

    @property
    def whole_frames(self) -> bool:
        """True when only whole frames of 20 ms can be sent."""
        return self._encoder is not None

    def attached(self) -> None:
        """A new stream: the worker's codecs know nothing of what was before."""
        if self._encoder is not None:
            self._encoder.reset()
        self.cleared()

    def cleared(self) -> None:
        """A Clear came: the worker's encoder begins anew behind it."""
        if self._decoder is not None:
            self._decoder.reset()

    def send(self, frame: bytes) -> bytes:
        """What a frame of 20 ms, or a packet, is on the stream."""
        return frame if self._encoder is None or isinstance(frame, Packet) else self._encoder.encode(frame)

    def length(self, frame: bytes) -> int:
        """Bytes of samples in it."""
        return packet_samples(frame) * self._rate // 48_000 * 2 if isinstance(frame, Packet) else len(frame)

    def receive(self, audio: AgentAudio) -> AgentAudio:
        """A piece as its user gets it.

        Raises:
            ProtocolError: it is no Opus packet.
        """
        if self._decoder is None:
            return audio
        try:
            return replace(audio, payload=self._decoder.decode(audio.payload), packet=audio.payload)
        except OpusError as error:
            raise ProtocolError(
                f"frame {audio.sequence} of the agent's audio is no Opus packet: {error}"
            ) from error
