"""`python -m parley_operator` as a real process, to be killed, frozen and asked."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class OperatorProcess:
    """One process. Its log goes to `<name>.log` in `folder`."""

    def __init__(self, name: str, namespace: str, kubeconfig: Path, folder: Path, **settings: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.port = free_port()
        values = {
            "NAMESPACE": namespace,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "WORKER_IMAGE": "parley-worker:test",
            "LOG_FORMAT": "text",
            "POD_NAME": name,
            **settings,
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PARLEY_OPERATOR_")}
        self._env = {**kept, "KUBECONFIG": str(kubeconfig)}
        self._env |= {f"PARLEY_OPERATOR_{key}": value for key, value in values.items()}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "parley_operator"), env=self._env, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def end(self, number: signal.Signals = signal.SIGKILL, timeout: float = 30) -> int:
        """Send the signal and wait; returns the exit code."""
        assert self._process is not None
        if self.runs:
            self.send(number)
        return await asyncio.wait_for(self._process.wait(), timeout)

    async def ask(self, path: str) -> tuple[int, str]:
        """A page of its admin server; (0, "") when there is none."""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"http://127.0.0.1:{self.port}/{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; -1 when the process does not answer."""
        status, text = await self.ask("metrics")
        if status != 200:
            return -1.0
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"parley_operator_{name}" and labels.items() <= sample.labels.items()
        )

    async def leads(self) -> bool:
        """It holds the lease and its watches run."""
        return await self.metric("leading") == 1 and (await self.ask("readyz"))[0] == 200


@asynccontextmanager
async def operator_process(
    name: str, namespace: str, kubeconfig: Path, folder: Path, **settings: str
) -> AsyncIterator[OperatorProcess]:
    """Started; killed at the end."""
    process = OperatorProcess(name, namespace, kubeconfig, folder, **settings)
    await process.start()
    try:
        yield process
    finally:
        await process.end()
