"""`python -m parley_worker` as a real process, and a control client for any worker."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc


class WorkerProcess:
    """One worker process; `ready` is its line of JSON."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.log = bytearray()

    @property
    def instance(self) -> str:
        return str(self.ready["instance"])

    async def wait(self, timeout: float = 15) -> int:
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    async def read_log(self) -> None:
        assert self.process.stderr
        while line := await self.process.stderr.readline():
            self.log += line


@asynccontextmanager
async def worker_process(**settings: str) -> AsyncIterator[WorkerProcess]:
    """A worker with port 0 everywhere; `capacity="2"` is PARLEY_WORKER_CAPACITY. Killed at the end."""
    chosen = {f"{word}_address": "127.0.0.1:0" for word in ("media", "control", "admin")}
    env = {k: v for k, v in os.environ.items() if not k.startswith("PARLEY_WORKER_")}
    env |= {f"PARLEY_WORKER_{name.upper()}": value for name, value in {**chosen, **settings}.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley_worker"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    reader = None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode() if process.stderr else ""
        worker = WorkerProcess(process, json.loads(line))
        reader = asyncio.create_task(worker.read_log())
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if reader is not None:
            await reader


class Control:
    """The operator's side, with fences filled in."""

    def __init__(self, channel: grpc.aio.Channel, instance: str) -> None:
        self.stub: Any = control_pb2_grpc.WorkerControlServiceStub(channel)
        self.instance = instance

    def fence(self, epoch: int = 1) -> pb.Fence:
        return pb.Fence(leader_epoch=epoch, worker_instance_id=self.instance)

    async def admit(self, request: pb.AdmitRequest) -> pb.AdmitResponse:
        answer: pb.AdmitResponse = await self.stub.Admit(request, timeout=5)
        return answer

    def request(
        self,
        url: str,
        uid: str = "uid-1",
        *,
        attempt: int = 1,
        epoch: int = 1,
        ticket_sha256: bytes = b"",
        **config: Any,
    ) -> pb.AdmitRequest:
        """An Admit that every worker with room accepts."""
        return pb.AdmitRequest(
            session=pb.SessionRef(namespace="default", name=f"call-{uid}", session_uid=uid, attempt=attempt),
            fence=self.fence(epoch),
            config=pb.SessionConfig(
                provider=pb.Provider(url=url, api_version="ga", model="m", api_key="sk-a-secret-key"),
                session_json='{"type": "realtime"}',
                access=pb.Access(ticket_sha256=ticket_sha256),
                **config,
            ),
        )


@asynccontextmanager
async def control(
    address: str, instance: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Control]:
    """A control client; without credentials in plaintext."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = grpc.aio.secure_channel(address, credentials)
    async with channel:
        yield Control(channel, instance)
