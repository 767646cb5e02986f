"""Reaching a worker through the API server: `kubectl port-forward` as a supervised child process."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from .embedded.processes import TETHER
from .errors import ConnectError, MissingProgram

READY_TIMEOUT: Final = 15.0
_FORWARDING: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")


@asynccontextmanager
async def port_forward(
    resource: str,
    port: int,
    *,
    namespace: str,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
) -> AsyncIterator[str]:
    """Forward a free loopback port to a pod or service; give its `host:port`.

    Args:
        resource: such as `pod/worker-0` or `svc/nats`.
        port: of the resource.

    Raises:
        MissingProgram: kubectl is not installed.
        ConnectError: the forwarding does not come up.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise MissingProgram("kubectl", "your system's package of kubectl")
    arguments = [kubectl, "port-forward", "--address", "127.0.0.1", "--namespace", namespace]
    if kubeconfig:
        arguments += ["--kubeconfig", str(kubeconfig)]
    if context:
        arguments += ["--context", context]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", TETHER, str(os.getpid())),
        *arguments,
        resource,
        f":{port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    drain: asyncio.Task[None] | None = None
    try:
        local = await _local_port(process, resource)
        drain = asyncio.create_task(_drain(process), name="kubectl port-forward output")
        yield f"127.0.0.1:{local}"
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(3):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()
        if drain is not None:
            drain.cancel()
            await asyncio.wait([drain])


async def _local_port(process: asyncio.subprocess.Process, resource: str) -> int:
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            while line := await process.stdout.readline():
                said += line
                if found := _FORWARDING.search(line):
                    return int(found[1])
    except TimeoutError:
        said += b"no answer in time"
    words = said.decode(errors="replace").strip() or "kubectl said nothing"
    raise ConnectError(f"port-forward to {resource} failed: {words}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
