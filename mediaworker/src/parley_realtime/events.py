"""Names of events and the records listeners and media units get. Pure: no clock, no I/O.

Member names and values are VoxEngine's. `GA_NAMES` and `BETA_NAMES` are the only maps from the type of a
server event to a name; a type that is in neither is dispatched as `Unknown`, and audio deltas are in neither
on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from parley_realtime import catalogue
from parley_realtime.names import (
    BetaEvents,
    BetaRealtimeAPIEvents,
    Events,
    RealtimeAPIEvents,
    WebSocketCloseCode,
)

__all__ = [
    "AUDIO_DELTA_TYPES",
    "AUDIO_DONE_TYPES",
    "BETA_NAMES",
    "GA_NAMES",
    "SESSION_READY_TYPES",
    "BetaEvents",
    "BetaRealtimeAPIEvents",
    "Events",
    "MediaChunk",
    "MediaSource",
    "MediaUnit",
    "RealtimeAPIEvents",
    "WebSocketCloseCode",
    "WebSocketCloseEvent",
]

GA_NAMES: Mapping[str, str] = catalogue.names_by_type("ga")
BETA_NAMES: Mapping[str, str] = catalogue.names_by_type("beta")

AUDIO_DELTA_TYPES = frozenset(wire for wire, _ in catalogue.AUDIO_DELTAS)
AUDIO_DONE_TYPES = frozenset({"response.audio.done", "response.output_audio.done"})
SESSION_READY_TYPES = frozenset({"session.created", "transcription_session.created"})


@dataclass(frozen=True, slots=True)
class WebSocketCloseEvent:
    """One opened socket has closed. `was_clean`: both sides said goodbye."""

    web_socket_id: str
    code: int
    reason: str
    was_clean: bool


@dataclass(frozen=True, slots=True)
class MediaChunk:
    """Audio in the unit's format. From a client: of one response; the ids of other sources are empty."""

    payload: bytes
    response_id: str
    item_id: str
    content_index: int


class MediaSource(Protocol):
    """What a media unit is told audio comes from: a client."""

    def id(self) -> str: ...


class MediaUnit(Protocol):
    """Where audio of a client can be sent. All calls are synchronous and must not block.

    A unit with the attribute `own_clock = True` gets each chunk the moment it arrives (faster than real
    time); every other unit gets 20 ms frames paced in real time. A unit with an attribute `media_format` (an
    `AudioFormat` or `SampleFormat`) gets that format, whatever the source has; other units get what
    `SendMediaParameters.encoding` asks for, or their attribute `default_encoding`, or the source's own. A
    unit may have a method `media_stopped(source)`: it is called when it is attached no more.
    """

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """Once, when the unit is attached, before its first chunk.

        `encoding`: the provider's name of a format (`pcm16`, `pcmu`, `pcma`), else VoxEngine's (`PCM8`, ...).
        """

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """Audio to play after what was sent before."""

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """No more audio of this content part comes; for a paced unit: its last frame was handed over."""

    def media_cleared(self, source: MediaSource) -> None:
        """Forget what was sent and not yet played."""
