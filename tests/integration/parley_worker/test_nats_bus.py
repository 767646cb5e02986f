"""Events and journal against a real nats-server: late, killed, cut, full, fenced."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest import mock

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats_server import NatsServer, stored
from parley_worker.clock import SystemClock
from parley_worker.core.model import SessionKey
from parley_worker.core.records import EventRecord
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.nats_bus import BusSettings, NatsBus
from prometheus_client.parser import text_string_to_metric_families


def key(uid: str = "u1", attempt: int = 1) -> SessionKey:
    return SessionKey("ns", "call", uid, attempt)


def event(sequence: int, of: SessionKey | None = None) -> EventRecord:
    fields = {"response_id": f"r{sequence}", "latency_ms": sequence}
    return EventRecord("event", of or key(), sequence, 1_790_000_000.5, "first_audio", fields)


def entry(sequence: int, of: SessionKey | None = None, text: str = "words") -> EventRecord:
    fields = {"item_id": f"i{sequence}", "content_index": 0, "role": "user", "text": text}
    return EventRecord("journal", of or key(), sequence, 1_790_000_000.5, "transcript", fields)


async def eventually(check: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


class Bus:
    """A running NatsBus with its metrics."""

    def __init__(self, url: str, **settings: object) -> None:
        self.metrics = Metrics()
        self.fenced: list[SessionKey] = []
        defaults = {"ack_timeout": 1.0, "connect_timeout": 1.0, "ping_interval": 0.5, "retry_max": 0.2}
        self.bus = NatsBus(
            BusSettings(url=url, **{**defaults, **settings}),  # type: ignore[arg-type]
            worker="w",
            instance="i",
            clock=SystemClock(),
            metrics=self.metrics,
            on_fenced=self.fenced.append,
        )

    async def empty(self) -> None:
        await eventually(lambda: self.bus.waiting == 0)


@contextlib.asynccontextmanager
async def running(url: str, **settings: object) -> AsyncIterator[Bus]:
    bus = Bus(url, **settings)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bus.bus.run())
        yield bus
        await bus.bus.close(0)
        task.cancel()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.kill()


async def ids(server: NatsServer, stream: str) -> list[str]:
    return [message[0] for message in await stored(server, stream)]


async def test_records_arrive_as_cloud_events(server: NatsServer) -> None:
    async with running(server.url) as bus:
        bus.bus.publish(event(1))
        bus.bus.publish(entry(1))
        await bus.empty()
        client = await server.connect()
        js = client.jetstream()
        message = await js.get_msg("PARLEY_EVENTS", 1)
        assert message.subject == "parley.events.ns.u1.first-audio"
        headers = dict(message.headers or {})
        assert headers == {
            "Nats-Msg-Id": "u1.1.e1",
            "ce-specversion": "1.0",
            "ce-id": "u1.1.e1",
            "ce-source": "/parley/workers/w",
            "ce-type": "dev.parley.session.first-audio",
            "ce-subject": "ns/u1",
            "ce-time": "2026-09-21T14:13:20.500000Z",
            "content-type": "application/json",
        }
        body = json.loads(message.data or b"")
        assert body["firstAudio"] == {"responseId": "r1", "latencyMs": "1"}
        assert body["workerInstanceId"] == "i"
        message = await js.get_msg("PARLEY_JOURNAL", 1)
        assert message.subject == "parley.journal.ns.u1"
        assert (message.headers or {})["Nats-Msg-Id"] == "u1.1.1"
        assert json.loads(message.data or b"")["transcript"]["text"] == "words"
        for stream in ("PARLEY_EVENTS", "PARLEY_JOURNAL"):
            config = (await js.stream_info(stream)).config
            assert config.storage == api.StorageType.FILE
            assert config.duplicate_window == 120
        await client.close()
        assert value(bus.metrics, "parley_worker_events_published_total", kind="journal") == 1
        assert value(bus.metrics, "parley_worker_nats_connected") == 1


async def test_nats_down_at_start_costs_nothing_and_loses_nothing(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    async with running(server.url) as bus:
        for sequence in range(1, 101):
            bus.bus.publish(event(sequence))
            bus.bus.publish(entry(sequence))
        await asyncio.sleep(0.5)
        assert bus.bus.waiting == 200
        await server.start()
        await bus.empty()
        assert await ids(server, "PARLEY_EVENTS") == [f"u1.1.e{n}" for n in range(1, 101)]
        assert await ids(server, "PARLEY_JOURNAL") == [f"u1.1.{n}" for n in range(1, 101)]
        await server.kill()


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_nats_restarted_in_the_middle_keeps_order_without_loss_or_repetition(
    server: NatsServer, how: str
) -> None:
    sessions = [key(f"u{n}") for n in range(5)]
    async with running(server.url) as bus:
        for sequence in range(1, 301):
            for session in sessions:
                bus.bus.publish(event(sequence, session))
                bus.bus.publish(entry(sequence, session))
            if sequence in (60, 180):
                await (server.kill() if how == "kill" else server.stop())
            if sequence in (120, 240):
                await server.start()
            await asyncio.sleep(0.003)
        await bus.empty()
        for stream, mark in (("PARLEY_EVENTS", "e"), ("PARLEY_JOURNAL", "")):
            got = await ids(server, stream)
            assert len(got) == 1500
            for session in sessions:
                mine = [i for i in got if i.startswith(f"{session.uid}.")]
                assert mine == [f"{session.uid}.1.{mark}{n}" for n in range(1, 301)]
        assert value(bus.metrics, "parley_worker_events_dropped_total") == 0
        assert not bus.bus.degraded


class Cutter:
    """A TCP proxy before NATS that can swallow what the server says, and cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.deaf = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, up_writer}
        with contextlib.suppress(ConnectionError):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, up_writer, False))
                tasks.create_task(self._copy(up_reader, writer, True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not (down and self.deaf):
                    writer.write(data)
                    await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()


@pytest.mark.parametrize("duplicate_window", [120.0, 1.0])
async def test_lost_acknowledgements_store_nothing_twice(server: NatsServer, duplicate_window: float) -> None:
    cutter = Cutter(server.port)
    url = await cutter.start()
    async with running(url, duplicate_window=duplicate_window) as bus:
        bus.bus.publish(event(1))
        bus.bus.publish(entry(1))
        await bus.empty()
        cutter.deaf = True
        for sequence in (2, 3):
            bus.bus.publish(event(sequence))
            bus.bus.publish(entry(sequence))
        await eventually(lambda: value(bus.metrics, "parley_worker_nats_connected") == 0)
        assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1", "u1.1.e2"]
        await asyncio.sleep(1.2 if duplicate_window == 1.0 else 0)
        cutter.deaf = False
        await bus.empty()
        assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1", "u1.1.e2", "u1.1.e3"]
        assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1", "u1.1.2", "u1.1.3"]
        assert bus.fenced == []
        assert value(bus.metrics, "parley_worker_events_retried_total", kind="event") >= 1
    await cutter.stop()


async def test_cut_connections_are_made_again(server: NatsServer) -> None:
    cutter = Cutter(server.port)
    url = await cutter.start()
    async with running(url) as bus:
        for sequence in range(1, 201):
            bus.bus.publish(entry(sequence))
            if sequence % 40 == 0:
                cutter.cut()
            await asyncio.sleep(0.005)
        await bus.empty()
        assert await ids(server, "PARLEY_JOURNAL") == [f"u1.1.{n}" for n in range(1, 201)]
    await cutter.stop()


async def test_a_full_stream_is_asked_again_until_it_has_room(server: NatsServer) -> None:
    client = await server.connect()
    js = client.jetstream()
    config = api.StreamConfig(
        name="PARLEY_JOURNAL", subjects=["parley.journal.>"], max_msgs=3, discard=api.DiscardPolicy.NEW
    )
    await js.add_stream(config)
    async with running(server.url, buffer_count=20) as bus:
        for sequence in range(1, 11):
            bus.bus.publish(entry(sequence))
        bus.bus.publish(event(1))
        await eventually(
            lambda: value(bus.metrics, "parley_worker_events_retried_total", kind="journal") >= 3
        )
        assert bus.bus.waiting == 7
        assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1"]
        config.max_msgs = 100
        await js.update_stream(config)
        await bus.empty()
        assert await ids(server, "PARLEY_JOURNAL") == [f"u1.1.{n}" for n in range(1, 11)]
    await client.close()


async def test_an_outage_too_long_for_the_buffer_loses_events_before_journal(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path / "nats")
    async with running(server.url, buffer_count=30) as bus:
        for sequence in range(1, 26):
            bus.bus.publish(event(sequence))
            bus.bus.publish(entry(sequence))
        assert bus.bus.waiting == 30
        assert bus.bus.degraded
        assert value(bus.metrics, "parley_worker_events_dropped_total", kind="event", cause="overflow") == 20
        bus.metrics.render()
        assert value(bus.metrics, "parley_worker_journal_degraded") == 1
        await server.start()
        await bus.empty()
        assert not bus.bus.degraded
        assert await ids(server, "PARLEY_JOURNAL") == [f"u1.1.{n}" for n in range(1, 26)]
        assert await ids(server, "PARLEY_EVENTS") == [f"u1.1.e{n}" for n in range(21, 26)]
        await server.kill()


async def test_a_worker_whose_session_was_placed_anew_cannot_write(server: NatsServer) -> None:
    async with running(server.url) as old, running(server.url) as new:
        old.bus.publish(entry(1, key(attempt=1)))
        await old.empty()
        new.bus.publish(entry(1, key(attempt=2)))
        new.bus.publish(entry(2, key(attempt=2)))
        await new.empty()
        old.bus.publish(entry(2, key(attempt=1)))
        old.bus.publish(entry(3, key(attempt=1)))
        old.bus.publish(entry(1, key("other")))
        await old.empty()
        await eventually(lambda: old.fenced == [key(attempt=1)])
        old.bus.publish(entry(4, key(attempt=1)))
        await old.empty()
        new.bus.publish(entry(3, key(attempt=2)))
        await new.empty()
        got = await ids(server, "PARLEY_JOURNAL")
        assert [i for i in got if i.startswith("u1.")] == ["u1.1.1", "u1.2.1", "u1.2.2", "u1.2.3"]
        assert "other.1.1" in got
        assert value(old.metrics, "parley_worker_events_dropped_total", kind="journal", cause="fenced") == 3
        assert new.fenced == []


async def test_a_journal_whose_start_was_purged_goes_on(server: NatsServer) -> None:
    async with running(server.url) as bus:
        bus.bus.publish(entry(1))
        await bus.empty()
        client = await server.connect()
        await client.jetstream().purge_stream("PARLEY_JOURNAL")
        bus.bus.publish(entry(2))
        await bus.empty()
        await client.close()
        assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.2"]


async def test_a_stream_deleted_while_in_use_is_made_again(server: NatsServer) -> None:
    async with running(server.url) as bus:
        bus.bus.publish(event(1))
        await bus.empty()
        client = await server.connect()
        await client.jetstream().delete_stream("PARLEY_EVENTS")
        bus.bus.publish(event(2))
        await bus.empty()
        await client.close()
        assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e2"]


async def test_a_record_that_nats_can_never_take_is_dropped_and_the_rest_goes_on(server: NatsServer) -> None:
    async with running(server.url) as bus:
        bus.bus.publish(entry(1, text="x" * (2 << 20)))
        bus.bus.publish(EventRecord("event", key(), 1, 1.0, "no_such_fact", {}))
        bus.bus.publish(EventRecord("event", key(), 2, 1.0, "first_audio", {"latency_ms": "soon"}))
        bus.bus.publish(entry(2))
        bus.bus.publish(event(3))
        await bus.empty()
        assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.2"]
        assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e3"]
        assert value(bus.metrics, "parley_worker_events_dropped_total", kind="event", cause="invalid") == 2


async def test_closing_delivers_what_waits_and_gives_up_at_its_deadline(server: NatsServer) -> None:
    async with running(server.url) as bus:
        for sequence in range(1, 51):
            bus.bus.publish(event(sequence))
        assert await bus.bus.close(10) == 0
        assert len(await ids(server, "PARLEY_EVENTS")) == 50
    await server.kill()
    async with running(server.url) as bus:
        bus.bus.publish(event(1))
        bus.bus.publish(entry(1))
        started = asyncio.get_running_loop().time()
        assert await bus.bus.close(0.3) == 2
        assert asyncio.get_running_loop().time() - started < 5
        assert value(bus.metrics, "parley_worker_events_dropped_total", kind="journal", cause="shutdown") == 1
        bus.bus.publish(event(2))
        assert bus.bus.waiting == 0


async def test_an_error_of_the_client_library_itself_is_survived(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus(server.url)
    whole = bus.bus._open
    failures = [LookupError("inside the library")]

    async def open_(client: Client) -> JetStreamContext:
        if failures:
            raise failures.pop()
        return await whole(client)

    with mock.patch.object(bus.bus, "_open", open_):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(bus.bus.run())
            bus.bus.publish(entry(1))
            await bus.empty()
            await bus.bus.close(0)
            task.cancel()
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1"]
    assert value(bus.metrics, "parley_worker_task_crashes_total") == 1
    assert "the NATS client failed" in caplog.text
