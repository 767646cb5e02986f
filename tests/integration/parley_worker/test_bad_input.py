"""One test for each row of the table of bad input in proto/README.md."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from media_calls import PCM8, PCM24, RPCS, Worker, calling, over, start, trailer, worker
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc
from parley_worker.core.model import AccessConfig, EndReason, SessionConfig, SessionState
from parley_worker.runtime import session_effects
from parley_worker.runtime.deps import RunnerSettings
from parley_worker.transport.leg import LegBounds
from provider_script import ScriptedProvider, Socket, scripted

FRAME = bytes(960)


@pytest.fixture(params=RPCS, autouse=True)
def rpc(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every call here is made by each RPC."""
    with over(request.param):
        yield request.param


only_converse = pytest.mark.parametrize("rpc", RPCS[:1], indirect=True)


async def quiet(socket: Socket) -> None:
    await socket.greet()


@asynccontextmanager
async def ready(**changes: Any) -> AsyncIterator[tuple[Worker, SessionConfig, ScriptedProvider]]:
    """A worker with one session that waits for its caller; at the end nothing may be left of it."""
    kept = {k: changes.pop(k) for k in ("runner", "options", "leg", "waits") if k in changes}
    async with scripted(changes.pop("behaviour", quiet)) as script, worker(**kept) as host:
        config = host.admit(script.url, **changes)
        await host.state(config, SessionState.READY)
        yield host, config, script
        host.app.registry.terminate_all(EndReason.TERMINATED, "test over")
        await host.nothing_left()
        assert host.facts(config)[-1] == "ended"


async def refused(host: Worker, first: Any) -> tuple[str, str, str]:
    """Status, reason and field of a stream that begins with `first`."""
    async with calling(host, first) as caller:
        error = await caller.ended(5)
        assert error is not None
        assert error.details()
        return error.code().name, trailer(error), trailer(error, "parley-field")


async def test_first_message_is_not_start() -> None:
    async with ready() as (host, _, _):
        first = pb.ConverseRequest(audio=pb.AudioFrame(payload=FRAME, sequence=1))
        assert await refused(host, first) == ("INVALID_ARGUMENT", "start-missing", "message")


async def test_stream_closed_before_start() -> None:
    async with ready() as (host, _, _), calling(host, None) as caller:
        await caller.stream.done_writing()
        error = await caller.ended()
        assert error is not None
        assert (error.code().name, trailer(error)) == ("INVALID_ARGUMENT", "start-missing")


async def test_second_start() -> None:
    async with ready() as (host, config, _), calling(host, start(config)) as caller:
        await caller.expect("started")
        await caller.send(start=start(config))
        error = await caller.ended()
        assert error is not None
        assert (error.code().name, trailer(error)) == ("INVALID_ARGUMENT", "start-repeated")
        await host.state(config, SessionState.DETACHED)


async def test_no_credential() -> None:
    async with ready() as (host, _, _):
        first = pb.Start(input_format=PCM24, output_format=PCM24)
        assert await refused(host, first) == ("UNAUTHENTICATED", "credential-missing", "start.ticket")


async def test_ticket_wrong() -> None:
    async with ready() as (host, _, _):
        first = start(ticket="guessed")
        assert await refused(host, first) == ("UNAUTHENTICATED", "ticket-unknown", "start.ticket")


async def test_ticket_expired() -> None:
    access = AccessConfig(hashlib.sha256(b"late").digest(), ticket_expires_at=1.0)
    async with ready(access=access) as (host, config, _):
        assert await refused(host, start(ticket="late")) == (
            "UNAUTHENTICATED",
            "ticket-expired",
            "start.ticket",
        )
        assert host.report(config).state is SessionState.READY


async def test_ticket_used_once_only_but_the_resume_token_works_after_expiry() -> None:
    async with ready() as (host, config, _):
        async with calling(host, start(config)) as caller:
            token = (await caller.expect("started")).resume_token
            used = ("UNAUTHENTICATED", "ticket-used", "start.ticket")
            assert await refused(host, start(config)) == used
            assert host.report(config).state is SessionState.ACTIVE
        await host.state(config, SessionState.DETACHED)
        assert await refused(host, start(config)) == used
        async with calling(host, start(resume_token=token)) as back:
            await back.expect("started")


async def test_credential_of_another_session() -> None:
    async with ready() as (host, config, script):
        other = host.admit(script.url)
        first = start(config, session_uid=other.key.uid)
        assert await refused(host, first) == ("PERMISSION_DENIED", "other-session", "start.session_uid")


async def test_a_resume_token_is_good_until_the_one_that_it_gave_is_used() -> None:
    async with ready() as (host, config, _):
        async with calling(host, start(config)) as caller:
            first = (await caller.expect("started")).resume_token
        async with calling(host, start(resume_token=first)) as lost:
            # Its Started is as good as lost: the caller comes back with the token that it has.
            await lost.expect("started")
            async with calling(host, start(resume_token=first)) as again:
                second = (await again.expect("started")).resume_token
                error = await lost.ended()
                assert error is not None
                assert error.code().name == "ABORTED"
        async with calling(host, start(resume_token=second)) as back:
            await back.expect("started")
            assert (await refused(host, start(resume_token=first)))[1] == "resume-token-unknown"
            assert host.report(config).state is SessionState.ACTIVE


async def test_resume_token_unknown() -> None:
    async with ready() as (host, _, _):
        first = start(resume_token="stolen")
        assert (await refused(host, first))[1] == "resume-token-unknown"


async def test_a_session_without_ticket_is_named_by_its_uid_and_others_are_not() -> None:
    async with ready() as (host, config, script):
        named = start(ticket="", session_uid=config.key.uid)
        assert (await refused(host, named))[1] == "credential-missing"
        assert (await refused(host, start(ticket="", session_uid="nobody")))[1] == "session-unknown"
        free = host.admit(script.url, access=AccessConfig(b""))
        async with calling(host, start(ticket="", session_uid=free.key.uid)) as caller:
            await caller.expect("started")


@pytest.mark.parametrize(
    ("name", "wire", "field"),
    [
        ("input_format", pb.AudioFormat(sample_rate_hz=8000), "start.input_format.encoding"),
        ("output_format", pb.AudioFormat(encoding=77, sample_rate_hz=8000), "start.output_format.encoding"),
        (
            "input_format",
            pb.AudioFormat(encoding=1, sample_rate_hz=44100),
            "start.input_format.sample_rate_hz",
        ),
        (
            "output_format",
            pb.AudioFormat(encoding=2, sample_rate_hz=16000),
            "start.output_format.sample_rate_hz",
        ),
    ],
)
async def test_format_unknown_or_unsupported(name: str, wire: pb.AudioFormat, field: str) -> None:
    async with ready() as (host, config, _):
        answer = await refused(host, start(config, **{name: wire}))
        assert answer == ("INVALID_ARGUMENT", "format-unsupported", field)
        assert host.report(config).state is SessionState.READY


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"playout_mode": 9}, "playout-mode-unknown"),
        ({"playout_buffer_ms": 5001}, "playout-buffer-out-of-range"),
        ({"playout_buffer_ms": -1}, "playout-buffer-out-of-range"),
        ({"mark_interval_ms": 39}, "mark-interval-out-of-range"),
        ({"mark_interval_ms": 5001}, "mark-interval-out-of-range"),
        ({"events": ["Response.Done"]}, "events-unknown"),
        ({"events": ["none", "error"]}, "events-unknown"),
    ],
)
async def test_playout_wishes_out_of_range(fields: dict[str, int], reason: str) -> None:
    async with ready() as (host, config, _):
        assert (await refused(host, start(config, **fields)))[:2] == ("INVALID_ARGUMENT", reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "frame-empty"), (b"abc", "frame-unaligned"), (bytes(48002), "frame-oversized")],
)
async def test_bad_frames_end_the_leg_and_not_the_session(payload: bytes, reason: str) -> None:
    async with ready() as (host, config, _):
        async with calling(host, start(config)) as caller:
            token = (await caller.expect("started")).resume_token
            await caller.speak(payload)
            error = await caller.ended()
            assert error is not None
            assert (error.code().name, trailer(error)) == ("INVALID_ARGUMENT", reason)
            assert trailer(error, "parley-field") == "audio.payload"
        detached = await host.state(config, SessionState.DETACHED)
        assert detached.end_reason is None
        (gone,) = [r for r in host.of(config, "event") if r.type == "leg_detached"]
        assert gone.fields["cause"] == "protocol-error"
        async with calling(host, start(resume_token=token)) as back:
            await back.expect("started")


async def test_message_larger_than_a_mebibyte() -> None:
    async with ready() as (host, config, _), calling(host, start(config)) as caller:
        await caller.expect("started")
        await caller.speak(bytes(2 << 20))
        error = await caller.ended()
        assert error is not None
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await host.state(config, SessionState.DETACHED)


async def test_frames_out_of_sequence_are_dropped_and_gaps_counted() -> None:
    async with ready() as (host, config, script):
        frames = [bytes([n, 0]) * 480 for n in range(1, 6)]
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            for sequence, frame in zip((1, 2, 2, 1, 5), frames, strict=True):
                await caller.speak(frame, sequence)
            await caller.send(hangup=pb.Hangup())
            await caller.ended()
        sent = (await script.socket()).audio
        assert frames[2] not in bytes(sent)
        metrics = host.app.metrics.render().decode()
        assert 'frames_dropped_total{cause="stale",direction="in"} 2.0' in metrics
        assert "frame_gaps_total 1.0" in metrics


async def test_audio_faster_than_real_time() -> None:
    async with ready() as (host, config, _), calling(host, start(config, input_format=PCM8)) as caller:
        await caller.expect("started")
        for _ in range(12):
            await caller.speak(bytes(16000))
        error = await caller.ended()
        assert error is not None
        assert (error.code().name, trailer(error)) == ("RESOURCE_EXHAUSTED", "faster-than-real-time")


async def test_half_close() -> None:
    async with ready() as (host, config, _), calling(host, start(config)) as caller:
        await caller.expect("started")
        await caller.stream.done_writing()
        error = await caller.ended()
        assert error is not None
        assert (error.code().name, trailer(error)) == ("CANCELLED", "half-closed")
        await host.state(config, SessionState.DETACHED)
        (gone,) = [r for r in host.of(config, "event") if r.type == "leg_detached"]
        assert gone.fields["cause"] == "half-closed"


@only_converse
async def test_slow_reader() -> None:
    async def flood(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        for n in range(3000):
            await socket.send(
                "response.output_text.delta", response_id="r", item_id="i", delta="x" * 500, n=n
            )

    async with ready(behaviour=flood, leg=LegBounds(messages=64, stall=1.0)) as (host, config, _):
        async with grpc.aio.insecure_channel(host.app.media_address) as channel:
            stream = media_pb2_grpc.MediaServiceStub(channel).Converse()
            await stream.write(pb.ConverseRequest(start=start(config)))
            await stream.write(pb.ConverseRequest(audio=pb.AudioFrame(payload=FRAME, sequence=1)))
            await host.state(config, SessionState.DETACHED)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_all(stream)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert trailer(caught.value) == "slow-reader"
        (gone,) = [r for r in host.of(config, "event") if r.type == "leg_detached"]
        assert gone.fields["cause"] == "slow-reader"


async def read_all(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


CALLER = """
import sys, time, grpc
from parley.media.v1 import media_pb2 as pb, media_pb2_grpc
start = pb.Start.FromString(bytes.fromhex(sys.argv[2]))
def requests():
    yield pb.ConverseRequest(start=start)
    time.sleep(60)
with grpc.insecure_channel(sys.argv[1]) as channel:
    for response in media_pb2_grpc.MediaServiceStub(channel).Converse(requests()):
        print(response.WhichOneof("message"), flush=True)
"""


@only_converse
async def test_caller_killed() -> None:
    async with ready() as (host, config, _):
        arguments = (host.app.media_address, start(config).SerializeToString().hex())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            assert (await process.stdout.readline()).strip() == b"started"
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await host.state(config, SessionState.DETACHED, timeout=5)


async def test_caller_vanishes_without_a_word() -> None:
    keepalive = (("grpc.keepalive_time_ms", 500), ("grpc.http2.ping_timeout_ms", 500))
    async with (
        ready(options=keepalive) as (host, config, _),
        black_hole(host) as (address, swallow),
        calling(address, start(config)) as caller,
    ):
        await caller.expect("started")
        swallow()
        await host.state(config, SessionState.DETACHED, timeout=10)


@asynccontextmanager
async def black_hole(host: Worker) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A TCP proxy that can stop passing bytes on without closing anything."""
    target, port = host.app.media_address.rsplit(":", 1)
    swallowing = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not swallowing.is_set():
                writer.write(data)
                await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(target, int(port))
        writers.extend((writer, far_writer))
        pumps: list[Awaitable[None]] = [pump(reader, far_writer), pump(far_reader, writer)]
        await asyncio.gather(*pumps, return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", swallowing.set
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)


async def test_a_flood_of_messages_ends_the_leg_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_effects, "MESSAGES_BURST", 5)
    monkeypatch.setattr(session_effects, "MESSAGES_A_SECOND", 0.001)
    async with ready() as (host, config, _):
        async with calling(host, start(config)) as caller:
            token = (await caller.expect("started")).resume_token
            for _ in range(6):
                await caller.send(dtmf=pb.Dtmf(digit="1"))
            error = await caller.ended()
            assert error is not None
            assert (error.code().name, trailer(error)) == ("RESOURCE_EXHAUSTED", "too-many-messages")
        async with calling(host, start(resume_token=token)) as back:
            await back.expect("started")
            await back.send(dtmf=pb.Dtmf(digit="1"))
            await back.send(hangup=pb.Hangup())
            await back.expect("ended")
        assert host.facts(config).count("dtmf_received") == 6


async def test_attach_waits_for_the_provider() -> None:
    async def late(socket: Socket) -> None:
        await asyncio.sleep(0.3)
        await socket.greet()

    async with scripted(late) as script, worker(runner=RunnerSettings(connect_timeout=8.0)) as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")


@only_converse
async def test_no_message_at_all() -> None:
    async with ready(waits={"start_timeout": 0.2}) as (host, _, _):
        assert await refused(host, None) == ("DEADLINE_EXCEEDED", "start-missing", "message")


async def test_attach_to_a_session_that_does_not_get_ready() -> None:
    async def mute(socket: Socket) -> None:
        await socket.send("session.created", session={})

    async with scripted(mute) as script, worker(waits={"ready_timeout": 0.2}) as host:
        config = host.admit(script.url)
        assert (await refused(host, start(config)))[:2] == ("UNAVAILABLE", "session-not-ready")
        assert host.report(config).state is SessionState.CONNECTING


async def test_newer_attach_wins() -> None:
    async with ready() as (host, config, _), calling(host, start(config)) as caller:
        token = (await caller.expect("started")).resume_token
        async with calling(host, start(resume_token=token)) as newer:
            await newer.expect("started")
            error = await caller.ended()
            assert error is not None
            assert (error.code().name, trailer(error)) == ("ABORTED", "replaced")
            assert host.report(config).state is SessionState.ACTIVE
