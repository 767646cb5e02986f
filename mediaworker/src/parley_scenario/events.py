"""Names of the events that a scenario can listen to besides those of its client, and the event object."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class AppEvents(StrEnum):
    """The life of the scenario."""

    Started = "Application.Started"
    """The session is set up; nobody is connected yet. `data["resumed"]` is there and true where the
    conversation was begun by another process: see `SessionInfo.resumed`."""
    Draining = "Application.Draining"
    """The worker goes away: `data["deadline_unix"]` is when the session must be over."""
    Reconnecting = "Application.Reconnecting"
    """The provider's WebSocket was lost and is being replaced: `data["reason"]`."""
    Reconnected = "Application.Reconnected"
    """A new WebSocket holds the conversation: `data["cause"]` (`lost` or `rotation`), `data["gap_ms"]`."""
    Terminating = "Application.Terminating"
    """The session is over: `data["reason"]`. There is a short time for last work."""
    Terminated = "Application.Terminated"
    """The very last event; its handlers may not wait."""


class CallEvents(StrEnum):
    """What happens to the caller's leg."""

    Connected = "Call.Connected"
    """A caller attached for the first time."""
    Detached = "Call.Detached"
    """The caller's stream was lost; it may come back."""
    Reconnected = "Call.Reconnected"
    """A caller attached again."""
    Disconnected = "Call.Disconnected"
    """The call is over: `data["reason"]`."""
    DtmfReceived = "Call.DtmfReceived"
    """A key: `data["digit"]`, `data["duration_ms"]`."""
    TransferFailed = "Call.TransferFailed"
    """A transfer was asked for while no caller was attached."""


class PlayerEvents(StrEnum):
    """What happens to a player."""

    PlaybackReady = "Player.PlaybackReady"
    """Its source is open and is audio."""
    Started = "Player.Started"
    """Its first frame was sent."""
    PlaybackFinished = "Player.PlaybackFinished"
    """It came to its end or was stopped: `data["duration_ms"]` was played."""
    Error = "Player.Error"
    """It cannot play: `data["message"]`."""


class RecorderEvents(StrEnum):
    """What happens to the recorder."""

    Started = "Recorder.Started"
    Stopped = "Recorder.Stopped"
    """The recording is complete: `data["url"]`, `data["duration_ms"]`."""
    Error = "Recorder.Error"
    """There is no recording, or not all of it: `data["message"]`."""


CUES: Mapping[str, Mapping[str, str]] = {
    "app": {event.name: event for event in AppEvents},
    "caller": {event.name: event for event in CallEvents},
    "player": {
        "ready": PlayerEvents.PlaybackReady,
        "started": PlayerEvents.Started,
        "ended": PlayerEvents.PlaybackFinished,
        "failed": PlayerEvents.Error,
    },
    "recorder": {
        "recording_started": RecorderEvents.Started,
        "recording_finished": RecorderEvents.Stopped,
        "recording_failed": RecorderEvents.Error,
        "failed": RecorderEvents.Error,
    },
}
"""What the worker calls an event, by where it belongs."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a handler of an app, a leg, a player or a recorder gets. `target` is what it happened to."""

    name: str
    target: Any
    data: Mapping[str, Any] = field(default_factory=dict)


class ScenarioMistake(Exception):
    """The scenario does something that cannot work; the text names the remedy."""


class UnknownEvent(ScenarioMistake):
    """There is no event of that name."""


def check_text(what: str, value: object, most: int) -> str:
    """The text; ScenarioMistake names `what` is none or has more than `most` characters."""
    if not isinstance(value, str):
        raise ScenarioMistake(f"{what} must be a string, not {type(value).__name__}")
    if len(value) > most:
        raise ScenarioMistake(f"{what} has at most {most} characters, not {len(value)}")
    return value


def check_event(event: object, known: Collection[str], owner: str) -> str:
    """The event's name. UnknownEvent names the nearest one."""
    if isinstance(event, str) and event in known:
        return str(event)
    tails = {name.rsplit(".", 1)[-1]: str(name) for name in known}
    close = difflib.get_close_matches(str(event).rsplit(".", 1)[-1], tails, n=1, cutoff=0.4)
    hint = f"did you mean {tails[close[0]]!r}?" if close else f"use one of {', '.join(sorted(tails))}"
    raise UnknownEvent(f"{owner} has no event {str(event)!r}: {hint}")
