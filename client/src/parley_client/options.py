"""How a call behaves, the states it goes through, and what it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from parley.media.v1 import media_pb2 as pb
from parley_opus import OpusSettings

from .backoff import Backoff
from .formats import PCM16_24K, AudioFormat

TICK_SECONDS: Final = 0.02
MAX_KEPT_SECONDS: Final = 8.0
"""A worker takes 10 s of audio at once."""
PROGRESS_SECONDS: Final = 0.2


class Playout(Enum):
    """How the worker delivers the agent's audio."""

    REALTIME = pb.PLAYOUT_MODE_REALTIME
    """20 ms frames, paced by the worker."""
    BURST = pb.PLAYOUT_MODE_BURST
    """As fast as the provider makes it; the call reports progress."""


class CallState(Enum):
    """The life of a call."""

    NEW = "new"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    RESUMING = "resuming"
    ENDED = "ended"
    FAILED = "failed"
    CLOSED = "closed"


TRANSITIONS: Final[Mapping[CallState, frozenset[CallState]]] = {
    CallState.NEW: frozenset({CallState.ATTACHING, CallState.CLOSED}),
    CallState.ATTACHING: frozenset({CallState.ATTACHED, CallState.FAILED, CallState.CLOSED}),
    CallState.ATTACHED: frozenset({CallState.RESUMING, CallState.ENDED, CallState.FAILED, CallState.CLOSED}),
    CallState.RESUMING: frozenset({CallState.ATTACHED, CallState.ENDED, CallState.FAILED, CallState.CLOSED}),
    CallState.ENDED: frozenset({CallState.CLOSED}),
    CallState.FAILED: frozenset({CallState.CLOSED}),
    CallState.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How a call behaves.

    Attributes:
        input_format: what `send_audio` is given (PCM16 where it is Opus).
        output_format: what the agent's audio comes in (PCM16, and the packets, where it is Opus).
        opus: how Opus packets are made, by this side and by the worker.
        playout: who paces the agent's audio.
        attach_timeout: seconds until the first attach must have succeeded.
        resume_timeout: seconds that a cut stream is tried to be resumed: a lost node takes up to 50.
        hangup_timeout: seconds to wait for the session's end after a hang-up.
        resume: False to let a cut stream end the call.
        keep_audio: seconds of caller audio, at most 8, that are kept while there is no stream, and to be said
            again to a worker that takes the session over; 0 for one second, and nothing again.
        events: types of conversation events to be told, `response.done` or `conversation.item.*`, or `none`
            alone; all when empty. Tools that the caller answers need
            `response.function_call_arguments.done`.
    """

    input_format: AudioFormat = PCM16_24K
    output_format: AudioFormat = PCM16_24K
    playout: Playout = Playout.REALTIME
    opus: OpusSettings = field(default_factory=OpusSettings)
    attach_timeout: float = 10.0
    resume_timeout: float = 60.0
    hangup_timeout: float = 5.0
    resume: bool = True
    keep_audio: float = 8.0
    backoff: Backoff = field(default_factory=Backoff)
    events: tuple[str, ...] = ()

    @property
    def kept_frames(self) -> int:
        """`keep_audio` in frames of 20 ms."""
        return round(min(max(self.keep_audio, 0.0), MAX_KEPT_SECONDS) / TICK_SECONDS)


@dataclass(slots=True)
class CallStats:
    """Counters of a call."""

    frames_sent: int = 0
    frames_dropped: int = 0
    """Caller frames that found no stream and no room: live audio does not wait."""
    frames_received: int = 0
    """Of 20 ms or, at an answer's end, less: some that waited come in one message."""
    bytes_received: int = 0
    events_received: int = 0
    events_missed: int = 0
    """Numbers that were skipped in the sequence of conversation events."""
    resumes: int = 0
    moves: int = 0
    """Times that the call followed its session to another worker on its word, without a break."""
    frames_resent: int = 0
