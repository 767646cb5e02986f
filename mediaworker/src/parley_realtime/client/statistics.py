"""What a client counts and how long things took. No clock of its own, no I/O."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METERED = frozenset(
    {
        "error",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "response.created",
        "response.done",
    }
)
"""Types of server events that `Meter.received` looks at."""


@dataclass(slots=True)
class Latency:
    """Times of one kind, in milliseconds; all 0 before the first."""

    count: int = 0
    last: float = 0.0
    least: float = 0.0
    most: float = 0.0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """0 before the first."""
        return self.total / self.count if self.count else 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        ms = round(seconds * 1000, 3)
        self.least = min(self.least, ms) if self.count else ms
        self.most = max(self.most, ms)
        self.last = ms
        self.total += ms
        self.count += 1

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.mean:.0f} ms ({self.least:.0f} to {self.most:.0f}, {self.count})"


@dataclass(slots=True)
class Statistics:
    """Counters and latencies of one client. Bytes are audio bytes before base64.

    interruptions: the caller began to speak while a response was being made or was being played.
    connect: from the attempt to the session, once per connection. first_audio_after_speech: from
    `speech_stopped` to the first audio. first_audio_after_create: from sending `response.create` to the first
    audio. ping: round trips of WebSocket pings.
    """

    events_sent: int = 0
    events_received: int = 0
    events_ignored_after_close: int = 0
    errors_received: int = 0
    audio_bytes_sent: int = 0
    audio_bytes_received: int = 0
    audio_chunks_received: int = 0
    input_bytes_dropped: int = 0
    playout_bytes_dropped: int = 0
    late_chunks_dropped: int = 0
    media_units_failed: int = 0
    responses_created: int = 0
    responses_completed: int = 0
    responses_cancelled: int = 0
    responses_failed: int = 0
    responses_incomplete: int = 0
    interruptions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    connect: Latency = field(default_factory=Latency)
    first_audio_after_speech: Latency = field(default_factory=Latency)
    first_audio_after_create: Latency = field(default_factory=Latency)
    ping: Latency = field(default_factory=Latency)

    def snapshot(self) -> Statistics:
        """A copy that stays as it is."""
        return copy.deepcopy(self)

    def __str__(self) -> str:
        """What is not 0."""
        values = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return ", ".join(f"{name}={value}" for name, value in values if value)


class Meter:
    """Fills the statistics from what is sent and received. Times: monotonic seconds."""

    def __init__(self, statistics: Statistics) -> None:
        self._to = statistics
        self._speech_stopped: float | None = None
        self._asked: float | None = None
        self._active: set[str] = set()
        self._play_until = 0.0

    def sent(self, kind: str, now: float) -> None:
        """A client event other than audio has left."""
        if kind == "response.create":
            self._asked = now

    def audio(self, seconds: float, now: float) -> None:
        """Audio of that length came; it plays after what came before."""
        self._play_until = max(self._play_until, now) + seconds
        if self._speech_stopped is not None:
            self._to.first_audio_after_speech.add(now - self._speech_stopped)
            self._speech_stopped = None
        if self._asked is not None:
            self._to.first_audio_after_create.add(now - self._asked)
            self._asked = None

    def cleared(self, now: float) -> None:
        """What was to be played is not."""
        self._play_until = min(self._play_until, now)

    def received(self, event: Mapping[str, Any], now: float) -> None:
        """A server event other than audio."""
        kind = event.get("type")
        if kind == "error":
            self._to.errors_received += 1
        elif kind == "input_audio_buffer.speech_started":
            self._speech_stopped = None
            if self._active or self._play_until > now:
                self._to.interruptions += 1
        elif kind == "input_audio_buffer.speech_stopped":
            self._speech_stopped = now
        elif kind == "response.created":
            self._to.responses_created += 1
            if len(self._active) < 64:
                self._active.add(str(_response(event).get("id")))
        elif kind == "response.done":
            self._done(_response(event))

    def lost(self) -> None:
        """The connection is gone: responses under way have no end; what was asked is asked again."""
        self._active.clear()

    def _done(self, response: Mapping[str, Any]) -> None:
        self._active.discard(str(response.get("id")))
        # An answer without audio answers as well.
        self._asked = self._speech_stopped = None
        status = response.get("status")
        if status in ("completed", "cancelled", "failed", "incomplete"):
            name = f"responses_{status}"
            setattr(self._to, name, getattr(self._to, name) + 1)
        usage = response.get("usage")
        if isinstance(usage, Mapping):
            self._to.input_tokens += _count(usage.get("input_tokens"))
            self._to.output_tokens += _count(usage.get("output_tokens"))


def _response(event: Mapping[str, Any]) -> Mapping[str, Any]:
    response = event.get("response")
    return response if isinstance(response, Mapping) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
