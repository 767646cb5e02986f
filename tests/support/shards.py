"""A worker with shards as real processes, and what tests ask of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from parley.control.v1 import control_pb2 as pb
from provider_script import Socket
from worker_process import Control, WorkerProcess, control, worker_process


class Watch:
    """The operator's watch, read in the background."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.sessions: list[pb.SessionReport] = []
        self.workers: list[pb.WorkerReport] = []
        self.snapshot = asyncio.Event()
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.stream:
            async with self._news:
                match message.WhichOneof("report"):
                    case "snapshot":
                        self.sessions += message.snapshot.sessions
                        self.workers.append(message.snapshot.worker)
                        self.snapshot.set()
                    case "session":
                        self.sessions.append(message.session)
                    case "worker":
                        self.workers.append(message.worker)
                self._news.notify_all()

    async def until(self, test: Callable[[], bool], timeout: float = 20) -> None:
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(test)

    def of(self, uid: str) -> list[pb.SessionReport]:
        return [report for report in self.sessions if report.session.session_uid == uid]

    def ended(self, uid: str) -> pb.SessionReport | None:
        """The session's end; one without a reason says only that it lives elsewhere."""
        return next((r for r in self.of(uid) if r.state == pb.SESSION_STATE_ENDED and r.end_reason), None)

    async def end_of(self, uid: str, timeout: float = 20) -> pb.SessionReport:
        await self.until(lambda: self.ended(uid) is not None, timeout)
        found = self.ended(uid)
        assert found is not None
        return found

    async def close(self) -> None:
        self.stream.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Sharded:
    """The worker, the operator's side of it, and its processes."""

    def __init__(self, worker: WorkerProcess, operator: Control, watch: Watch) -> None:
        self.worker, self.operator, self.watch = worker, operator, watch

    @property
    def pids(self) -> list[int]:
        """Of the shards when the worker became ready."""
        return [shard["pid"] for shard in self.worker.ready["shards"]]

    async def admit(self, url: str, uid: str, **changes: Any) -> pb.Admitted:
        answer = await self.operator.admit(self.operator.request(url, uid, **changes))
        assert answer.HasField("admitted"), answer
        return answer.admitted

    async def came_back(self, timeout: float = 30) -> None:
        """Wait until the worker told of fewer places than it has, and then of all of them again."""
        reports = self.watch.workers
        most = reports[0].capacity
        await self.watch.until(lambda: any(report.capacity < most for report in reports), timeout)
        await self.watch.until(lambda: reports[-1].capacity == most, timeout)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of the admin port."""
        host, port = str(self.worker.ready["admin"]).rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    async def written(self, ends: int, timeout: float = 20) -> None:
        """Wait until the records of that many lost sessions' ends are written."""
        line = f'shard_ends_written_total{{outcome="written"}} {ends}.0'
        deadline = asyncio.get_running_loop().time() + timeout
        while line not in (await self.get("/metrics"))[1]:
            assert asyncio.get_running_loop().time() < deadline, "the ends were not written"
            await asyncio.sleep(0.1)

    def children(self) -> list[int]:
        """Processes that the supervisor has now, zombies included."""
        return children(self.worker.process.pid)


def children(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def exists(pid: int) -> bool:
    """Also as a zombie."""
    return (Path("/proc") / str(pid)).exists()


async def eventually(test: Callable[[], bool], timeout: float) -> None:
    """Wait until `test` holds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not test():
        assert asyncio.get_running_loop().time() < deadline, "it never came about"
        await asyncio.sleep(0.05)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


@asynccontextmanager
async def sharded(shards: int = 2, **settings: str) -> AsyncIterator[Sharded]:
    """A worker with that many shards on loopback, watched."""
    async with (
        worker_process(
            shards=str(shards), **{"capacity": "8", "watch_heartbeat": "0.5", **settings}
        ) as worker,
        control(worker.ready["control"], worker.instance) as operator,
    ):
        watch = Watch(operator.stub.Watch(pb.WatchRequest(fence=operator.fence())))
        try:
            async with asyncio.timeout(10):
                await watch.snapshot.wait()
            yield Sharded(worker, operator, watch)
        finally:
            await watch.close()


async def idle(socket: Socket) -> None:
    """A provider that greets and listens."""
    await socket.greet()
    await asyncio.Event().wait()
