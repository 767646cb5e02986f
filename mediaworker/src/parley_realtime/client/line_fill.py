"""Silence for a provider while another unit says nothing: without it no turn detection finds an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley_realtime.audio import SampleFormat
from parley_realtime.formats import FRAME_SECONDS

GRACE_SECONDS = 0.04
"""A source that is late by less is not silent."""
FILL_SECONDS = 10.0
"""Silence goes on for so long after the last sound; the slowest turn detection needs 8 s."""


class LineFill:
    """A line that stays open while a unit that is heard by a client says nothing.

    `push` gives audio to the provider. Silence is left out while somebody else pushes audio, too.
    """

    def __init__(self, audio: SampleFormat, push: Callable[[bytes], None]) -> None:
        self._frame = audio.silence * (audio.frame_bytes // audio.sample_bytes)
        self._audio, self._push = audio, push
        self._due = self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.pushed_at = float("-inf")
        """When somebody else pushed audio last."""

    def came(self, size: int) -> None:
        """The unit said something."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._until = now + FILL_SECONDS
        self._due = max(self._due if self._timer else 0.0, now) + self._audio.seconds(size)
        if self._timer is None:
            self._timer = loop.call_at(self._due + GRACE_SECONDS, self._tick)

    def stop(self) -> None:
        """The unit is heard no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._due + GRACE_SECONDS - 0.001:
            self._timer = loop.call_at(self._due + GRACE_SECONDS, self._tick)
            return
        if now >= self._until:
            self._timer = None
            return
        if now - self.pushed_at > GRACE_SECONDS * 2:
            self._push(self._frame)
        self._due = max(self._due + FRAME_SECONDS, now - GRACE_SECONDS)
        self._timer = loop.call_at(self._due + GRACE_SECONDS, self._tick)
