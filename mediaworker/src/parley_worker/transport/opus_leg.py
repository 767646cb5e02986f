"""Opus between a leg and its session: the session hears and gives samples, the caller packets.

Both codecs run at the provider's rate, so nothing is resampled whatever rate the caller named.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from parley_opus.errors import OpusUnavailable
from parley_opus.library import Decoder, Encoder
from parley_opus.packets import OpusSettings

from parley_worker.codec.opus import OpusInput
from parley_worker.core.audio import AudioFormat, Encoding
from parley_worker.core.effects import Clear, ToLeg
from parley_worker.core.events import AttachRequest, LegCommand, LegRefusal, Status
from parley_worker.core.media_path import OutFrame, PlayoutMode
from parley_worker.transport.ports import LegPort, SessionPort

FRAMES_AT_ONCE: Final = 10
"""Frames that are encoded in one turn of the loop for a caller who bursts: about a millisecond."""


def with_opus(
    session: SessionPort, request: AttachRequest, settings: OpusSettings
) -> SessionPort | LegRefusal:
    """The session as a leg of packets sees it; or why this worker has none."""
    rate = session.provider_rate
    side = "input"
    decoder = encoder = None
    try:
        if request.input_codec is not None:
            decoder = Decoder(rate)
        if request.output_codec is not None:
            side = "output"
            encoder = Encoder(rate, settings, request.output_codec.format.rate)
    except OpusUnavailable as exc:
        name = f"start.{side}_format.encoding"
        text = f"{name} is OPUS, and this worker cannot speak it: {exc}, or use PCM16 or G711_ULAW"
        return LegRefusal(Status.FAILED_PRECONDITION, "opus-unavailable", text, name)
    return _OpusLeg(session, decoder, encoder)


class _OpusLeg:
    """A SessionPort for one leg, and that leg for the session. A side without a codec passes untouched."""

    def __init__(self, session: SessionPort, decoder: Decoder | None, encoder: Encoder | None) -> None:
        self._session = session
        self._leg: LegPort | None = None
        self._samples = AudioFormat(Encoding.PCM16, session.provider_rate)
        self._packets: OpusInput | None = None
        if decoder is not None:
            self._packets = OpusInput(decoder, self._samples.rate, session.frames_concealed)
        self._encoder = encoder
        self._bursts = False
        self._encoded = 0

    # For the leg: SessionPort

    @property
    def provider_rate(self) -> int:
        """See SessionPort."""
        return self._session.provider_rate

    def frames_concealed(self, cause: str, frames: int) -> None:
        """See SessionPort."""
        self._session.frames_concealed(cause, frames)

    async def wait_ready(self) -> None:
        """See SessionPort."""
        await self._session.wait_ready()

    def attach(self, request: AttachRequest, leg: LegPort) -> LegRefusal | None:
        """See SessionPort."""
        self._leg = leg
        self._bursts = self._encoder is not None and request.mode is PlayoutMode.BURST
        if self._packets is not None:
            request = replace(request, input_format=self._samples)
        if self._encoder is not None and request.output_codec is not None:
            codec = replace(request.output_codec, delay_ms=self._encoder.delay_ms)
            request = replace(request, output_format=self._samples, output_codec=codec)
        return self._session.attach(request, self)

    def leg_audio(self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int) -> LegRefusal | None:
        """See SessionPort."""
        if self._packets is None:
            return self._session.leg_audio(self, payload, sequence, media_time_ms)
        samples = self._packets.accept(payload, sequence)
        if isinstance(samples, LegRefusal):
            return samples
        return self._session.leg_audio(self, samples, sequence, media_time_ms)

    def leg_message(self, leg: LegPort, message: LegCommand) -> LegRefusal | None:
        """See SessionPort."""
        return self._session.leg_message(self, message)

    def leg_room(self, leg: LegPort) -> None:
        """See SessionPort."""
        self._session.leg_room(self)

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        """See SessionPort."""
        self._session.leg_lost(self, cause)

    # For the session: LegPort

    @property
    def _caller(self) -> LegPort:
        assert self._leg is not None
        return self._leg

    def send(self, message: ToLeg) -> None:
        """See LegPort. Behind a Clear the first packet stands for itself."""
        if self._encoder is not None and isinstance(message, Clear):
            self._encoder.reset()
        self._caller.send(message)

    def send_audio(self, frame: OutFrame) -> None:
        """See LegPort."""
        if self._encoder is not None:
            packet = self._encoder.encode(frame.payload)
            frame = OutFrame(packet, frame.item_id, frame.content_index, frame.epoch, frame.position_ms)
        self._caller.send_audio(frame)
        if self._bursts:
            self._encoded += 1
            if self._encoded == FRAMES_AT_ONCE:
                asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._encoded = 0
        self._session.leg_room(self)

    def drop_audio(self) -> dict[tuple[str, int], int]:
        """See LegPort."""
        return self._caller.drop_audio()

    def queued_bytes(self) -> int:
        """See LegPort."""
        return self._caller.queued_bytes()

    def audio_room(self) -> int:
        """See LegPort. In samples, and no more than is left of this turn: `leg_room` comes with the next."""
        room = self._caller.audio_room()
        if not self._bursts:
            return room
        return min(room, max(0, FRAMES_AT_ONCE - self._encoded) * self._samples.frame_bytes)

    def finish(self, refusal: LegRefusal | None) -> None:
        """See LegPort."""
        self._caller.finish(refusal)
