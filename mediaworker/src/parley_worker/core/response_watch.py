"""When a response of which nothing comes any more is given up. Pure; times in monotonic seconds.

A backstop: a client that replaces lost connections finds it out sooner, and by itself. It does not look where
nothing may be kept (privacy) or replaced (recovery `Fail`).
"""

from __future__ import annotations

from dataclasses import dataclass

SILENT_SECONDS = 45.0
"""A response of which nothing comes for so long is cancelled."""
CALLING_PATIENCE = 4
"""One in which the provider calls a tool by itself may be silent so many times as long."""
CANCELLED_SECONDS = 15.0
"""What the provider says within this time of the cancellation saves the session."""
NOT_ACTIVE_CODE = "response_cancel_not_active"


@dataclass(slots=True)
class ResponseWatch:
    """The responses of one session. `audio_at` is when audio came last."""

    came_at: float = 0.0
    """When anything of a response came last, audio aside."""
    _cancelled_at: float | None = None

    def came(self, now: float) -> None:
        """Something of a response came."""
        self.came_at, self._cancelled_at = now, None

    def cancelled(self, now: float) -> None:
        """The silent response was told to end."""
        self._cancelled_at = now

    @property
    def cancelling(self) -> bool:
        """True while the provider's word on our cancellation is awaited."""
        return self._cancelled_at is not None

    def cancel_at(self, audio_at: float, *, calling: bool) -> float | None:
        """When a response that is being made is to be cancelled; None when that was done."""
        if self._cancelled_at is not None:
            return None
        return max(self.came_at, audio_at) + SILENT_SECONDS * (CALLING_PATIENCE if calling else 1)

    def end_at(self, audio_at: float) -> float | None:
        """When the provider is given up that does not even cancel; None when nothing was cancelled."""
        if self._cancelled_at is None:
            return None
        return max(self._cancelled_at, audio_at) + CANCELLED_SECONDS
