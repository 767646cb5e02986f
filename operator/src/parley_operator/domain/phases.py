"""Phases and end reasons of a VoiceSession, with the one table of allowed transitions."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What `kubectl get` shows; derived, never an input of a decision beyond 'is it over'."""

    PENDING = "Pending"
    READY = "Ready"
    ACTIVE = "Active"
    RECOVERING = "Recovering"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


TERMINAL = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})
# The worker has the session's provider: a caller is heard at once.
SERVING = frozenset({Phase.READY, Phase.ACTIVE})

# A report can be missed, so a phase may be skipped forwards; nothing goes back but by way of a recovery, and
# nothing leaves a terminal phase.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.READY, Phase.ACTIVE, Phase.RECOVERING}) | TERMINAL,
    Phase.READY: frozenset({Phase.ACTIVE, Phase.RECOVERING}) | TERMINAL,
    Phase.ACTIVE: frozenset({Phase.RECOVERING}) | TERMINAL,
    Phase.RECOVERING: frozenset({Phase.READY, Phase.ACTIVE}) | TERMINAL,
    Phase.COMPLETED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.CANCELLED: frozenset(),
}


class EndReason(StrEnum):
    """Why a session is over: the closed list."""

    CALLER_HANGUP = "CallerHangup"
    AGENT_HANGUP = "AgentHangup"
    SCENARIO_COMPLETED = "ScenarioCompleted"
    SCENARIO_FAILED = "ScenarioFailed"
    TERMINATED = "Terminated"
    MAX_DURATION = "MaxDuration"
    IDLE_TIMEOUT = "IdleTimeout"
    ATTACH_TIMEOUT = "AttachTimeout"
    REATTACH_TIMEOUT = "ReattachTimeout"
    QUEUE_TIMEOUT = "QueueTimeout"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NO_CAPACITY = "NoCapacity"
    PROVIDER_AUTH_FAILED = "ProviderAuthFailed"
    PROVIDER_MODEL_REFUSED = "ProviderModelRefused"
    PROVIDER_QUOTA = "ProviderQuota"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    PROVIDER_PROTOCOL_ERROR = "ProviderProtocolError"
    WORKER_LOST = "WorkerLost"
    SHARD_LOST = "ShardLost"
    DRAIN_DEADLINE = "DrainDeadline"
    INVALID_SPEC = "InvalidSpec"
    INTERNAL = "Internal"


_COMPLETED = frozenset(
    {
        EndReason.CALLER_HANGUP,
        EndReason.AGENT_HANGUP,
        EndReason.SCENARIO_COMPLETED,
        EndReason.MAX_DURATION,
        EndReason.IDLE_TIMEOUT,
        EndReason.REATTACH_TIMEOUT,
    }
)
_CANCELLED = frozenset({EndReason.TERMINATED, EndReason.ATTACH_TIMEOUT})


def end_reason(text: str) -> EndReason:
    """The reason a worker gave; a word outside the closed list becomes `Internal`."""
    try:
        return EndReason(text)
    except ValueError:
        return EndReason.INTERNAL


def phase_of(reason: EndReason) -> Phase:
    """A conversation that took its course is Completed, one called off is Cancelled, everything else
    Failed."""
    if reason in _COMPLETED:
        return Phase.COMPLETED
    return Phase.CANCELLED if reason in _CANCELLED else Phase.FAILED


def advance(current: Phase, wanted: Phase) -> Phase:
    """`wanted` where the table allows it, else `current`: late reports never move a session back."""
    return wanted if wanted in TRANSITIONS[current] else current
