"""Kubernetes Events for people: a bounded queue and one task; nothing ever waits for an Event.

Rule of overflow: an Event beyond the rate or the bound of the queue is dropped and counted; warnings have a
rate of their own, so that a storm of good news hides none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from parley_operator.api.constants import API_VERSION, EVENT, EVENT_API, GROUP, Body
from parley_operator.api.v1alpha1 import text_at
from parley_operator.clock import Clock
from parley_operator.domain.event_facts import MAX_NOTE, Fact
from parley_operator.domain.rate import Buckets
from parley_operator.ports import Store, StoreError

log = logging.getLogger(__name__)
CONTROLLER = f"{GROUP}/operator"
QUEUE = 256
# Events a second, and at once. One costs the API server about a fifth of a status write: together at most 2 %
# of a core, whatever the number of sessions.
NORMAL_RATE, NORMAL_BURST = 10.0, 100.0
WARNING_RATE, WARNING_BURST = 10.0, 100.0


class EventLevel(StrEnum):
    """Which Events are posted."""

    ALL = "All"
    WARNINGS = "Warnings"
    NONE = "None"


class EventPoster:
    """`tell` from the loop; `run` until cancelled. Without `run` nothing is queued."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        level: EventLevel = EventLevel.ALL,
        instance: str = "parley-operator",
        counted: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._level = level
        self._instance = instance[:128]
        self._counted = counted
        self._buckets = {
            True: Buckets(WARNING_RATE, WARNING_BURST),
            False: Buckets(NORMAL_RATE, NORMAL_BURST),
        }
        self._queue: asyncio.Queue[Body] = asyncio.Queue(QUEUE)
        self._running = False

    def tell(self, kind: str, body: Mapping[str, object], facts: list[Fact]) -> None:
        """Post the facts about this object soon, or drop and count them."""
        if not self._running or self._level is EventLevel.NONE:
            return
        for fact in facts:
            if self._level is EventLevel.WARNINGS and not fact.warning:
                continue
            bucket = self._buckets[fact.warning]
            if self._queue.full() or not bucket.take("", self._clock.monotonic()):
                self._counted("dropped")
                continue
            self._queue.put_nowait(self._event(kind, body, fact))

    def _event(self, kind: str, body: Mapping[str, object], fact: Fact) -> Body:
        name, namespace = text_at(body, "metadata", "name"), text_at(body, "metadata", "namespace")
        now = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="microseconds")
        return {
            "apiVersion": EVENT_API,
            "kind": EVENT,
            "metadata": {"name": f"{name[:230]}.{secrets.token_hex(8)}", "namespace": namespace},
            "eventTime": now.replace("+00:00", "Z"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": fact.action,
            "reason": fact.reason[:128],
            "type": "Warning" if fact.warning else "Normal",
            "note": fact.note[:MAX_NOTE],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": namespace,
                "name": name,
                "uid": text_at(body, "metadata", "uid"),
                "resourceVersion": text_at(body, "metadata", "resourceVersion"),
            },
        }

    async def run(self) -> None:
        """Post until cancelled. What the API server refuses is counted and forgotten."""
        self._running = True
        try:
            while True:
                event = await self._queue.get()
                try:
                    await self._store.create(EVENT, event)
                except StoreError as error:
                    self._counted("failed")
                    log.debug("event: %s", error)
                else:
                    self._counted("posted")
        finally:
            self._running = False
