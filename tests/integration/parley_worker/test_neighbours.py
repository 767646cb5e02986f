"""What one session does, its neighbours do not hear: hostile providers and callers, and all that is slow.

Whoever takes too much is ended, and says why; a neighbour's audio is checked meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from media_calls import PCM24, Worker, calling, start, worker
from neighbours import neighbour, sample
from parley.media.v1 import media_pb2 as pb
from parley_realtime.units import storage
from parley_worker.core.agent import RecordingConfig, ToolRoute, ToolRouteKind
from parley_worker.core.model import EndReason, SessionState
from parley_worker.telemetry.log_queue import DroppingHandler
from provider_script import Socket, scripted
from websockets.exceptions import ConnectionClosed

R = EndReason
MINUTE = bytes(48_000 * 60)


def delta(payload: bytes, response: str = "r1") -> str:
    ids = {"response_id": response, "item_id": f"of {response}", "output_index": 0, "content_index": 0}
    text = base64.b64encode(payload).decode()
    return json.dumps({"type": "response.output_audio.delta", **ids, "delta": text})


def flooding(frame: str, at_once: int) -> Any:
    """A provider that sends the same frame for ever, as fast as it is read."""

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        try:
            while True:
                for _ in range(at_once):
                    await socket.connection.send(frame)
                await asyncio.sleep(0)
        except ConnectionClosed:
            return

    return behaviour


@pytest.mark.parametrize(
    ("frame", "at_once", "budget"),
    [
        (json.dumps({"type": "rate_limits.updated", "rate_limits": []}), 50, "provider_events"),
        (delta(bytes(720_000)), 1, "provider_audio"),
        (delta(b""), 50, "provider_events"),
    ],
    ids=["events", "audio", "empty deltas"],
)
async def test_a_provider_that_floods(frame: str, at_once: int, budget: str) -> None:
    changes = {"session_provider_events": 100.0, "session_cpu_share": 1.0}
    async with worker(**changes) as host, scripted(flooding(frame, at_once)) as script, neighbour(host):
        config = host.admit(script.url)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is R.PROVIDER_PROTOCOL_ERROR
        assert f"budget {budget}" in report.end_message
        assert sample(host, "budget_overruns_total", budget=budget) == 1


async def test_a_provider_whose_events_cost_much_time() -> None:
    words = [{"type": "text", "text": "x" * 100}] * 6000
    frame = json.dumps({"type": "conversation.item.done", "item": {"id": "i", "content": words}})
    async with (
        worker(session_cpu_share=0.01) as host,
        scripted(flooding(frame, 1)) as script,
        neighbour(host),
    ):
        config = host.admit(script.url)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is R.QUOTA_EXCEEDED
        assert "PARLEY_WORKER_SESSION_CPU_SHARE" in report.end_message


async def test_a_message_longer_than_a_provider_may_send() -> None:
    async with (
        worker(session_frame_bytes=1 << 20) as host,
        scripted(flooding(delta(bytes(1 << 20)), 1)) as script,
    ):
        report = await host.state(host.admit(script.url), SessionState.ENDED)
        assert report.end_reason is R.PROVIDER_PROTOCOL_ERROR


async def test_an_answer_of_a_minute_in_pieces_of_a_mebibyte() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.send("response.created", response={"id": "r1"})
        for at in range(0, len(MINUTE), 786_432):
            await socket.connection.send(delta(MINUTE[at : at + 786_432]))
        await socket.finish("r1", "of r1")

    async with worker() as host, scripted(behaviour) as script:
        config = host.admit(script.url)
        burst = start(config, playout_mode=pb.PLAYOUT_MODE_BURST)
        async with neighbour(host), calling(host, burst) as caller:
            await caller.expect("mark", timeout=40)
            assert caller.audio() == MINUTE
            assert host.report(config).state is SessionState.ACTIVE
            assert sample(host, "budget_overruns_total", budget="provider_audio") == 0


async def quiet(socket: Socket) -> None:
    await socket.greet()


async def flood(host: Worker, first: pb.Start, message: pb.ConverseRequest) -> str:
    """Attach and send the same for ever; the resume token, once the worker has ended the stream."""
    async with calling(host, first) as caller:
        token = (await caller.expect("started")).resume_token
        for number in range(100_000):
            if caller.done.is_set():
                break
            if message.HasField("audio"):
                message.audio.sequence = number + 1
            try:
                await caller.stream.write(message)
            except (asyncio.InvalidStateError, grpc.RpcError):
                break
        await caller.ended()
        return str(token)


async def test_a_caller_that_floods_with_messages() -> None:
    progress = pb.ConverseRequest(progress=pb.PlaybackProgress(item_id="i"))
    async with worker() as host, scripted(quiet) as script, neighbour(host):
        config = host.admit(script.url)
        first = start(config)
        for _ in range(10):
            token = await flood(host, first, progress)
            if host.report(config).state is SessionState.ENDED:
                break
            first = start(resume_token=token)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is R.QUOTA_EXCEEDED
        assert "budget caller_messages" in report.end_message


async def test_a_caller_whose_frames_hold_a_sample_each() -> None:
    one = pb.ConverseRequest(audio=pb.AudioFrame(payload=b"\0\0"))
    async with worker(session_caller_frames=100.0) as host, scripted(quiet) as script, neighbour(host):
        config = host.admit(script.url)
        await flood(host, start(config), one)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is R.QUOTA_EXCEEDED
        assert "budget caller_frames" in report.end_message


async def test_a_hundred_sessions_that_come_in_one_second() -> None:
    began: list[float] = []

    async def noted(socket: Socket) -> None:
        began.append(asyncio.get_running_loop().time())
        await socket.greet()

    async with worker(capacity=200) as host, scripted(noted) as script:
        async with neighbour(host):
            configs = []
            for _ in range(100):
                configs.append(host.admit(script.url))
                await asyncio.sleep(0.01)
            for config in configs:
                await host.state(config, SessionState.READY)
        began.sort()
        assert len(began) == 100
        assert began[-1] - began[0] >= (100 - 10) / 30 * 0.9


async def test_a_provider_that_answers_nobody_holds_up_its_own_sessions_alone() -> None:
    async def mute(socket: Socket) -> None:
        await asyncio.Event().wait()

    async with worker(setup_connects=4) as host, scripted(mute) as dead, scripted(quiet) as alive:
        waiting = [host.admit(dead.url) for _ in range(20)]
        await asyncio.sleep(0.5)
        config = host.admit(alive.url)
        await host.state(config, SessionState.READY, timeout=5)
        assert len(dead.sockets) == 2
        for each in waiting:
            host.app.registry.terminate(each.key, R.TERMINATED, "enough")
        for each in waiting:
            await host.state(each, SessionState.ENDED, timeout=5)


async def test_a_volume_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, stuck = threading.Event(), threading.Event()
    write = storage.os.write

    def blocked(fd: int, data: bytes) -> int:
        stuck.set()
        assert answers.wait(30)
        return write(fd, data)

    monkeypatch.setattr(storage.os, "write", blocked)
    async with worker() as host, scripted(quiet) as script:
        recording = RecordingConfig(directory=str(tmp_path))
        config = host.admit(script.url, recording=recording)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            async with neighbour(host):
                for _ in range(200):
                    await caller.speak(bytes(960))
                    await asyncio.sleep(0.01)
                assert stuck.is_set()
            assert host.report(config).state is SessionState.ACTIVE
            answers.set()
            await caller.send(hangup=pb.Hangup())
            await caller.ended()
        await host.nothing_left()


async def test_logs_that_nobody_reads() -> None:
    go, began = threading.Event(), threading.Event()

    class Blocked(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            began.set()
            assert go.wait(30)

    handler = DroppingHandler(Blocked())
    logger = logging.getLogger("parley_worker.burst")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        async with worker() as host, neighbour(host):
            for number in range(30_000):
                logger.warning("line %d", number)
                if number % 100 == 0:
                    await asyncio.sleep(0)
        assert began.is_set()
        assert handler.dropped > 10_000
    finally:
        go.set()
        logger.removeHandler(handler)
        logger.propagate = True
        handler.close()


async def test_metrics_that_are_asked_for_all_the_time() -> None:
    async def scrape(address: str) -> int:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        body = await reader.read()
        writer.close()
        return len(body)

    async with worker() as host, neighbour(host):
        for _ in range(100):
            assert await scrape(host.app.admin_address) > 5000


async def test_tools_whose_webhooks_have_no_address() -> None:
    async def calls(socket: Socket) -> None:
        await socket.greet()
        for number in range(60):
            item = {
                "id": f"fc{number}",
                "type": "function_call",
                "call_id": f"c{number}",
                "name": "f",
                "arguments": "{}",
            }
            await socket.send("response.output_item.done", response_id="r", output_index=0, item=item)

    route = ToolRoute("f", ToolRouteKind.WEBHOOK, url="https://nowhere.invalid/hook", timeout=3.0)
    session = {"type": "realtime", "tools": [{"type": "function", "name": "f", "parameters": {}}]}
    async with worker() as host, scripted(calls) as script, neighbour(host):
        config = host.admit(script.url, tools=(route,), session=session)
        async with calling(host, start(config, input_format=PCM24)) as caller:
            await caller.expect("started")
            socket = await script.socket()
            await socket.expect("conversation.item.create", count=60)
            assert host.report(config).state is SessionState.ACTIVE
