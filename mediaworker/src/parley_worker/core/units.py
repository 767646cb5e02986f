"""Media units of a session beside its caller and its client: players and the recorder. Pure data.

Units have names: `caller`, `client` (the RealtimeAPIClient), `recorder`, and what a player was created as.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

CALLER = "caller"
CLIENT = "client"
RECORDER = "recorder"
RESERVED = frozenset({CALLER, CLIENT, RECORDER})
MAX_PLAYERS = 10


@dataclass(frozen=True, slots=True)
class CreatePlayer:
    """Load `source` (an http or https URL, or a path) and be ready to play it. `volume` is 0 to 4."""

    unit: str
    source: str = field(repr=False)
    loop: bool = False
    volume: float = 1.0


class PlayerAction(StrEnum):
    """What a player is told."""

    PLAY = "play"
    """Go on; a player that has ended begins anew. Sending it somewhere plays it, too."""
    PAUSE = "pause"
    STOP = "stop"
    """End: it is forgotten, its name is free."""


@dataclass(frozen=True, slots=True)
class ControlPlayer:
    """Tell a player something."""

    unit: str
    action: PlayerAction


@dataclass(frozen=True, slots=True)
class SendMedia:
    """Let `target` hear `source`: a player to the caller or the client, or caller and client to each other.

    Caller and client hear each other from the start; several sources to one target are mixed.
    """

    source: str
    target: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class StopMedia:
    """Let `target` not hear `source` any more; others go on."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class StartRecorder:
    """Begin a recording where the session's configuration says. Nothing happens when one runs."""


@dataclass(frozen=True, slots=True)
class StopRecorder:
    """Finish the recording. Nothing happens when none runs."""


UnitOrder = CreatePlayer | ControlPlayer | SendMedia | StopMedia | StartRecorder | StopRecorder


class UnitEventKind(StrEnum):
    """What happened to a unit."""

    READY = "ready"
    """A player can play: its source is open and is audio."""
    STARTED = "started"
    """A player is heard somewhere, from its first frame on."""
    ENDED = "ended"
    """A player came to the end of its source, or was stopped. `duration_ms` was played."""
    FAILED = "failed"
    """A player or an order to a unit failed: `message` says why. The session goes on."""
    RECORDING_STARTED = "recording_started"
    RECORDING_FINISHED = "recording_finished"
    """`url`, `duration_ms` and `size` (bytes) are of the recording."""
    RECORDING_FAILED = "recording_failed"
    """`message` says why; `url` is where it was to be."""
