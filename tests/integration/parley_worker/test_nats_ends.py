"""The end of sessions that went with their shard, written into real streams after what the shard wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc.aio import AioRpcError
from nats.js import api
from nats_server import NatsServer, stored
from parley.control.v1 import control_pb2 as pb
from parley_worker.codec import events_pb
from parley_worker.core.lost import Closing, LostSession
from parley_worker.core.model import EndReason, SessionKey, SessionReport, SessionState, Usage
from parley_worker.core.records import EventRecord, RecordKind
from parley_worker.telemetry.process_metrics import SupervisorMetrics
from parley_worker.transport.nats_connection import ConnectionSettings
from parley_worker.transport.nats_ends import LostEnds
from provider_script import Socket, scripted
from shards import idle, kill, sharded

KEY = SessionKey("ns", "call", "u1", 1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    client = await server.connect()
    js = client.jetstream()
    await js.add_stream(api.StreamConfig(name="PARLEY_EVENTS", subjects=["parley.events.>"]))
    await js.add_stream(api.StreamConfig(name="PARLEY_JOURNAL", subjects=["parley.journal.>"]))
    await client.close()
    yield server
    await server.kill()


def lost(
    key: SessionKey = KEY,
    *,
    privacy: bool = False,
    recorded: bool = False,
    closing: Closing = Closing.SESSION,
) -> LostSession:
    report = SessionReport(
        key,
        SessionState.ENDED,
        end_reason=EndReason.SHARD_LOST,
        end_message="shard 0 of the worker was killed",
        started_at=1_700_000_000.0,
        ended_at=1_700_000_009.5,
        usage=Usage(input_tokens=7),
    )
    return LostSession(report, privacy, recorded, closing)


def record(kind: RecordKind, number: int, type_: str = "", attempt: int = 1) -> EventRecord:
    key = SessionKey("ns", "call", "u1", attempt)
    return EventRecord(kind, key, number, 0.0, type_ or ("speech_started" if kind == "event" else "dtmf"))


async def write(server: NatsServer, *records: EventRecord) -> None:
    client = await server.connect()
    for one in records:
        message = events_pb.encode(one, "w", "i")
        await client.jetstream().publish(message.subject, message.payload, headers=message.headers)
    await client.close()


@asynccontextmanager
async def ends(url: str) -> AsyncIterator[tuple[LostEnds, SupervisorMetrics]]:
    metrics = SupervisorMetrics()
    settings = ConnectionSettings(url, retry_max=0.2, connect_timeout=1)
    made = LostEnds(settings, worker="w", instance="i", metrics=metrics)
    task = asyncio.create_task(made.run())
    yield made, metrics
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def outcome(metrics: SupervisorMetrics, word: str) -> bool:
    return f'parley_worker_shard_ends_written_total{{outcome="{word}"}} 1.0' in metrics.render().decode()


async def ids(server: NatsServer, stream: str) -> list[str]:
    return [message[0] for message in await stored(server, stream)]


async def test_the_end_goes_on_from_what_the_shard_wrote(server: NatsServer) -> None:
    await write(server, record("event", 1), record("event", 2), record("journal", 1))
    async with ends(server.url) as (made, metrics):
        made.add(lost(recorded=True))
        assert await made.close(10) == 0
    assert outcome(metrics, "written")
    events = await stored(server, "PARLEY_EVENTS")
    assert [e[0] for e in events] == ["u1.1.e1", "u1.1.e2", "u1.1.e3", "u1.1.e4"]
    assert [e[1].rpartition(".")[2] for e in events[2:]] == ["ended", "recording-failed"]
    told = json.loads(events[2][2])
    assert told["ended"] == {
        "reason": "ShardLost", "message": "shard 0 of the worker was killed", "inputTokens": "7",
    }  # fmt: skip
    journal = await stored(server, "PARLEY_JOURNAL")
    assert [j[0] for j in journal] == ["u1.1.1", "u1.1.2"]
    assert json.loads(journal[1][2])["sessionEnded"]["reason"] == "ShardLost"


async def test_a_session_that_wrote_nothing_is_closed_all_the_same(server: NatsServer) -> None:
    await write(server, record("journal", 9, attempt=1))
    second = SessionKey("ns", "call", "u1", 2)
    async with ends(server.url) as (made, _):
        made.add(lost(second))
        assert await made.close(10) == 0
    assert await ids(server, "PARLEY_EVENTS") == ["u1.2.e1"]
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.9", "u1.2.1"]


async def test_privacy_keeps_the_journal_empty(server: NatsServer) -> None:
    async with ends(server.url) as (made, _):
        made.add(lost(privacy=True))
        assert await made.close(10) == 0
    client = await server.connect()
    assert (await client.jetstream().stream_info("PARLEY_JOURNAL")).state.messages == 0
    await client.close()
    (event,) = await stored(server, "PARLEY_EVENTS")
    assert "message" not in json.loads(event[2])["ended"]


async def test_what_the_shard_still_closed_itself_is_not_written_again(server: NatsServer) -> None:
    await write(server, record("event", 1, "ended"), record("event", 2, "recording_finished"))
    await write(server, record("journal", 1, "session_ended"))
    async with ends(server.url) as (made, metrics):
        made.add(lost(recorded=True))
        assert await made.close(10) == 0
    assert outcome(metrics, "written")
    assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1", "u1.1.e2"]
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1"]


async def test_a_newer_attempt_keeps_the_journal_and_the_events_are_completed(server: NatsServer) -> None:
    await write(server, record("event", 1), record("event", 2), record("journal", 1))
    await write(server, record("event", 1, "admitted", attempt=2), record("journal", 1, attempt=2))
    async with ends(server.url) as (made, metrics):
        made.add(lost())
        assert await made.close(10) == 0
    assert outcome(metrics, "fenced")
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1", "u1.2.1"]
    assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1", "u1.1.e2", "u1.2.e1", "u1.1.e3"]


async def test_ends_wait_for_nats(server: NatsServer) -> None:
    await server.kill()
    async with ends(server.url) as (made, metrics):
        made.add(lost())
        assert await made.close(0.3) == 1
        await server.start()
        assert await made.close(10) == 0
        assert outcome(metrics, "written")
    assert await ids(server, "PARLEY_EVENTS") == ["u1.1.e1"]


async def test_a_killed_shards_records_end_with_shard_lost(server: NatsServer) -> None:
    arrived: list[Socket] = []

    async def listens(socket: Socket) -> None:
        arrived.append(socket)
        await idle(socket)

    async with scripted(listens) as script, sharded(1, nats_url=server.url) as worker:
        await worker.admit(script.url, "u1")
        await worker.watch.until(lambda: bool(worker.watch.of("u1")[-1].web_socket_id))
        await asyncio.sleep(1)
        kill(worker.pids[0])
        await worker.watch.end_of("u1", timeout=2)
        await worker.written(1)
    for stream, mark in (("PARLEY_EVENTS", "e"), ("PARLEY_JOURNAL", "")):
        got = await stored(server, stream)
        assert [m[0] for m in got] == [f"u1.1.{mark}{n}" for n in range(1, len(got) + 1)]
        assert b"ShardLost" in got[-1][2]


async def types(server: NatsServer) -> list[str]:
    """Attempt and type of every event, in order."""
    found = [json.loads(m[2])["attempt"] for m in await stored(server, "PARLEY_EVENTS")]
    words = [m[1].rpartition(".")[2] for m in await stored(server, "PARLEY_EVENTS")]
    return [f"{attempt} {word}" for attempt, word in zip(found, words, strict=True)]


async def test_a_session_that_goes_on_is_told_to_end_once_and_last(server: NatsServer) -> None:
    await write(server, record("event", 1), record("journal", 1))
    third = SessionKey("ns", "call", "u1", 3)
    async with ends(server.url) as (made, _):
        made.add(lost(closing=Closing.ATTEMPT))
        assert await made.close(10) == 0
        assert await types(server) == ["1 speech-started", "1 attempt-lost"]
        assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1"]
        for _ in range(2):
            made.add(lost(third, closing=Closing.LAST_WORD))
            assert await made.close(10) == 0
    assert await types(server) == ["1 speech-started", "1 attempt-lost", "3 ended"]
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1", "u1.3.1"]


async def test_the_last_word_says_nothing_after_an_end(server: NatsServer) -> None:
    await write(server, record("event", 1, "ended"), record("journal", 1, "session_ended"))
    async with ends(server.url) as (made, _):
        made.add(lost(SessionKey("ns", "call", "u1", 2), closing=Closing.LAST_WORD))
        assert await made.close(10) == 0
    assert await types(server) == ["1 ended"]
    assert await ids(server, "PARLEY_JOURNAL") == ["u1.1.1"]


async def test_a_killed_shard_says_what_was_lost_and_the_control_plane_has_the_last_word(
    server: NatsServer,
) -> None:
    async with scripted(idle) as script, sharded(1, nats_url=server.url) as worker:
        await worker.admit(script.url, "u1", recovery=pb.Recovery(restore=True, outlives_worker=True))
        await worker.watch.until(lambda: bool(worker.watch.of("u1")[-1].web_socket_id))
        await asyncio.sleep(1)
        kill(worker.pids[0])
        assert (await worker.watch.end_of("u1", timeout=2)).end_reason == "ShardLost"
        await worker.written(1)
        assert (await types(server))[-1] == "1 attempt-lost"
        request = pb.RecordEndRequest(
            session=pb.SessionRef(namespace="default", name="call", session_uid="u1", attempt=2),
            fence=worker.operator.fence(),
            reason="ShardLost",
            message="no worker took the session over in time",
        )
        with pytest.raises(AioRpcError, match="end_time"):
            await worker.operator.stub.RecordEnd(request, timeout=5)
        request.end_time.GetCurrentTime()
        assert (await worker.operator.stub.RecordEnd(request, timeout=5)).taken
        await worker.written(2)
    words = await types(server)
    assert words[-2:] == ["1 attempt-lost", "2 ended"]
    assert sum(word.endswith(" ended") for word in words) == 1
    assert (
        json.loads((await stored(server, "PARLEY_JOURNAL"))[-1][2])["sessionEnded"]["reason"] == "ShardLost"
    )
