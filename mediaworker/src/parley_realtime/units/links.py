"""Both directions at once between two units that send and hear media."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from parley_realtime.client.parameters import SendMediaParameters
from parley_realtime.events import MediaUnit


@runtime_checkable
class Sender(Protocol):
    """What audio can be sent from: a client, a player, a WebSocket, a mixer."""

    def send_media_to(
        self, media_unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None: ...

    def stop_media_to(self, media_unit: MediaUnit) -> None: ...


def send_media_between(first: Any, second: Any) -> None:
    """Let both hear each other. TypeError: one of them cannot send, or cannot hear."""
    _check(first, second)
    first.send_media_to(second)
    second.send_media_to(first)


def stop_media_between(first: Any, second: Any) -> None:
    """Let neither hear the other any more; other units go on."""
    _check(first, second)
    first.stop_media_to(second)
    second.stop_media_to(first)


def _check(*units: Any) -> None:
    for unit in units:
        if not isinstance(unit, Sender):
            raise TypeError(f"{type(unit).__name__} sends no media: use send_media_to of the other one")
        if not callable(getattr(unit, "media", None)):
            raise TypeError(f"{type(unit).__name__} hears no media: use its send_media_to alone")
