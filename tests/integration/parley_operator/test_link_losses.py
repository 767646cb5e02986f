"""How a link learns that its worker is gone: real gRPC on loopback, with what a kubelet would say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from control_worker import ControlTls, ControlWorker
from parley.control.v1 import control_pb2 as pb
from parley_operator.clock import SystemClock
from parley_operator.domain.model import Placement
from parley_operator.domain.observation import Fate
from parley_operator.handlers.placements import fate_of
from parley_operator.pki import issue_client, issue_server, make_ca
from parley_operator.ports import WorkerTarget, WorkerTls
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


async def test_renewed_credentials_forget_nothing_of_the_worker() -> None:
    """At no moment is a worker empty, or gone, that only has to be asked with another certificate."""
    clock = SystemClock()
    ca = make_ca(clock.now())
    server = issue_server(ca, "worker.test", clock.now())
    worker = ControlWorker(name="w", tls=ControlTls(ca.certificate, server.certificate, server.key))
    address = await worker.start()

    def target() -> WorkerTarget:
        own = issue_client(ca, clock.now())
        tls = WorkerTls(ca.certificate, own.certificate, own.key, "worker.test")
        return WorkerTarget("w", address, tls, pod_uid="p", vouched=True)

    seen: list[tuple[Fate, int]] = []
    placement = Placement("w", worker.instance_id, 1, confirmed=True)

    def note(name: str, report: object, *, felt: bool = True) -> None:
        view = links.view(name)
        seen.append((fate_of(view, placement), len(view.sessions) if view else 0))

    links = LinkSet(epoch=1, clock=clock)
    try:
        ref = pb.SessionRef(session_uid="uid-1", attempt=1, namespace="default", name="call")
        worker.sessions["uid-1"] = pb.SessionReport(session=ref, state=pb.SESSION_STATE_ACTIVE)
        links.set_target(target())
        await until(lambda: fate_of(links.view("w"), placement) is Fate.ANSWERS)
        links.on_change = note
        links.set_target(target())
        assert seen == [(Fate.SILENT, 1)]
        view = links.view("w")
        assert view is not None
        assert (view.capacity, view.instance_id, view.silent_for < 5) == (4, worker.instance_id, True)
        await until(lambda: fate_of(links.view("w"), placement) is Fate.ANSWERS)
        assert {count for _, count in seen} == {1}
    finally:
        await links.close()
        await worker.stop()
