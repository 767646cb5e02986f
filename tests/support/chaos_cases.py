"""The cases of the chaos suite: what is broken, how it is mended, and what is promised meanwhile.

Each case is a coroutine that fills its row; `CASES` has them in the order in which they run. Whatever a case
breaks it mends itself, and `Ground.restore` mends again what a failed case has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chaos_clock
import chaos_upgrade
from chaos_ground import LIVE, POOL, Ground, off, refusals, talking
from chaos_table import Row
from cluster_fixture import ClusterError, wait_for
from e2e_release import ADMIN, FINISHED, RELEASE, is_ready, processes_of

STEADY_MS = 2000
"""Silence allowed where no session moves: everything runs on one small machine."""
MOVE_MS = 5000
CRASH_MS = 10_000
NODE_MS = 30_000
"""Silent for 5 s, then 13 s without a heartbeat of its node: it might be cut off and its calls well."""
DOWN = 30.0
SHORT_DOWN = 8.0


@dataclass(frozen=True)
class Case:
    """A case: `own` says that it needs the nodes of this checkout's own cluster."""

    name: str
    promise: str
    run: Callable[[Ground, Row, bool], Awaitable[None]]
    silence_ms: int
    own: bool
    short: bool
    nodes: int


CASES: dict[str, Case] = {}
Runner = Callable[[Ground, Row, bool], Awaitable[None]]


def case(
    name: str,
    promise: str,
    *,
    silence_ms: int = STEADY_MS,
    own: bool = False,
    short: bool = False,
    nodes: int = 1,
) -> Callable[[Runner], Runner]:
    """Register a case; it is given the ground, its row and whether the short form is wanted."""

    def register(run: Runner) -> Runner:
        CASES[name] = Case(name, promise, run, silence_ms, own, short, nodes)
        return run

    return register


def many(short: bool, full: int = 10) -> int:
    return 4 if short else full


# Planned: pools and nodes change


@case(
    "rolling-update",
    "no session is cut before the drain timeout; they move while they talk",
    silence_ms=MOVE_MS,
    short=True,
)
async def rolling_update(ground: Ground, row: Row, short: bool) -> None:
    release = ground.release
    async with talking(ground, row, many(short)) as party:
        before = {p["metadata"]["name"] for p in await off(ground.workers)}
        stamp = {"metadata": {"annotations": {"parley.dev/stamp": f"{time.time():.0f}"}}}
        patch = json.dumps({"spec": {"podTemplate": stamp}})
        await off(release.kubectl, "patch", "voiceworkerpool", POOL, "--type=merge", "-p", patch)

        def replaced() -> bool:
            ready = {p["metadata"]["name"] for p in ground.workers() if is_ready(p)}
            left = {p["metadata"]["name"] for p in release.workers(POOL)} & before
            row.facts["old workers left"] = len(left)
            return len(ready - before) >= 2 and not left

        started = time.monotonic()
        with contextlib.suppress(AssertionError):
            await off(wait_for, replaced, "new workers", timeout=60 if short else 100)
        row.facts["replaced after s"] = round(time.monotonic() - started)
        await party.progress()


@case("scale-down", "the emptiest worker goes first, drained; no session is cut", silence_ms=MOVE_MS)
async def scale_down(ground: Ground, row: Row, short: bool) -> None:
    release = ground.release
    async with talking(ground, row, many(short, 8)) as party:
        await off(release.kubectl, "scale", "voiceworkerpool", POOL, "--replicas=1")

        def gone() -> bool:
            return len(release.workers(POOL)) == 1

        started = time.monotonic()
        with contextlib.suppress(AssertionError):
            await off(wait_for, gone, "one worker less", timeout=60)
        row.facts["scaled after s"] = round(time.monotonic() - started)
        row.facts["workers left"] = len(await off(release.workers, POOL))
        await party.progress()


@case("node-drain", "kubectl drain waits for busy workers; no session is cut", silence_ms=MOVE_MS, nodes=2)
async def node_drain(ground: Ground, row: Row, short: bool) -> None:
    node = await off(other_node, ground)
    kubectl = ground.release.cluster.kubectl
    async with talking(ground, row, many(short)) as party:
        started = time.monotonic()
        try:
            drain = off(
                kubectl, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                "--timeout=120s", timeout=130,
            )  # fmt: skip
            try:
                await drain
                row.facts["drained after s"] = round(time.monotonic() - started)
            except ClusterError as error:
                row.problems.append(f"kubectl drain: {str(error).splitlines()[-1][:200]}")
            await party.progress(within=60)
        finally:
            await off(kubectl, "uncordon", node)


def other_node(ground: Ground) -> str:
    """A node with a worker of the pool, not that of the provider."""
    first = ground.first_node()
    on = [p["spec"].get("nodeName", "") for p in ground.workers()]
    others = [node for node in on if node and node != first]
    assert others, f"no worker runs on another node than {first}: {on}"
    return others[0]


@contextlib.asynccontextmanager
async def fault(ground: Ground, broken: tuple[str, ...], mended: tuple[str, ...]) -> AsyncIterator[None]:
    """A part of the own cluster is broken while the block runs."""
    await off(ground.release.cluster.fault, *broken)
    try:
        yield
    finally:
        await off(ground.release.cluster.fault, *mended)


# Crashes


@case(
    "node-kill",
    "sessions of a node that died are placed again when its heartbeat stands still, and go on",
    silence_ms=NODE_MS,
    own=True,
    nodes=2,
)
async def node_kill(ground: Ground, row: Row, short: bool) -> None:
    node = await off(other_node, ground)
    number = node.rpartition("-")[2]
    async with talking(ground, row, many(short)) as party:
        async with fault(ground, ("kill-node", number), ("start-node", number)):
            await party.progress(turns=3, within=90)
        await party.progress(within=60)
    await off(
        ground.release.cluster.kubectl,
        "wait",
        "--for=condition=Ready",
        f"node/{node}",
        "--timeout=90s",
        timeout=100,
    )


@case(
    "worker-kill",
    "sessions of a killed worker are placed again and go on",
    silence_ms=CRASH_MS,
    own=True,
    short=True,
)
async def worker_kill(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        victim = await off(busiest, ground, row)
        await off(ground.release.kill_container, victim)
        await party.progress(turns=3, within=60)


def busiest(ground: Ground, row: Row) -> dict[str, Any]:
    """The worker that most of the case's sessions are on."""
    on = [s.get("status", {}).get("worker", {}).get("name") for s in ground.sessions(row.case).values()]
    name = max(set(on), key=on.count)
    row.facts["sessions on it"] = on.count(name)
    return next(p for p in ground.workers() if p["metadata"]["name"] == name)


@case("shard-kill", "sessions of a killed shard are placed again and go on", silence_ms=CRASH_MS, own=True)
async def shard_kill(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        victim = await off(busiest, ground, row)
        await off(kill_process, victim, "parley_worker.shard")
        await party.progress(turns=3, within=60)


def kill_process(pod: dict[str, Any], word: str) -> None:
    """SIGKILL to the first process of the pod that has the word in its command."""
    for pid in sorted(processes_of(pod["metadata"]["uid"])):
        if word in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of pod {pod['metadata']['name']} is a {word}")


# The operator


@case("leader-kill", "no session notices; the next placement within 10 s", own=True, short=True)
async def leader_kill(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        held = await off(ground.held)
        await off(ground.release.kill_container, await off(ground.leader))
        row.facts["next placement s"] = took = await placed(ground, row, "next")
        if took > 10:
            row.problems.append(f"the next placement took {took:.1f} s")
        if await off(ground.held) != held + 1:
            row.problems.append(f"workers hold {await off(ground.held)} sessions, {held + 1} are there")
        await party.progress()
        await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-next")


async def placed(ground: Ground, row: Row, name: str, within: float = 60) -> float:
    """Seconds from the creation of a session to its being Ready."""
    _, manifest = ground.new_session(f"{row.case}-{name}", row.case)
    start = time.monotonic()
    await off(ground.release.apply, manifest)
    await off(ground.release.wait_phase, f"{row.case}-{name}", "Ready", timeout=within)
    return round(time.monotonic() - start, 1)


@case("operator-absent", "calls go on for a minute without an operator; then everything is reconciled")
async def operator_absent(ground: Ground, row: Row, short: bool) -> None:
    release = ground.release
    deployment = f"deployment/{RELEASE}-operator"
    replicas = release.get("deployment", f"{RELEASE}-operator")["spec"]["replicas"]
    async with talking(ground, row, many(short)) as party:
        gone, deleted = await party.join(2, prefix="x")
        try:
            await off(release.kubectl, "scale", deployment, "--replicas=0")
            await off(
                release.kubectl, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator",
                "--timeout=60s", timeout=70,
            )  # fmt: skip
            down = time.monotonic()
            await gone.hang_up()
            await off(release.kubectl, "delete", "voicesession", deleted.name)
            _, manifest = ground.new_session(f"{row.case}-late", row.case)
            await off(release.apply, manifest)
            await party.progress([t for t in party.talkers if t is not gone], turns=3)
            await asyncio.sleep(max(0.0, (20 if short else 60) - (time.monotonic() - down)))
        finally:
            await off(release.kubectl, "scale", deployment, f"--replicas={replicas}")
        back = time.monotonic()
        await off(release.wait_phase, f"{row.case}-late", "Ready", timeout=60)
        row.facts["first placement s"] = round(time.monotonic() - back, 1)
        party.expected.add("Terminated")
        await off(release.wait_phase, gone.name, "Completed", timeout=30)
        async with asyncio.timeout(30):
            while deleted.ended is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await off(release.kubectl, "delete", "voicesession", f"{row.case}-late")
        await party.progress()


@case(
    "upgrade",
    "chart and definitions of an earlier commit are upgraded while sessions talk; none is cut",
    own=True,
)
async def upgrade(ground: Ground, row: Row, short: bool) -> None:
    row.facts["from"] = await off(chaos_upgrade.go_back, ground)
    async with talking(ground, row, many(short, 6)) as party:
        await off(chaos_upgrade.go_forward, ground)
        row.facts["next placement s"] = await placed(ground, row, "next", within=90)
        await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-next")
        await party.progress(turns=3)


# What everything leans on


@case("api-down", "no session notices 30 s without an API server; then sessions are placed again", own=True)
async def api_down(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        async with fault(ground, ("stop", "1", "apiserver"), ("start", "1", "apiserver")):
            await asyncio.sleep(SHORT_DOWN if short else DOWN)
            await party.progress(turns=1)
        await off(wait_for, lambda: ground.release.cluster.get("nodes"), "the API server", timeout=60)
        row.facts["next placement s"] = await placed(ground, row, "next")
        await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-next")
        await party.progress()


@case("etcd-restart", "no session notices", own=True, short=True)
async def etcd_restart(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        async with fault(ground, ("stop", "1", "etcd"), ("start", "1", "etcd")):
            pass
        await off(wait_for, lambda: ground.release.cluster.get("nodes"), "the API server", timeout=60)
        row.facts["next placement s"] = await placed(ground, row, "next")
        await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-next")
        await party.progress()


@case("nats-down", "no session notices 30 s without NATS; every record is delivered afterwards")
async def nats_down(ground: Ground, row: Row, short: bool) -> None:
    release, nats = ground.release, f"statefulset/{RELEASE}-nats"
    async with talking(ground, row, many(short)) as party:
        dropped = await off(records, ground, "dropped_total")
        try:
            await off(release.kubectl, "scale", nats, "--replicas=0")
            await off(
                release.kubectl, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=nats",
                "--timeout=60s", timeout=70,
            )  # fmt: skip
            await asyncio.sleep(SHORT_DOWN if short else DOWN)
        finally:
            await off(release.kubectl, "scale", nats, "--replicas=1")
        await off(release.kubectl, "rollout", "status", nats, "--timeout=60s", timeout=70)
        await party.progress()
        await off(wait_for, lambda: records(ground, "buffered") < 20, "records delivered", timeout=30)
        row.facts["records dropped"] = lost = await off(records, ground, "dropped_total") - dropped
        if lost:
            row.problems.append(f"{lost:.0f} records never came to NATS")


def records(ground: Ground, what: str) -> float:
    """`parley_worker_events_WHAT` of all workers of the pool."""
    prefix = f"parley_worker_events_{what}"
    pods = [pod["metadata"]["name"] for pod in ground.workers()]
    found = [ground.release.metrics(name, ADMIN) for name in pods]
    return sum(v for each in found for k, v in each.items() if k.partition("{")[0] == prefix)


@case("network-cut", "calls go on while operator and worker cannot hear each other for 30 s", own=True)
async def network_cut(ground: Ground, row: Row, short: bool) -> None:
    async with talking(ground, row, many(short)) as party:
        victim = (await off(busiest, ground, row))["metadata"]["uid"]
        pods = await off(ground.release.items, "pods", "app.kubernetes.io/component=operator")
        async with contextlib.AsyncExitStack() as stack:
            for pod in pods:
                if address := pod["status"].get("podIP"):
                    cut = fault(ground, ("cut", victim, address), ("heal", victim, address))
                    await stack.enter_async_context(cut)
            await asyncio.sleep(SHORT_DOWN if short else DOWN)
            await party.progress(turns=1)
        row.facts["next placement s"] = await placed(ground, row, "next")
        await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-next")
        await party.progress()


@case(
    "clock-step", "an hour's step of a worker's and of the operator's clock, ahead and back, is not noticed"
)
async def clock_step(ground: Ground, row: Row, short: bool) -> None:
    async with (
        chaos_clock.stepping(ground) as clock,
        talking(ground, row, many(short), pool=clock.pool) as party,
    ):
        for offset in (3600, -3600, 0):
            await clock.step(offset)
            await party.progress(turns=2)
            took = await placed(ground, row, f"at{offset}")
            row.facts[f"placement at {offset:+d} s"] = took
            await off(ground.release.kubectl, "delete", "voicesession", f"{row.case}-at{offset}")


# Crowds


@case(
    "overload",
    "offered 1.5 times the room: what has no room is refused with a reason, nobody else notices",
    short=True,
)
async def overload(ground: Ground, row: Row, short: bool) -> None:
    room = 8
    await off(ground.apply_pool, "tight", replicas=1, sessionsPerWorker=room)
    try:
        await off(ground.release.wait_workers, "tight", 1)
        async with talking(ground, row, room, pool="tight") as party:
            offered = [
                ground.new_session(
                    f"{row.case}-more{n}", row.case, pool="tight", limits={"queueTimeout": "5s"}
                )[1]
                for n in range(room // 2)
            ]
            row.sessions = room + len(offered)
            await off(ground.release.apply, *offered)
            await party.progress(turns=1)

            def refused() -> bool:
                found = [s for name, s in ground.sessions(row.case).items() if "-more" in name]
                row.refused = dict(refusals(found))
                return sum(row.refused.values()) == len(offered)

            await off(wait_for, refused, "refusals", timeout=30)
            await party.progress()
    finally:
        await off(ground.release.kubectl, "delete", "voiceworkerpool", "tight", "--wait=false")


@case("two-hundred", "200 sessions created at once are all Ready, and nobody who talks notices")
async def two_hundred(ground: Ground, row: Row, short: bool) -> None:
    await crowd(ground, row, 200, many(short, 4), delete=False)


@case(
    "delete-all", "everything is deleted at once: every call ends as Terminated, nothing is left", short=True
)
async def delete_all(ground: Ground, row: Row, short: bool) -> None:
    await crowd(ground, row, 20 if short else 60, many(short, 6), delete=True)


async def crowd(ground: Ground, row: Row, count: int, talkers: int, *, delete: bool) -> None:
    """So many silent sessions beside callers that talk."""
    release = ground.release
    await off(ground.apply_pool, "crowd", replicas=2, sessionsPerWorker=count // 2)
    try:
        await off(release.wait_workers, "crowd", 2)
        async with talking(ground, row, talkers) as party:
            made = [
                ground.new_session(
                    f"{row.case}-c{n}", row.case, pool="crowd", limits={"attachTimeout": "10m"}
                )[1]
                for n in range(count)
            ]
            row.sessions = talkers + count
            start = time.monotonic()
            await off(release.apply, *made)

            def ready() -> bool:
                found = [s for name, s in ground.sessions(row.case).items() if "-c" in name]
                over = [s["status"] for s in found if s.get("status", {}).get("phase") in FINISHED]
                assert not over or delete, f"{len(over)} are over: {over[0]}"
                return sum(s.get("status", {}).get("phase") in LIVE for s in found) == count

            await off(wait_for, ready, f"{count} sessions Ready", timeout=120, every=1)
            row.facts["all Ready after s"] = round(time.monotonic() - start, 1)
            await party.progress()
            if delete:
                await delete_everything(ground, row, party.talkers)
                party.expected = {"Terminated"}
            else:
                held = await off(ground.held, "crowd")
                row.facts["held by workers"] = held
                row.lost += count - held
    finally:
        await off(release.kubectl, "delete", "voiceworkerpool", "crowd", "--wait=false")


async def delete_everything(ground: Ground, row: Row, talkers: list[Any]) -> None:
    """`kubectl delete` of all sessions; every call hears of its end, and nothing is left of them."""
    release = ground.release
    start = time.monotonic()
    await off(
        release.kubectl, "delete", "voicesessions", "-l", f"parley.dev/chaos={row.case}", "--wait=false"
    )

    def nothing() -> bool:
        tickets = [s for s in release.items("secrets") if s["metadata"]["name"].startswith(f"{row.case}-")]
        return (
            not tickets and not ground.sessions(row.case) and not ground.held() and not ground.held("crowd")
        )

    await off(wait_for, nothing, "nothing left", timeout=60)
    row.facts["all gone after s"] = round(time.monotonic() - start, 1)
    async with asyncio.timeout(15):
        while any(talker.ended is None and not talker.failure for talker in talkers):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
