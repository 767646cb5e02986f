"""How a link learns that its worker is gone: real gRPC on loopback, with what a kubelet would say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from control_worker import ControlWorker
from parley_operator.clock import SystemClock
from parley_operator.domain.model import Placement
from parley_operator.domain.observation import Fate
from parley_operator.handlers.placements import fate_of
from parley_operator.ports import WorkerTarget
from parley_operator.workers.link import LinkSet


async def until(test: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not test():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


async def test_who_is_gone_and_who_is_only_silent() -> None:
    workers = {name: ControlWorker(name=name) for name in ("plain", "pod", "vouched")}
    addresses = {name: await worker.start() for name, worker in workers.items()}
    targets = {
        name: WorkerTarget(name, address, pod_uid="" if name == "plain" else name, vouched=True)
        for name, address in addresses.items()
    }
    links = LinkSet(epoch=1, clock=SystemClock())
    for target in targets.values():
        links.set_target(target)

    def fate(name: str) -> Fate:
        return fate_of(links.view(name), Placement(name, workers[name].instance_id, 1, confirmed=True))

    try:
        await until(lambda: all(fate(name) is Fate.ANSWERS for name in workers))
        # The kubelet may be faster than the broken stream.
        links.set_target(replace(targets["pod"], restarts=1))
        assert fate("pod") is Fate.ANSWERS
        for worker in workers.values():
            await worker.stop()
        # Nobody but its address speaks for the one without a pod.
        await until(lambda: fate("plain") is Fate.GONE)
        assert fate("pod") is Fate.GONE
        assert fate("vouched") is Fate.SILENT
        links.set_target(replace(targets["vouched"], dead=True, vouched=False))
        assert fate("vouched") is Fate.GONE
        # Another process answers at once, and is not taken for the old one.
        before = Placement("pod", workers["pod"].instance_id, 1, confirmed=True)
        await workers["pod"].crash()
        await until(lambda: fate_of(links.view("pod"), before) is Fate.RESTARTED)
    finally:
        await links.close()
        for worker in workers.values():
            await worker.stop()
