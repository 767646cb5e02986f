"""How long each state of a session may last, and what is said of one that took longer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from parley_worker.core.model import EndReason, LimitsConfig, SessionState

Due = tuple[float, EndReason | None, str]
"""When, and how the session ends then; without a reason something else is to be done."""


@dataclass(frozen=True, slots=True)
class SessionBounds:
    """Waits in seconds and the size of the replay ring."""

    connect_timeout: float = 10.0
    cleared_timeout: float = 0.2
    replay_events: int = 512
    replay_bytes: int = 1024 * 1024
    setup_wait: float = 30.0


class Deadlines:
    """Of one session; every time is monotonic seconds."""

    def __init__(self, limits: LimitsConfig, bounds: SessionBounds) -> None:
        self._limits, self._bounds = limits, bounds
        self._words = {
            EndReason.ATTACH_TIMEOUT: f"nobody attached within {limits.attach_timeout:g} s",
            EndReason.REATTACH_TIMEOUT: f"the caller did not come back within {limits.reattach_timeout:g} s",
            EndReason.IDLE_TIMEOUT: f"nobody spoke for {limits.idle_timeout:g} s",
            EndReason.MAX_DURATION: f"the session reached its limit of {limits.max_duration:g} s",
        }

    def changed(self, limits: LimitsConfig) -> Deadlines:
        """The same with other limits."""
        return Deadlines(limits, self._bounds)

    def alone(self, state: SessionState, since: float, returning: bool) -> Due | None:
        """Without a caller, in the state since `since`; `returning`: one was there before."""
        limits = self._limits
        if state is SessionState.READY and not returning:
            return self._of(since + limits.attach_timeout, EndReason.ATTACH_TIMEOUT)
        if state in (SessionState.READY, SessionState.DETACHED):
            return self._of(since + limits.reattach_timeout, EndReason.REATTACH_TIMEOUT)
        return None

    def idle(self, quiet_since: float) -> Due:
        """With one who says nothing."""
        return self._of(quiet_since + self._limits.idle_timeout, EndReason.IDLE_TIMEOUT)

    def at_last(self, due: float) -> Due:
        """In any case."""
        return self._of(due, EndReason.MAX_DURATION)

    def _of(self, due: float, reason: EndReason) -> Due:
        return due, reason, self._words[reason]

    def connecting(self, made_at: float, since: float | None) -> Due:
        """Waiting for a turn (`since` None) is not the provider's fault, and has a bound of its own."""
        bounds = self._bounds
        if since is None:
            text = f"the worker set up others for {bounds.setup_wait:g} s: start sessions more slowly"
            return made_at + bounds.setup_wait, EndReason.NO_CAPACITY, text
        text = f"the provider did not configure the session within {bounds.connect_timeout:g} s"
        return since + bounds.connect_timeout, EndReason.PROVIDER_UNAVAILABLE, text


def last_moment(expires: float | None, drain_unix: float | None, offset: float) -> float | None:
    """When a session must be over, by its own limit or by that of its worker; None before it is ready.

    The worker's is in Unix seconds, which are `offset` more than monotonic ones.
    """
    if drain_unix is None or expires is None:
        return expires
    return min(expires, drain_unix - offset)
