"""What a protocol shape is: its names, its headers, and how it spells audio formats."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from parley_realtime.errors import InvalidEventError
from parley_realtime.formats import AudioFormat

Event = dict[str, Any]
FLAT_FORMAT_FIELDS = ("input_audio_format", "output_audio_format")


class ClientType(StrEnum):
    """What the connection is for: a conversation, or transcription of what is said into it."""

    REALTIME = "realtime"
    TRANSCRIPTION = "transcription"


class Shape(Protocol):
    """One of the two shapes of the protocol. Implementations have no state."""

    label: str
    default_model: str
    names: Mapping[str, str]
    unknown_name: str
    media_started_name: str
    media_ended_name: str
    clears_on_speech: bool

    @property
    def event_names(self) -> frozenset[str]:
        """Every name a listener may register for."""

    def headers(self) -> dict[str, str]:
        """Headers only this shape sends."""

    def own_formats(
        self, event: Mapping[str, Any], kind: ClientType, inward: AudioFormat, outward: AudioFormat
    ) -> Event:
        """The event with the audio formats replaced by the connector's own; the argument stays as it is."""

    def formats_update(self, kind: ClientType, inward: AudioFormat, outward: AudioFormat) -> Event:
        """A session update that says nothing but the audio formats."""


def object_field(event: Mapping[str, Any], field: str) -> dict[str, Any] | None:
    """A copy of the object in `field`, or None when it is absent or null."""
    value = event.get(field)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidEventError(
            f"{event.get('type', 'event')}: {field!r} must be an object, got {type(value).__name__}"
        )
    return dict(value)


def without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in names}
