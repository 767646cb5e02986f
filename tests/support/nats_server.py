"""A real nats-server with JetStream on loopback: killed, stopped and started again on its port, data kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import nats
from nats.aio.client import Client


def find_program(name: str) -> str | None:
    """A program on PATH, or in the cache's bin folder."""
    cache = Path(os.environ.get("PARLEY_CACHE") or Path.home() / ".cache" / "parley")
    folders = (cache / "bin", Path.home() / ".cache" / "voice-cluster" / "bin")
    return shutil.which(name) or next((str(f / name) for f in folders if (f / name).is_file()), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """One nats-server. `start` waits for its answer; `kill` (SIGKILL) and `stop` (SIGTERM) keep the data."""

    def __init__(self, store: Path, *, port: int | None = None, arguments: Sequence[str] = ()) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._store = store
        self._arguments = list(arguments)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        binary = find_program("nats-server")
        assert binary, "nats-server is missing: put it on PATH or run `make setup`"
        self._store.mkdir(parents=True, exist_ok=True)
        with (self._store / "server.log").open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *(binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._store)),
                *self._arguments,
                stdout=out,
                stderr=out,
            )
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            assert self._process.returncode is None, (self._store / "server.log").read_text()[-2000:]
            try:
                client = await self.connect()
                await client.jetstream(timeout=1).account_info()
                await client.close()
                return
            except (OSError, nats.errors.Error, TimeoutError):
                assert asyncio.get_running_loop().time() < deadline, "nats-server does not answer"
                await asyncio.sleep(0.05)

    async def connect(self) -> Client:
        """A client of the test's own."""

        async def quiet(error: Exception) -> None:
            pass

        return await nats.connect(
            self.url, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=quiet
        )

    async def kill(self) -> None:
        await self._end(9)

    async def stop(self) -> None:
        await self._end(15)

    async def _end(self, signal: int) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal)
            await asyncio.wait_for(self._process.wait(), 10)
        self._process = None


async def stored(server: NatsServer, stream: str) -> list[tuple[str, str, bytes]]:
    """Everything in a stream: Msg-Id, subject and data, in order."""
    client = await server.connect()
    try:
        js = client.jetstream(timeout=2)
        state = (await js.stream_info(stream)).state
        messages = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await js.get_msg(stream, sequence)
            headers = message.headers or {}
            messages.append((headers.get("Nats-Msg-Id", ""), message.subject or "", message.data or b""))
        return messages
    finally:
        await client.close()
