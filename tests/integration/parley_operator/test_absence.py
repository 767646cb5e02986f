"""No operator at all for a minute: a real worker keeps its calls, and the next operator makes up for
everything."""

from __future__ import annotations

import asyncio
import base64
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer
from operator_ground import POD, SECRET, SESSION, Ground, ground, until
from operator_process import operator_process
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore
from provider_script import ScriptedProvider, scripted
from shards import idle
from worker_process import worker_process

pytestmark = pytest.mark.timeout(300)
# Seconds without any operator.
ABSENT = 60.0
_hosts = itertools.count(2)


async def tls_of_pool(made: Ground, folder: Path) -> Path:
    secret: Any = await made.store.get(SECRET, made.namespace, "parley-pool-default-tls")
    return write_files(folder, {name: base64.b64decode(value) for name, value in secret["data"].items()})


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


async def announce(made: Ground, pod: Any, host: str) -> None:
    """What the kubelet would say once the worker runs."""
    container = {"name": "worker", "image": "i", "imageID": "", "ready": True, "restartCount": 0}
    status = {
        "phase": "Running",
        "podIP": host,
        "hostIP": host,
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{**container, "state": {"running": {}}, "lastState": {}}],
    }
    latest = await made.store.get(POD, made.namespace, pod["metadata"]["name"])
    assert latest is not None
    assert await made.store.patch_status(POD, latest, status) is not None


def spec(provider: ScriptedProvider, **limits: str) -> dict[str, Any]:
    agent = {"provider": {"type": "custom", "url": provider.url, "model": "m"}}
    return {"agent": agent, "limits": {"attachTimeout": "5m", "queueTimeout": "3m", **limits}}


async def phase(made: Ground, name: str, *phases: str) -> Any:
    async def reached() -> Any:
        body: Any = await made.store.get(SESSION, made.namespace, name)
        return body if body.get("status", {}).get("phase") in phases else None

    return await until(reached, f"{name} is {' or '.join(phases)}", 60)


async def test_a_minute_without_an_operator_is_made_up_for(apiserver: ApiServer, tmp_path: Path) -> None:
    login, config = from_kubeconfig(apiserver.kubeconfig), apiserver.kubeconfig
    async with KubeStore(login) as store, ground(store) as made, scripted(idle) as provider:
        host = f"127.77.{next(_hosts)}.1"
        async with operator_process("before", made.namespace, config, tmp_path, POD_NAME="") as operator:
            await until(operator.leads, "the operator leads")
            await made.pool(sessionsPerWorker=10)

            async def pods() -> list[Any]:
                return await made.pods()

            [pod] = await until(pods, "a pod is made")
            tls = await tls_of_pool(made, tmp_path / "tls")
            settings = {
                "name": pod["metadata"]["name"],
                "control_address": f"{host}:50052",
                "control_tls_dir": str(tls),
                "capacity": "10",
            }
            async with worker_process(**settings):
                await announce(made, pod, host)
                for name, limits in (("stays", {}), ("ends", {"attachTimeout": "25s"}), ("deleted", {})):
                    await made.create(SESSION, name, spec(provider, **limits))
                for name in ("stays", "ends", "deleted"):
                    await phase(made, name, "Ready")
                assert await operator.end(signal.SIGKILL) == -signal.SIGKILL
                await absence(made, provider)
                await made_up_for(made, provider, config, tmp_path)


async def absence(made: Ground, provider: ScriptedProvider) -> None:
    stays = await phase(made, "stays", "Ready")
    await store_delete(made, "deleted")
    await made.create(SESSION, "new", spec(provider))
    await asyncio.sleep(ABSENT)
    # One ended by itself; nobody told the API server. The others talk on, the deleted one too.
    assert await open_sockets(provider) == 2
    assert (await phase(made, "ends", "Ready"))["status"]["phase"] == "Ready"
    assert await phase(made, "stays", "Ready") == stays


async def made_up_for(made: Ground, provider: ScriptedProvider, config: Path, folder: Path) -> None:
    stays = await phase(made, "stays", "Ready")
    loop = asyncio.get_running_loop()
    async with operator_process("after", made.namespace, config, folder, POD_NAME="") as operator:
        begun = loop.time()
        await phase(made, "new", "Ready")
        print(f"back after {ABSENT:.0f} s: the next call was placed after {loop.time() - begun:.1f} s")
        ended = await phase(made, "ends", "Completed", "Failed", "Cancelled")
        assert ended["status"]["endReason"] == "AttachTimeout"

        async def two() -> bool:
            return await open_sockets(provider) == 2

        await until(two, "the deleted call is over, the new one is there")
        assert len(provider.sockets) == 4
        assert await phase(made, "stays", "Ready") == stays
        assert await operator.metric("terminates_total") == 1
        await operator.end(signal.SIGTERM)


async def store_delete(made: Ground, name: str) -> None:
    await made.store.delete(SESSION, made.namespace, name, "")


async def open_sockets(provider: ScriptedProvider) -> int:
    return sum(socket.connection.close_code is None for socket in provider.sockets)
