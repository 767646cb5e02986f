"""The workers of the bench, a process of their own: real control servers with mutual TLS that admit and say
Ready.

usage: fleet.py KUBECONFIG NAMESPACE COUNT CAPACITY      Prints `ready` when they serve; ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import uvloop
from operator_ground import POD, Ground
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore


async def main(kubeconfig: str, namespace: str, count: int, capacity: int) -> None:
    async with KubeStore(from_kubeconfig(Path(kubeconfig))) as store:
        ground = Ground(store, namespace)
        hosts = {"allowedHosts": ["127.0.0.1"]}
        await ground.pool(replicas=count, sessionsPerWorker=capacity, provider=hosts)
        for worker in await ground.run_workers(count, capacity):
            # Where its pod's status says that callers reach it: nothing is left to be corrected.
            worker.endpoint = f"{worker.host}:50100"
        assert await store.list(POD)
        print("ready", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        with contextlib.suppress(asyncio.CancelledError):
            await reader.read()
        for worker in ground.workers.values():
            await worker.stop()


if __name__ == "__main__":
    # As the workers do.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
