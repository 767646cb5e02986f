"""What one session may take of its shard: CPU time, bytes that wait, events. Over it, the session ends. Pure.

Every `now` is monotonic seconds. The first budget that is overrun is told once; after it nothing is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from parley_worker.core.budget import Budget
from parley_worker.core.model import EndReason

BURST_SECONDS = 20.0
"""What is allowed for so long may come at once: a provider may send minutes of an answer as it can."""
ATTACH_MESSAGES = 100
"""An attach costs as much as so many messages: it may have the whole replay sent again."""
CPU_WINDOW = 10.0
_SLICES = 10


class BudgetName(StrEnum):
    """What can be overrun: the words of the metric and of the message."""

    CPU = "cpu"
    QUEUE = "queue"
    PROVIDER_EVENTS = "provider_events"
    PROVIDER_AUDIO = "provider_audio"
    CALLER_MESSAGES = "caller_messages"
    CALLER_FRAMES = "caller_frames"


_FLOODS = frozenset({BudgetName.PROVIDER_EVENTS, BudgetName.PROVIDER_AUDIO})


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """Of one session. A rate may be had for BURST_SECONDS at once."""

    cpu_share: float = 0.2
    """Of a core, over CPU_WINDOW seconds."""
    queue_bytes: int = 12 * 1024 * 1024
    """Agent audio, caller's queue, provider's queue and replay together."""
    provider_events: float = 500.0
    """A second, audio among them."""
    provider_audio_bytes: float = 1024 * 1024
    """A second, decoded."""
    caller_messages: float = 200.0
    """A second, without audio."""
    caller_frames: float = 500.0
    """Frames of audio a second."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A budget that was overrun, and how the session ends for it."""

    budget: BudgetName
    reason: EndReason
    message: str

    @property
    def by_provider(self) -> bool:
        """True when the provider is to blame."""
        return self.budget in _FLOODS


class SlidingShare:
    """How much of the last `window` seconds was spent, known to a tenth of it."""

    def __init__(self, window: float = CPU_WINDOW) -> None:
        self._step = window / _SLICES
        self._slices = [0.0] * _SLICES
        self._at = 0
        self._until: float | None = None
        self.spent = 0.0

    def add(self, seconds: float, now: float) -> float:
        """Add what was just spent; gives all that was spent within the window."""
        if self._until is None:
            self._until = now + self._step
        elif now >= self._until:
            self._forget(now)
        self._slices[self._at] += seconds
        self.spent += seconds
        return self.spent

    def _forget(self, now: float) -> None:
        assert self._until is not None
        steps = int((now - self._until) / self._step) + 1
        for _ in range(min(steps, _SLICES)):
            self._at = (self._at + 1) % _SLICES
            self._slices[self._at] = 0.0
        self._until += steps * self._step
        self.spent = sum(self._slices)


class SessionBudget:
    """Counts for one session; every method gives the overrun that it made, or None."""

    def __init__(self, limits: BudgetLimits) -> None:
        self._limits = limits
        self._cpu = SlidingShare()
        self._cpu_seconds = limits.cpu_share * CPU_WINDOW
        self._events = _budget(limits.provider_events)
        self._audio = _budget(limits.provider_audio_bytes)
        self._messages = _budget(limits.caller_messages)
        self._frames = _budget(limits.caller_frames)
        self.overrun: Overrun | None = None

    def handled(self, seconds: float, queued: int, now: float) -> Overrun | None:
        """An event was handled in so much time, and so many bytes wait now."""
        if self._cpu.add(seconds, now) > self._cpu_seconds:
            text = f"its events took more than {self._cpu_seconds:g} s of the last {CPU_WINDOW:g} s"
            return self._over(BudgetName.CPU, text, "CPU_SHARE")
        if queued > self._limits.queue_bytes:
            text = f"{queued} bytes wait for its caller and its provider, {self._limits.queue_bytes} may"
            return self._over(BudgetName.QUEUE, text, "QUEUE_BYTES")
        return None

    def provider_event(self, now: float, events: int = 1) -> Overrun | None:
        """The provider sent so many events, audio or not."""
        if self._events.take(now, events):
            return None
        text = _rate("the provider sent more than", self._limits.provider_events, "events")
        return self._over(BudgetName.PROVIDER_EVENTS, text, "PROVIDER_EVENTS")

    def provider_audio(self, size: int, now: float) -> Overrun | None:
        """The provider sent so many bytes of audio, heard or not."""
        if self._audio.take(now, size):
            return self.provider_event(now)
        text = _rate("the provider sent more than", self._limits.provider_audio_bytes, "bytes of audio")
        return self._over(BudgetName.PROVIDER_AUDIO, text, "PROVIDER_AUDIO_BYTES")

    def caller_message(self, now: float, messages: int = 1) -> Overrun | None:
        """The caller sent a message other than audio; attaching counts as ATTACH_MESSAGES."""
        if self._messages.take(now, messages):
            return None
        text = _rate("the caller sent more than", self._limits.caller_messages, "messages")
        return self._over(BudgetName.CALLER_MESSAGES, text, "CALLER_MESSAGES")

    def caller_frames(self, now: float, frames: int) -> Overrun | None:
        """The caller sent so many frames of audio, however short."""
        if self._frames.take(now, frames):
            return None
        text = _rate("the caller sent more than", self._limits.caller_frames, "frames of audio")
        return self._over(BudgetName.CALLER_FRAMES, text, "CALLER_FRAMES")

    def _over(self, budget: BudgetName, what: str, setting: str) -> Overrun | None:
        if self.overrun is not None:
            return None
        reason = EndReason.PROVIDER_PROTOCOL_ERROR if budget in _FLOODS else EndReason.QUOTA_EXCEEDED
        bound = f"PARLEY_WORKER_SESSION_{setting}"
        self.overrun = Overrun(budget, reason, f"the session is over its budget {budget}: {what} ({bound})")
        return self.overrun


def _budget(rate: float) -> Budget:
    return Budget(rate, rate * BURST_SECONDS)


def _rate(who: str, rate: float, what: str) -> str:
    return f"{who} {rate:g} {what} a second for longer than {BURST_SECONDS:g} s"
