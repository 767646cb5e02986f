"""Everything at once: Admit over gRPC, a call through Converse to the local provider, audio back, events in
JetStream, and none of it disturbed by NATS going away."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from media_calls import Caller, calling
from nats_server import NatsServer, stored
from parley.control.v1 import control_pb2 as control_pb
from parley.media.v1 import media_pb2 as pb
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from worker_process import WorkerProcess, control, worker_process

PCM16 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=16000)
SECRET = "sk-a-secret-key"


def question() -> bytes:
    """0.8 s of tone and 1.2 s of silence, PCM16 at 16 kHz."""
    t = np.arange(12800) / 16000
    return (np.sin(2 * np.pi * 440 * t) * 12000).astype("<i2").tobytes() + bytes(2 * 19200)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    async with serve(LocalProviderConfig(port=0, audio_speed=4)) as local:
        yield local.url


async def admit(worker: WorkerProcess, url: str, uid: str) -> str:
    """Admit a session; its ticket."""
    ticket = f"ticket-of-{uid}-with-enough-characters"
    async with control(worker.ready["control"], worker.instance) as operator:
        digest = hashlib.sha256(ticket.encode()).digest()
        answer = await operator.admit(operator.request(url, uid, ticket_sha256=digest))
        assert answer.admitted.endpoint == worker.ready["endpoint"], answer
    return ticket


async def ask(caller: Caller) -> bytes:
    """Ask the question in real time; the audio of the answer."""
    before = len(caller.of("mark"))
    heard = len(caller.audio())
    audio = question()
    for at in range(0, len(audio), 640):
        await caller.speak(audio[at : at + 640])
        await asyncio.sleep(0.02)
    await caller.expect("mark", before + 1, timeout=20)
    return caller.audio()[heard:]


def loud(audio: bytes) -> bool:
    return bool(np.abs(np.frombuffer(audio, "<i2").astype(np.int32)).max() > 1000)


async def test_a_call_from_admit_to_the_last_event(nats_server: NatsServer, provider: str) -> None:
    async with worker_process(nats_url=nats_server.url, drain_timeout="5") as worker:
        ticket = await admit(worker, provider, "uid-1")
        start = pb.Start(ticket=ticket, input_format=PCM16, output_format=PCM16)
        async with calling(worker.ready["media"], start) as caller:
            await caller.expect("started")
            answer = await ask(caller)
            assert len(answer) > 6400
            assert loud(answer)
            async with control(worker.ready["control"], worker.instance) as operator:
                watch = operator.stub.Watch(control_pb.WatchRequest(fence=operator.fence()))
                (report,) = (await watch.read()).snapshot.sessions
                assert report.state == control_pb.SESSION_STATE_ACTIVE
                watch.cancel()
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == "CallerHangup"
        worker.process.terminate()
        assert await worker.wait() == 0
    events = await stored(nats_server, "PARLEY_EVENTS")
    assert [e[0] for e in events] == [f"uid-1.1.e{n}" for n in range(1, len(events) + 1)]
    kinds = [e[1].rsplit(".", 1)[1] for e in events]
    assert kinds[0] == "admitted"
    assert kinds[-1] == "ended"
    for kind in ("provider-connected", "leg-attached", "speech-started", "first-audio", "response-done"):
        assert kind in kinds
    journal = await stored(nats_server, "PARLEY_JOURNAL")
    assert [j[0] for j in journal] == [f"uid-1.1.{n}" for n in range(1, len(journal) + 1)]
    assert "sessionEnded" in json.loads(journal[-1][2])
    everything = b"".join(m[2] for m in events + journal) + bytes(worker.log)
    assert SECRET.encode() not in everything
    assert ticket.encode() not in everything


async def test_nats_killed_in_the_middle_of_calls(nats_server: NatsServer, provider: str) -> None:
    async with worker_process(nats_url=nats_server.url, drain_timeout="1") as worker:

        async def call(uid: str) -> None:
            ticket = await admit(worker, provider, uid)
            start = pb.Start(ticket=ticket, input_format=PCM16, output_format=PCM16)
            async with calling(worker.ready["media"], start) as caller:
                await caller.expect("started")
                for _ in range(3):
                    assert loud(await ask(caller))
                await caller.send(hangup=pb.Hangup())
                await caller.expect("ended")
                frames = [f.sequence for f in caller.of("audio")]
                assert frames == list(range(1, len(frames) + 1))

        async def disturb() -> None:
            await asyncio.sleep(2)
            await nats_server.kill()
            await asyncio.sleep(3)
            await nats_server.start()

        await asyncio.gather(call("a"), call("b"), disturb())
        worker.process.terminate()
        assert await worker.wait() == 0
    for stream, mark in (("PARLEY_EVENTS", "e"), ("PARLEY_JOURNAL", "")):
        got = [message[0] for message in await stored(nats_server, stream)]
        for uid in ("a", "b"):
            mine = [i for i in got if i.startswith(f"{uid}.")]
            assert len(mine) > 5
            assert mine == [f"{uid}.1.{mark}{n}" for n in range(1, len(mine) + 1)]


async def test_nats_that_is_never_there_costs_no_call(provider: str) -> None:
    async with worker_process(
        nats_url="nats://127.0.0.1:9", flush_timeout="0.2", drain_timeout="1"
    ) as worker:
        ticket = await admit(worker, provider, "a")
        start = pb.Start(ticket=ticket, input_format=PCM16, output_format=PCM16)
        async with calling(worker.ready["media"], start) as caller:
            await caller.expect("started")
            assert loud(await ask(caller))
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == "CallerHangup"
        worker.process.terminate()
        assert await worker.wait() == 0
    assert b"records could not be delivered" in worker.log
