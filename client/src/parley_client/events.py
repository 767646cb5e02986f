"""What a call tells its user: frozen values, no protobuf. `parley.media.v1` has their meaning on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .formats import AudioFormat


@dataclass(frozen=True, slots=True)
class Started:
    """The leg is attached. First event of a call, and again after each resume."""

    session_uid: str
    attempt: int
    input_format: AudioFormat
    output_format: AudioFormat
    worker_instance_id: str
    output_delay_ms: float
    resumed: bool
    """True when the call came back with its resume token."""


@dataclass(frozen=True, slots=True)
class AgentAudio:
    """A piece of the agent's audio, in the agreed output format; of an Opus call its samples as PCM16."""

    payload: bytes
    item_id: str
    content_index: int
    epoch: int
    sequence: int
    position_ms: int
    """Position of the first sample within the content part."""
    packet: bytes = b""
    """The Opus packet as it came; empty in every other format."""


class ClearReason(StrEnum):
    """Why queued agent audio was thrown away."""

    UNSPECIFIED = "unspecified"
    BARGE_IN = "barge_in"
    REQUESTED = "requested"
    OVERFLOW = "overflow"
    RECONNECT = "reconnect"


@dataclass(frozen=True, slots=True)
class Heard:
    """How far an item was heard; `item_id` is empty when nothing was being played."""

    item_id: str = ""
    content_index: int = 0
    epoch: int = 0
    played_ms: int = 0


@dataclass(frozen=True, slots=True)
class Clear:
    """Audio of this epoch and earlier was thrown away; the call has answered already with `heard`."""

    epoch: int
    reason: ClearReason
    heard: Heard


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in the agent's audio; the call answers it by itself when it was heard."""

    name: str
    epoch: int
    item_id: str
    content_index: int
    position_ms: int


@dataclass(frozen=True, slots=True)
class ConversationEvent:
    """A Realtime server event (never audio), or one of Parley's own (`parley.*`)."""

    sequence: int
    attempt: int
    type: str
    data: Mapping[str, Any]
    """The event as sent by the provider."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker is going away; sessions still there at the deadline (unix seconds) are ended."""

    deadline_unix: float


@dataclass(frozen=True, slots=True)
class Moved:
    """The session lives on another worker now; the call attaches there by itself."""

    endpoint: str
    tls_server_name: str
    attempt: int
    resend_from: int = 0
    """Number of the first frame of the caller's audio that is sent again to the new worker; 0 for none."""
    resend_messages_from: int = 0
    """Number of the first other message that is sent again to the new worker; 0 when that is not known."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """The agent asks whoever connects the caller, such as a telephony gateway, to move the call."""

    target: str
    """Where to, such as a telephone number or a SIP address."""
    note: str
    """For whoever takes the call."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The stream was cut; the call tries to resume."""

    cause: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over. Always the last event."""

    reason: str
    """One of the endReason words of VoiceSession.status."""
    message: str


Event = (
    Started
    | AgentAudio
    | Clear
    | Mark
    | ConversationEvent
    | Draining
    | Moved
    | Transfer
    | Reconnecting
    | Ended
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one side said, read from a conversation event."""

    role: str
    """`user` or `assistant`."""
    text: str
    final: bool
    """False for a piece of an answer that is still being spoken."""
    item_id: str = ""


_FINAL = {
    "conversation.item.input_audio_transcription.completed": ("user", "transcript"),
    "response.output_audio_transcript.done": ("assistant", "transcript"),
    "response.audio_transcript.done": ("assistant", "transcript"),
    "response.output_text.done": ("assistant", "text"),
    "response.text.done": ("assistant", "text"),
}
_PIECE = frozenset(
    {
        "response.output_audio_transcript.delta",
        "response.audio_transcript.delta",
        "response.output_text.delta",
        "response.text.delta",
    }
)


def transcript_of(event: ConversationEvent) -> Transcript | None:
    """Return the words that an event carries, of either protocol shape, or None when it carries none."""
    item_id = str(event.data.get("item_id", ""))
    if found := _FINAL.get(event.type):
        role, key = found
        return Transcript(role, str(event.data.get(key, "")).strip(), True, item_id)
    if event.type in _PIECE:
        return Transcript("assistant", str(event.data.get("delta", "")), False, item_id)
    return None
