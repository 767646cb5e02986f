"""What a provider sends, taken apart where it was read: audio to one side, events to the other. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from parley_realtime.client.statistics import Statistics
from parley_realtime.client.trace import Trace
from parley_realtime.events import SESSION_READY_TYPES, MediaChunk
from parley_realtime.protocol.core import AudioDelta, Malformed, ProtocolCore, ServerEvent
from parley_realtime.protocol.refusals import ErrorDetail
from parley_realtime.redaction import scrub
from parley_realtime.transport import Socket


class Hearer(Protocol):
    """Who is told what came; nothing may raise."""

    def received(self, event: ServerEvent) -> None:
        """An event without audio."""

    def audio(self, chunk: MediaChunk) -> None:
        """Audio of a response."""


class Intake:
    """The frames of one connection. After `over` was set nothing is told any more.

    `clock` counts seconds, `on_greeting` is told of a session's first event before anybody else, `fail` what
    broke the connection: a ProtocolError of the provider's, or an error of ours.
    """

    def __init__(
        self,
        core: ProtocolCore,
        statistics: Statistics,
        hearer: Hearer,
        clock: Callable[[], float],
        on_greeting: Callable[[], None],
        fail: Callable[[Exception], None],
        secrets: tuple[str, ...],
        private: bool,
    ) -> None:
        self._core = core
        self._statistics = statistics
        self._clock = clock
        self._on_greeting = on_greeting
        self._fail = fail
        self._secrets = secrets
        self._private = private
        self.hearer = hearer
        self.trace: Trace | None = None
        self.socket: Socket | None = None
        self._round_trip = 0.0
        self.over = False
        self.last_error: ErrorDetail | None = None
        """Of the provider's, when nothing else came after it."""
        self.received_at = 0.0

    def frame(self, data: bytes) -> None:
        """A whole message."""
        if self.over:
            return
        try:
            self._take(data)
        except Exception as exc:  # noqa: BLE001 - a mistake of ours must end this connection, and no other
            self._fail(exc)

    def _take(self, frame: bytes) -> None:
        incoming = self._core.decode(frame)
        self.received_at = self._clock()
        statistics = self._statistics
        statistics.events_received += 1
        if isinstance(incoming, AudioDelta):
            self.last_error = None
            chunk = incoming.chunk
            statistics.audio_chunks_received += 1
            statistics.audio_bytes_received += len(chunk.payload)
            if self.trace is not None:
                place = (chunk.response_id, chunk.item_id, chunk.content_index)
                self.trace.audio(self.received_at, *place, len(chunk.payload))
            self.hearer.audio(chunk)
        elif isinstance(incoming, Malformed):
            if self.trace is not None:
                self.trace.malformed(self.received_at, len(frame), incoming.error.message)
            self._fail(incoming.error)
        else:
            self._event(incoming)

    def _event(self, event: ServerEvent) -> None:
        if event.type == "error":
            error = event.payload.get("error")
            if isinstance(error, dict) and isinstance(error.get("message"), str):
                error["message"] = scrub(error["message"], self._secrets)
            self.last_error = ErrorDetail.of(event.payload, private=self._private)
        else:
            self.last_error = None
        if self.trace is not None:
            self.trace.received(self.received_at, event.payload)
        if self.socket is not None and self.socket.latency != self._round_trip:
            self._round_trip = self.socket.latency
            self._statistics.ping.add(self._round_trip)
        if event.type in SESSION_READY_TYPES:
            self._on_greeting()
        self.hearer.received(event)
