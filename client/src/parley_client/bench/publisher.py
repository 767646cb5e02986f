"""A publisher of `parley bench events`, as a process: `python -m parley_client.bench.publisher URL MODE
MESSAGES SESSIONS JOURNAL_SHARE`. Prints one line of JSON: messages, seconds, cpu_s, lost, out_of_order.

NatsBus is the worker's own: what it was given is read back from the streams, every message, in order. The
raw modes publish the same bytes to one stream with nats-py and count what the stream holds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import nats
import uvloop
from nats.aio.client import Client
from nats.js import JetStreamContext, api

WAITING: Final = 2000
"""Records that wait in the bus at most: as many as keep it busy."""
IN_FLIGHT: Final = 256
CHUNK: Final = 500
STALL_S: Final = 30.0
QUIET_S: Final = 0.5
STREAM: Final = "RAW"
SUBJECT: Final = "raw.events"
TEXT: Final = "Sure, I can help you with that. Could you tell me a little more about what you need today?"


def records(count: int, sessions: int, journal_share: float) -> Iterator[Any]:
    """Records as conversations make them: facts and content, in order for each session."""
    from parley_worker.core.model import SessionKey
    from parley_worker.core.records import EventRecord

    keys = [SessionKey("bench", f"call-{n}", f"bench-{n}", 1) for n in range(sessions)]
    numbers = {("event", n): 0 for n in range(sessions)} | {("journal", n): 0 for n in range(sessions)}
    kinds = max(1, round(1 / journal_share)) if journal_share else 0
    at = time.time_ns() / 1e9
    for index in range(count):
        session = index % sessions
        journal = kinds and (index // sessions) % kinds == 0
        kind = "journal" if journal else "event"
        numbers[kind, session] += 1
        fields: dict[str, object]
        if journal:
            fields = {"item_id": f"item_{index}", "content_index": 0, "role": "assistant", "text": TEXT}
            name = "transcript"
        else:
            fields = {"response_id": f"resp_{index}", "status": "completed", "output_tokens": 121}
            name = "response_done"
        yield EventRecord(kind, keys[session], numbers[kind, session], at, name, fields)  # type: ignore[arg-type]


async def through_the_bus(url: str, count: int, sessions: int, journal_share: float) -> dict[str, Any]:
    """As a worker does: the bus gets records and takes them to JetStream by itself."""
    from parley_worker.clock import SystemClock
    from parley_worker.telemetry.metrics import Metrics
    from parley_worker.transport.nats_bus import BusSettings, NatsBus

    given = list(records(count, sessions, journal_share))
    settings = BusSettings(url=url, name="bench", max_bytes=-1)
    bus = NatsBus(settings, worker="bench", instance="bench", clock=SystemClock(), metrics=Metrics("bench"))
    running = asyncio.create_task(bus.run())
    await _until(lambda: bus.connected)
    began, used = time.perf_counter(), time.process_time()
    for index in range(0, count, CHUNK):
        for record in given[index : index + CHUNK]:
            bus.publish(record)
        await _until(lambda: bus.waiting <= WAITING)
    undelivered = await bus.close(120)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    running.cancel()
    await asyncio.wait([running])
    lost, out_of_order = await _check(url, given)
    return {
        "messages": count,
        "seconds": seconds,
        "cpu_s": cpu,
        "lost": max(lost, undelivered),
        "out_of_order": out_of_order,
    }


async def _until(holds: Callable[[], bool]) -> None:
    """Poll, as the bus tells nobody; a millisecond is little against what waits."""
    for _ in range(round(STALL_S / 0.001)):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError(f"the bus took nothing for {STALL_S:g} s")


async def _check(url: str, given: list[Any]) -> tuple[int, int]:
    """Records that no stream holds, and those that stand out of their session's order."""
    wanted = {(record.kind, record.key.uid): 0 for record in given}
    for record in given:
        wanted[record.kind, record.key.uid] = record.sequence
    client = await nats.connect(url)
    last = dict.fromkeys(wanted, 0)
    out_of_order = 0
    try:
        for kind, stream in (("event", "PARLEY_EVENTS"), ("journal", "PARLEY_JOURNAL")):
            async for message in _messages(client.jetstream(), stream):
                body = json.loads(message)
                place = (kind, body["sessionUid"])
                sequence = int(body["sequence"])
                out_of_order += sequence != last[place] + 1
                last[place] = max(last[place], sequence)
    finally:
        await client.close()
    return sum(max(0, wanted[place] - last[place]) for place in wanted), out_of_order


async def _messages(js: JetStreamContext, stream: str) -> Any:
    """Every message's data in a stream, in order."""
    left = (await js.stream_info(stream)).state.messages
    config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE, deliver_policy=api.DeliverPolicy.ALL)
    consumer = await js.pull_subscribe("", stream=stream, config=config) if left else None
    while left and consumer is not None:
        batch = await consumer.fetch(min(CHUNK, left), timeout=10)
        left -= len(batch)
        for message in batch:
            yield message.data


async def raw(url: str, mode: str, count: int) -> dict[str, Any]:
    """The same bytes with nats-py alone."""
    from parley_worker.codec import events_pb

    encoded = [events_pb.encode(record, "bench", "bench") for record in records(count, 100, 0.5)]
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    await js.add_stream(api.StreamConfig(name=STREAM, subjects=["raw.>"], storage=api.StorageType.FILE))
    began, used = time.perf_counter(), time.process_time()
    await PUBLISHERS[mode](client, js, encoded)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    held = await _settled(js)
    await client.close()
    return {
        "messages": count,
        "seconds": seconds,
        "cpu_s": cpu,
        # Core publishing promises nothing; what arrived is shown all the same.
        "lost": count - held,
        "out_of_order": 0,
    }


async def _settled(js: JetStreamContext) -> int:
    """How many messages the stream holds once no more come: core publishing does not wait for them."""
    before = -1
    for _ in range(round(STALL_S / QUIET_S)):
        held = (await js.stream_info(STREAM)).state.messages
        if held == before:
            break
        before = held
        await asyncio.sleep(QUIET_S)
    return before


async def _awaited(client: Client, js: JetStreamContext, encoded: list[Any]) -> None:
    for message in encoded:
        await js.publish(SUBJECT, message.payload, headers=dict(message.headers))


async def _async(client: Client, js: JetStreamContext, encoded: list[Any]) -> None:
    for message in encoded:
        await js.publish_async(SUBJECT, message.payload, headers=dict(message.headers), wait_stall=30)
    await js.publish_async_completed()


async def _core(client: Client, js: JetStreamContext, encoded: list[Any]) -> None:
    for message in encoded:
        await client.publish(SUBJECT, message.payload, headers=dict(message.headers))
    await client.flush(60)


PUBLISHERS: Final = {"awaited publish": _awaited, "publish_async": _async, "core publish": _core}


def main(arguments: list[str]) -> None:
    url, mode, count, sessions, share = arguments
    work = (
        through_the_bus(url, int(count), int(sessions), float(share))
        if mode == "NatsBus"
        else raw(url, mode, int(count))
    )
    sys.stdout.write(json.dumps(uvloop.run(work)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
