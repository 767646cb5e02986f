"""The worker as a process: its ready line, its admin port, its signals, its bad settings."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from media_calls import calling, start
from nats_server import find_program
from parley.control.v1 import control_pb2 as pb
from parley_worker.core.model import EndReason
from provider_script import Socket, scripted
from worker_process import WorkerProcess, control, worker_process


async def idle(socket: Socket) -> None:
    await socket.greet()
    await asyncio.Event().wait()


async def http(worker: WorkerProcess, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to raw bytes; status 0 when there is none."""
    host, port = str(worker.ready["admin"]).rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


def core_limits(worker: WorkerProcess) -> list[str]:
    """Soft and hard limit of the process's core dumps."""
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    return limits.split("Max core file size")[1].split()[:2]


async def get(worker: WorkerProcess, path: str) -> tuple[int, str]:
    status, body = await http(worker, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return status, body.decode()


async def test_the_ready_line_names_what_works() -> None:
    async with worker_process(capacity="3") as worker:
        assert worker.ready["ready"] is True
        assert worker.ready["endpoint"] == worker.ready["media"]
        assert await get(worker, "/healthz") == (200, "ok\n")
        assert await get(worker, "/readyz") == (200, "ready\n")
        status, metrics = await get(worker, "/metrics")
        assert status == 200
        assert "parley_worker_capacity_sessions 3.0" in metrics
        assert "process_resident_memory_bytes" in metrics
        assert core_limits(worker) == ["0", "0"]
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0


@pytest.mark.skipif(find_program("promtool") is None, reason="promtool is not installed")
async def test_the_metrics_pass_promtool() -> None:
    async with worker_process() as worker:
        _, metrics = await get(worker, "/metrics")
        check = await asyncio.create_subprocess_exec(
            *(str(find_program("promtool")), "check", "metrics"),
            stdin=-1,
            stdout=-1,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await check.communicate(metrics.encode())
        assert (check.returncode, out.decode()) == (0, "")


async def test_the_admin_port_survives_garbage() -> None:
    async with worker_process() as worker:
        for request, expected in (
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            (b"GET\r\n\r\n", 400),
            (b"GET / SPDY/3\r\n\r\n", 400),
            (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
            (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
            (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 431),
            (b"GET /metrics?name=x HTTP/1.0\r\n\r\n", 200),
        ):
            status, _ = await http(worker, request)
            assert status in (expected, 0 if expected == 431 else expected)
        assert (await http(worker, b"HEAD /healthz HTTP/1.1\r\n\r\n")) == (200, b"")
        host, port = str(worker.ready["admin"]).rsplit(":", 1)
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(70)]
        async with asyncio.timeout(15):
            for reader, writer in silent:
                try:
                    assert await reader.read() == b""
                except ConnectionError:
                    pass
                writer.close()
        assert (await get(worker, "/healthz"))[0] == 200


async def session(worker: WorkerProcess, url: str) -> pb.AdmitRequest:
    async with control(worker.ready["control"], worker.instance) as operator:
        request = operator.request(url)
        assert (await operator.admit(request)).HasField("admitted")
        return request


async def test_sigterm_drains_a_call_until_its_deadline() -> None:
    async with scripted(idle) as script, worker_process(drain_timeout="2", log_format="plain") as worker:
        await session(worker, script.url)
        async with calling(worker.ready["media"], start(session_uid="uid-1")) as caller:
            await caller.expect("started")
            worker.process.send_signal(signal.SIGTERM)
            await caller.expect("draining")
            assert await get(worker, "/readyz") == (503, "draining\n")
            assert (await get(worker, "/healthz"))[0] == 200
            async with control(worker.ready["control"], worker.instance) as operator:
                refused = (await operator.admit(operator.request(script.url, "late"))).refused
                assert refused.reason == pb.REFUSAL_REASON_DRAINING
            ended = await caller.expect("ended")
            assert ended.reason == EndReason.DRAIN_DEADLINE
            assert await caller.ended() is None
        assert await worker.wait() == 0
    assert b"sk-a-secret-key" not in worker.log


async def test_a_drained_worker_leaves_as_soon_as_its_calls_are_over() -> None:
    async with scripted(idle) as script, worker_process(drain_timeout="600") as worker:
        request = await session(worker, script.url)
        worker.process.send_signal(signal.SIGTERM)
        async with control(worker.ready["control"], worker.instance) as operator:
            terminate = pb.TerminateRequest(session=request.session, fence=operator.fence())
            assert (await operator.stub.Terminate(terminate)).found
        assert await worker.wait() == 0


async def test_a_second_sigterm_ends_at_once() -> None:
    async with scripted(idle) as script, worker_process(drain_timeout="600") as worker:
        await session(worker, script.url)
        async with calling(worker.ready["media"], start(session_uid="uid-1")) as caller:
            await caller.expect("started")
            worker.process.send_signal(signal.SIGTERM)
            await caller.expect("draining")
            worker.process.send_signal(signal.SIGTERM)
            assert (await caller.expect("ended")).reason == EndReason.DRAIN_DEADLINE
        assert await worker.wait() == 0


async def test_in_a_pod_only_sigint_ends_a_drain_at_once() -> None:
    """A kubelet may stop a container more than once."""
    async with scripted(idle) as script, worker_process(drain_timeout="600", pod_uid="u") as worker:
        request = await session(worker, script.url)
        async with calling(worker.ready["media"], start(session_uid="uid-1")) as caller:
            await caller.expect("started")
            worker.process.send_signal(signal.SIGTERM)
            await caller.expect("draining")
            for _ in range(2):
                worker.process.send_signal(signal.SIGTERM)
                async with control(worker.ready["control"], worker.instance) as operator:
                    again = operator.request(script.url, request.session.session_uid)
                    assert (await operator.admit(again)).HasField("admitted"), "the session is still there"
            worker.process.send_signal(signal.SIGINT)
            assert (await caller.expect("ended")).reason == EndReason.DRAIN_DEADLINE
        assert await worker.wait() == 0


async def run(*arguments: str, **settings: str) -> tuple[int | None, str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PARLEY_WORKER_")}
    env |= {f"PARLEY_WORKER_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley_worker", *arguments), env=env, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_help_and_wrong_settings() -> None:
    code, out, _ = await run("--help")
    assert code == 0
    assert "PARLEY_WORKER_CAPACITY" in out
    code, out, err = await run(capacity="lots", control_address="0.0.0.0:1")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert "PARLEY_WORKER_CAPACITY='lots': give a whole number" in err
    assert (await run("--frobnicate"))[0] == 2


async def test_a_taken_port_is_named() -> None:
    async with worker_process() as worker:
        taken: dict[str, Any] = {"media_address": "127.0.0.1:0", "control_address": "127.0.0.1:0"}
        code, _, err = await run(**taken, admin_address=worker.ready["admin"])
        assert code == 1
        assert "cannot start" in err
