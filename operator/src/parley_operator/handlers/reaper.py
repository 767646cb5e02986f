"""Deletes finished sessions when their time is over: steadily, a few at a time.

After an outage, or with many calls that end together, thousands are due at once. Deleting them as fast as
possible would take the API server away from those who call now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from parley_operator.api.constants import SESSION
from parley_operator.ports import NotLeading, Store, StoreError

from .queue import Key

log = logging.getLogger(__name__)
BATCH = 5
# 25 a second; a quarter of that while others wait to be looked at.
PERIOD = 0.2
BUSY_PERIOD = 0.8
_PAUSE_AFTER_ERROR = 2.0


class Reaper:
    """By uid, in the order in which they came; bounded by the number of VoiceSessions. Their ticket Secrets
    go with them, by owner reference."""

    def __init__(self, store: Store, busy: Callable[[], bool]) -> None:
        self._store = store
        self._busy = busy
        self._due: dict[str, Key] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, uid: str) -> None:
        """Delete this object, soon; one of another uid that took its name is left alone."""
        self._due.setdefault(uid, key)
        self._wake.set()

    async def run(self) -> None:
        """Delete until cancelled."""
        while True:
            while not self._due:
                self._wake.clear()
                await self._wake.wait()
            failed = await self.step()
            pause = BUSY_PERIOD if self._busy() else PERIOD
            await asyncio.sleep(_PAUSE_AFTER_ERROR if failed else pause)

    async def step(self) -> bool:
        """Delete one batch; what fails is tried again. Returns whether something failed."""
        batch = list(self._due.items())[:BATCH]
        outcomes = await asyncio.gather(
            *(self._store.delete(SESSION, key.namespace, key.name, uid) for uid, key in batch),
            return_exceptions=True,
        )
        failed = False
        for (uid, key), outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                self._due.pop(uid, None)
                continue
            failed = True
            if not isinstance(outcome, StoreError):
                raise outcome
            # Behind the others: one that cannot be deleted stops nobody.
            self._due[uid] = self._due.pop(uid)
            if not isinstance(outcome, NotLeading):
                log.warning(
                    "VoiceSession %s/%s is over and cannot be deleted: %s", key.namespace, key.name, outcome
                )
        return failed
