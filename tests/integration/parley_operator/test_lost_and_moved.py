"""The control plane over real workers: calls that lose their worker, or are moved away before it goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from parley_client import CallOptions, Endpoint, Playout, connect, resolve_address
from parley_client.backoff import Backoff
from parley_operator.embedded import EmbeddedControlPlane, WorkerTarget
from recovering import Fleet, Guest, Host, fleet, in_order
from surviving import GA

pytestmark = pytest.mark.timeout(300)
SESSION = "VoiceSession"


def targets(it: Fleet) -> list[WorkerTarget]:
    return [
        WorkerTarget(f"worker-{number}", host.worker.ready["control"]) for number, host in enumerate(it.hosts)
    ]


def session(it: Fleet, policy: str, **spec: Any) -> dict[str, Any]:
    provider = {"type": "custom", "url": it.local.url, "model": "m"}
    agent = {"provider": provider, "session": {k: v for k, v in GA.items() if k != "type"}}
    return {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": SESSION,
        "metadata": {"name": "call"},
        "spec": {"agent": agent, "recovery": {"policy": policy}, **spec},
    }


class StatusResolver:
    """Where the status of the session says that it is."""

    def __init__(self, plane: EmbeddedControlPlane) -> None:
        self.plane = plane

    async def resolve(self, uid: str, ticket: str) -> Endpoint:
        worker = status(self.plane).get("worker") or {}
        return Endpoint(
            worker.get("endpoint", ""), worker.get("tlsServerName", ""), status(self.plane)["attempt"]
        )


def status(plane: EmbeddedControlPlane) -> dict[str, Any]:
    body: Any = plane.get(SESSION, "call")
    found: dict[str, Any] = body.get("status", {})
    return found


async def until(plane: EmbeddedControlPlane, test: Any, timeout: float = 30) -> dict[str, Any]:
    deadline = asyncio.get_running_loop().time() + timeout
    while not test(status(plane)):
        assert asyncio.get_running_loop().time() < deadline, status(plane)
        await asyncio.sleep(0.02)
    return status(plane)


@asynccontextmanager
async def caller(plane: EmbeddedControlPlane, resolver: StatusResolver) -> AsyncIterator[Guest]:
    ticket = plane.ticket("call")
    assert ticket is not None
    target = resolve_address(ticket.endpoint, ticket.ticket.reveal())
    options = CallOptions(backoff=Backoff(first=0.1, highest=0.5))
    async with connect(target, options=options, resolver=resolver, playout=Playout.BURST) as call:
        guest = Guest(call)
        try:
            yield guest
        finally:
            await guest.leave()


def host_of(it: Fleet, plane: EmbeddedControlPlane) -> tuple[Host, str]:
    name = status(plane)["worker"]["name"]
    return it.hosts[int(name.removeprefix("worker-"))], name


async def remember(guest: Guest) -> None:
    await guest.remember()
    # The journal is written beside the conversation.
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("shards", [0, 2])
async def test_a_call_goes_on_where_its_worker_was_killed(tmp_path: Path, shards: int) -> None:
    async with (
        fleet(tmp_path, shards=shards) as it,
        EmbeddedControlPlane(workers=targets(it), worker_lost_after=60.0) as plane,
    ):
        await plane.apply([session(it, "Resume")])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        async with caller(plane, StatusResolver(plane)) as guest:
            await remember(guest)
            host, name = host_of(it, plane)
            # A worker with shards lives on, and tells of those that it lost.
            host.signal(signal.SIGKILL)
            await until(plane, lambda s: s["attempt"] == 2)
            await guest.until(lambda: guest.call.stats.resumes >= 1, timeout=90)
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            in_order(guest.numbers())
            found = await until(plane, lambda s: s["phase"] == "Active")
            assert found["recovery"]["count"] == 1
            assert found["recovery"]["reason"] == ("ShardLost" if shards else "WorkerLost")
            assert shards or found["worker"]["name"] != name
        body: Any = await plane.wait_phase("call", {"Completed"}, timeout=30)
        assert body["status"]["endReason"] == "CallerHangup"
        assert body["status"]["usage"]["inputTokens"] > 0
        facts = await it.facts(body["metadata"]["uid"])
        assert (facts.count("ended"), facts.count("attempt_lost")) == (1, 1 if shards else 0)


async def test_a_call_that_begins_anew(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it, EmbeddedControlPlane(workers=targets(it)) as plane:
        await plane.apply([session(it, "Restart")])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        async with caller(plane, StatusResolver(plane)) as guest:
            await remember(guest)
            host_of(it, plane)[0].signal(signal.SIGKILL)
            await until(plane, lambda s: s["attempt"] == 2)
            await guest.until(lambda: guest.call.stats.resumes >= 1, timeout=90)
            await guest.ask("q2 recall")
            assert "alpha" not in await guest.answered("a2")


async def test_a_worker_that_drains_gives_its_call_away(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it, EmbeddedControlPlane(workers=targets(it)) as plane:
        await plane.apply([session(it, "Resume")])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        async with caller(plane, StatusResolver(plane)) as guest:
            await remember(guest)
            _, name = host_of(it, plane)
            assert plane._links is not None
            assert await plane._links.drain(name, 60.0)
            found = await until(plane, lambda s: s["attempt"] == 2)
            assert found["worker"]["name"] != name
            assert found["phase"] == "Active"
            assert "recovery" not in found
            await guest.until(lambda: guest.call.started is not None and guest.call.started.attempt == 2)
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            in_order(guest.numbers())
            ticket = plane.ticket("call")
            assert ticket is not None
            assert ticket.endpoint == found["worker"]["endpoint"]
        body: Any = await plane.wait_phase("call", {"Completed"}, timeout=30)
        assert (body["status"]["endReason"], body["status"]["attempt"]) == ("CallerHangup", 2)


async def test_the_next_operator_finds_the_lost_and_places_them(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        objects = tmp_path / "objects"
        async with EmbeddedControlPlane(objects, workers=targets(it)) as plane:
            await plane.apply([session(it, "Resume", limits={"reattachTimeout": "60s"})])
            await plane.wait_phase("call", {"Ready"}, timeout=30)
            resolver = StatusResolver(plane)
            ticket = plane.ticket("call")
            assert ticket is not None
        target = resolve_address(ticket.endpoint, ticket.ticket.reveal())
        options = CallOptions(backoff=Backoff(first=0.1, highest=0.5))
        async with connect(target, options=options, resolver=resolver, playout=Playout.BURST) as call:
            guest = Guest(call)
            # Nobody operates, and the call goes on; then its worker dies.
            await remember(guest)
            host_of(it, plane)[0].signal(signal.SIGKILL)
            async with EmbeddedControlPlane(objects, workers=targets(it)) as second:
                resolver.plane = second
                await until(second, lambda s: s["attempt"] == 2)
                await guest.ask("q2 recall")
                assert await guest.answered("a2") == "a2 alpha"
                await guest.leave()
                await second.wait_phase("call", {"Completed"}, timeout=30)


async def test_a_worker_that_was_frozen_speaks_for_no_session_that_moved(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path) as it,
        EmbeddedControlPlane(workers=targets(it), worker_lost_after=6.0) as plane,
    ):
        await plane.apply([session(it, "Resume", limits={"reattachTimeout": "60s"})])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        async with caller(plane, StatusResolver(plane)) as guest:
            await remember(guest)
            host, _ = host_of(it, plane)
            pid = host.worker.process.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                await until(plane, lambda s: s["attempt"] == 2 and s["phase"] == "Active", timeout=60)
            finally:
                os.kill(pid, signal.SIGCONT)
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            # The old worker is rid of it, and the session goes on all the same.
            uid = str(plane.get(SESSION, "call")["metadata"]["uid"])  # type: ignore[index,call-overload]
            assert plane._links is not None
            links = plane._links
            deadline = asyncio.get_running_loop().time() + 30
            while sum(uid in view.live_uids for view in links.views()) != 1:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.1)
            assert status(plane)["attempt"] == 2
            assert "endReason" not in status(plane)
            await guest.ask("q3 recall")
            assert await guest.answered("a3") == "a3 alpha"


async def test_a_call_that_nobody_can_take_over_ends_once(tmp_path: Path) -> None:
    """No worker is left that has room; the one whose shard died writes what the control plane decides."""
    async with (
        fleet(tmp_path, shards=1, workers=1) as it,
        EmbeddedControlPlane(workers=targets(it), worker_lost_after=60.0) as plane,
    ):
        await plane.apply([session(it, "Resume", limits={"queueTimeout": "1s", "reattachTimeout": "1s"})])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        assert plane._links is not None
        await plane._links.drain("worker-0", 300.0)
        await until(plane, lambda s: s["phase"] in ("Ready", "Active"))
        it.hosts[0].signal(signal.SIGKILL)
        body: Any = await plane.wait_phase("call", {"Failed"}, timeout=30)
        assert body["status"]["endReason"] == "ShardLost"
        facts = await it.facts(body["metadata"]["uid"])
        assert facts[-2:] == ["attempt_lost", "ended"]
        assert facts.count("ended") == 1
