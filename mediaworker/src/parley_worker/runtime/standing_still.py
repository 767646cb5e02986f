"""A session that holds still for a moment: because it moves to another worker, or may have moved already.

Meanwhile its caller hears nothing new and its provider is told nothing; what the caller says waits. If it has
to go on, it goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from parley_worker.core.saved import HandOver
from parley_worker.core.session import Session
from parley_worker.runtime.provider import Provider

STILL_SECONDS = 10.0
"""How long a session that was made ready to move waits to be told where to."""
LEAVE_SECONDS = 10.0
"""How long a caller that was told where to go may take to leave."""
HELD_SECONDS = 10.0
"""Of caller audio that waits; of more the newest."""
FRAME_MS = 20
MAX_AGAIN_MS = 5000
"""Of caller audio of no turn yet: who commits turns by hand and has said more is in the middle of one, and
might not have kept it."""
MAX_GIVEN_BYTES = 512 * 1024
"""Of a conversation that is handed over; a longer one is read from the journal."""


class HeldMedia(Protocol):
    """The session's audio."""

    to_provider: Callable[[bytes], None] | None

    @property
    def last_frame(self) -> int: ...

    def hold_still(self) -> None: ...

    def go_on(self) -> None: ...


class Standstill:
    """One such moment. `on_late` is called when it lasts longer than `seconds`.

    `again_ms` is how much audio from before goes again when the caller leaves: speech may have begun
    unnoticed in it.
    """

    def __init__(
        self,
        media: HeldMedia,
        bytes_per_ms: float,
        again_ms: float,
        seconds: float,
        on_late: Callable[[], None],
    ) -> None:
        self._media, self._bytes_per_ms, self._again_ms = media, bytes_per_ms, again_ms
        self._most = int(bytes_per_ms * HELD_SECONDS * 1000)
        self._audio: deque[bytes] = deque()
        self._bytes = 0
        self._passes, media.to_provider = media.to_provider, self._take
        self._last_frame = media.last_frame
        media.hold_still()
        self._timer = asyncio.get_running_loop().call_later(seconds, on_late)
        self.given: HandOver | None = None
        """What was handed over, once all of the journal is stored."""
        self.left = False
        """The caller was told where to go: there is no way back."""

    def _take(self, payload: bytes) -> None:
        self._audio.append(payload)
        self._bytes += len(payload)
        while self._bytes > self._most:
            self._bytes -= len(self._audio.popleft())

    @property
    def resend_from(self) -> int:
        """Sequence of the first frame that the caller is to send again; 0 for none."""
        if not self._last_frame and not self._audio:
            return 0
        first = len(self._audio[0]) / self._bytes_per_ms if self._audio else FRAME_MS
        return max(1, self._last_frame + 1 - math.ceil(self._again_ms / max(first, 1.0)))

    def leave(self, on_late: Callable[[], None]) -> None:
        """The caller goes; what it said here it says again there."""
        self.left = True
        self._audio.clear()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LEAVE_SECONDS, on_late)

    def stop(self) -> None:
        """The session is over."""
        self._timer.cancel()
        self._audio.clear()

    def go_on(self) -> None:
        """As if nothing had been."""
        self._timer.cancel()
        self._media.to_provider = self._passes
        for payload in self._audio:
            if self._passes is not None:
                self._passes(payload)
        self._audio.clear()
        self._media.go_on()


def give_away(session: Session, provider: Provider, now: float) -> HandOver | str:
    """What another worker needs to go on with the session, if this is a quiet moment; or why it stays."""
    if not session.report.migratable:
        return "the session cannot be moved: see `migratable`"
    calm = session.settled(now) and provider.unsettled_ms <= MAX_AGAIN_MS
    items = provider.handing_over() if calm else None
    if items is None:
        return "no quiet moment came"
    if isinstance(items, str):
        return items
    given = session.hand_over(items, now)
    if len(given.write()) > MAX_GIVEN_BYTES and not session.config.privacy:
        given = session.hand_over(None, now)
    return given
