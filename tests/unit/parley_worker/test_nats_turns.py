"""What waited for NATS goes out in pieces: the event loop is never held up by all of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from unittest import mock

from parley_worker.clock import SystemClock
from parley_worker.core.model import SessionKey
from parley_worker.core.outbox import Entry, Lane
from parley_worker.core.records import EventRecord
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport import nats_bus
from parley_worker.transport.nats_bus import AT_ONCE, BusSettings, NatsBus


async def test_others_have_their_turn_while_a_full_buffer_is_sent() -> None:
    settings = BusSettings("nats://nowhere", "test", window=4000)
    bus = NatsBus(settings, worker="w", instance="i", clock=SystemClock(), metrics=Metrics())
    for number in range(1000):
        key = SessionKey("ns", "n", f"u{number}", 1)
        bus.publish(EventRecord("event", key, 1, 0.0, "first_audio", {}))
    sent: list[int] = []
    turns: list[int] = []

    async def send(js: Any, flight: Any, lane: Lane, entry: Entry) -> None:
        sent.append(1)
        bus._outbox.stored(lane, 1)

    async def neighbour() -> None:
        while len(sent) < 1000:
            turns.append(len(sent))
            await asyncio.sleep(0)

    beside = asyncio.create_task(neighbour())
    with mock.patch.object(bus, "_send", send):
        bus._gates = {kind: nats_bus.Gate(0.1, 1.0) for kind in ("event", "journal")}  # type: ignore[misc]
        client = mock.AsyncMock(is_connected=True, new_inbox=mock.Mock(return_value="inbox"))
        delivering = asyncio.create_task(bus._deliver(client, mock.Mock()))
        await beside
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
    assert max(later - earlier for earlier, later in pairwise(turns)) <= AT_ONCE
