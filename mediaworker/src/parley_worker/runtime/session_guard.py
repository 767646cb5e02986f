"""Holds one session to its budget: measures, and ends it when it takes more."""

from __future__ import annotations

from collections.abc import Callable

from parley_worker.core import events as ev
from parley_worker.core.session_budget import ATTACH_MESSAGES, BudgetLimits, Overrun, SessionBudget
from parley_worker.runtime.unravel import unheard
from parley_worker.telemetry.metrics import Metrics

FRAMES_AT_ONCE = 64
"""A caller's frames are counted by so many: one is heard every 20 ms, and counting must cost nothing."""
POLICY_VIOLATION = 1008


class SessionGuard:
    """Every method gives False when the session has ended for what it took. `now` is monotonic seconds."""

    def __init__(
        self,
        limits: BudgetLimits,
        metrics: Metrics,
        feed: Callable[[ev.Event], None],
        queued: Callable[[], int],
    ) -> None:
        """`feed` takes the event that ends the session, `queued` tells the bytes that wait."""
        self._budget = SessionBudget(limits)
        self._metrics = metrics
        self._feed = feed
        self._queued = queued
        self._frames = 0
        self._seen = 0
        self.messages = 0
        """Of the present caller: how many came, audio not among them."""

    def handled(self, seconds: float, now: float, *, small: bool = False) -> bool:
        """An event was handled in so much time. `small`: it let nothing wait that is worth looking at."""
        return self._holds(self._budget.handled(seconds, 0 if small else self._queued(), now))

    def provider_event(self, now: float) -> bool:
        """The provider sent an event without audio."""
        self._seen += 1
        return self._holds(self._budget.provider_event(now))

    def provider_audio(self, size: int, now: float) -> bool:
        """The provider sent so many bytes of audio."""
        self._seen += 1
        return self._holds(self._budget.provider_audio(size, now))

    def provider_sent(self, messages: int, now: float) -> bool:
        """The provider has sent so many messages in all, those that say nothing to anybody included."""
        unseen = messages - self._seen
        self._seen = max(self._seen, messages)
        return unseen <= 0 or self._holds(self._budget.provider_event(now, unseen))

    def caller_message(self, now: float) -> bool:
        """The caller sent something other than audio."""
        self.messages += 1
        return self._holds(self._budget.caller_message(now))

    def attached(self, now: float) -> bool:
        """The caller attached."""
        self.messages = 0
        return self._holds(self._budget.caller_message(now, ATTACH_MESSAGES))

    def caller_frame(self, now: float) -> bool:
        """The caller sent a frame of audio, however short."""
        self._frames += 1
        if self._frames < FRAMES_AT_ONCE:
            return True
        self._frames = 0
        return self._holds(self._budget.caller_frames(now, FRAMES_AT_ONCE))

    def let_go(self) -> None:
        """The session is over: nobody is told, and nothing is asked."""
        self._feed, self._queued = unheard, int

    def _holds(self, overrun: Overrun | None) -> bool:
        if overrun is not None:
            self._metrics.budget_overrun(overrun.budget)
            self._feed(_end(overrun))
        return self._budget.overrun is None


def _end(overrun: Overrun) -> ev.Event:
    if overrun.by_provider:
        return ev.ProviderLost(overrun.reason, overrun.message, POLICY_VIOLATION)
    return ev.TerminateRequested(overrun.reason, overrun.message)
