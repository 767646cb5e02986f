"""How fast sessions get their place, and what that costs, beside a floor that makes the same writes.

    make load-placement                 (tests/load/placement/run.py --rounds 5)

A real etcd and kube-apiserver, the operator as a process, workers that are real control servers, and three
paths by turns: a floor (a plain watch that POSTs a ticket Secret, PATCHes the status and POSTs Events as
rarely as the operator), VoiceSessions created through the API as kubectl does, and
SessionService.CreateSession. Each round has them idle (one session at a time), in bursts (20 clients, 300
sessions; floor and CR path by turns, three times each) and paced at half the bursts' rate. Everything shares
this machine: compare the paths of one run only.
Writes build/bench/placement.json and prints the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

import floor  # noqa: E402 - beside this file; the rest is the support of the tests
import placement_figures as figures  # noqa: E402
from apiserver import CRDS, ApiServer, run_apiserver  # noqa: E402
from operator_ground import API, SPEC, Ground, until  # noqa: E402
from parley_client.bench.machine import machine, one_line, versions  # noqa: E402
from parley_client.sessions import SessionsClient  # noqa: E402
from parley_operator.kube.login import from_kubeconfig  # noqa: E402
from parley_operator.kube.store import KubeStore  # noqa: E402

NAME = "parley-sessions.bench.svc"
TICKS = os.sysconf("SC_CLK_TCK")
NAMED = re.compile(rb'"name":"([^"]+)"')
# Nothing is lost that comes within this time.
PATIENCE = 60.0


def cpu(pids: list[int]) -> float:
    """User and system seconds of processes, their threads included."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Bench:
    """The programs that run, and how sessions are made by each path."""

    def __init__(self, server: ApiServer, ground: Ground, http: aiohttp.ClientSession, token: str) -> None:
        self.server, self.ground, self.http = server, ground, http
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.pids: dict[str, list[int]] = {}
        self.sessions: SessionsClient | None = None

    def url(self, path: str) -> str:
        if path == "floor":
            return f"{self.server.url}{floor.PATH}/namespaces/{self.ground.namespace}/{floor.PLURAL}"
        return f"{self.server.url}/apis/{API}/namespaces/{self.ground.namespace}/voicesessions"

    def costs(self, path: str) -> dict[str, float]:
        own = "floor" if path == "floor" else "operator"
        return {
            "operator": cpu(self.pids[own]),
            "api": cpu(self.pids["api"]),
            "workers": cpu(self.pids["fleet"]),
        }

    async def apply(self, path: str, name: str) -> None:
        """What `kubectl apply` comes to: one POST."""
        api, kind = (f"{floor.GROUP}/v1alpha1", floor.KIND) if path == "floor" else (API, "VoiceSession")
        metadata = {"name": name, "namespace": self.ground.namespace}
        body = json.dumps({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": SPEC}).encode()
        async with self.http.post(self.url(path), data=body, headers=self.headers) as answer:
            text = await answer.read()
            assert answer.status == 201, text[:500]

    async def call(self, name: str) -> None:
        assert self.sessions is not None
        made = await self.sessions.create(
            self.ground.namespace, SPEC, name=name, request_id=name, wait=PATIENCE, ready=True
        )
        assert made.session.phase == "Ready", made.session
        assert made.ticket

    async def clean(self, path: str) -> None:
        """Delete what was made, and wait until nobody is at work."""
        async with self.http.delete(self.url(path), headers=self.headers) as answer:
            await answer.read()
        secrets = f"{self.server.url}/api/v1/namespaces/{self.ground.namespace}/secrets"
        selected = {"labelSelector": "parley.dev/session"}
        async with self.http.delete(secrets, params=selected, headers=self.headers) as answer:
            await answer.read()
        everyone = [pid for pids in self.pids.values() for pid in pids]
        for _ in range(120):
            before = cpu(everyone)
            await asyncio.sleep(0.5)
            if cpu(everyone) - before < 0.06:
                return


class Ready:
    """When each session was seen Ready, by a watch; begun anew where the API server ends it, as it does
    when a
    watcher of a busy machine is slow."""

    def __init__(self, bench: Bench, path: str) -> None:
        self.at: dict[str, float] = {}
        self.watching = asyncio.Event()
        self._bench, self._path = bench, path
        self._news = asyncio.Event()

    async def follow(self) -> None:
        bench, url = self._bench, self._bench.url(self._path)
        while True:
            async with bench.http.get(url, headers=bench.headers) as answer:
                listed = await answer.json()
            for item in listed["items"]:
                if item.get("status", {}).get("phase") == "Ready":
                    self._seen(item["metadata"]["name"])
            version = listed["metadata"]["resourceVersion"]
            query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "3600"}
            limit = aiohttp.ClientTimeout(total=None)
            async with bench.http.get(url, params=query, headers=bench.headers, timeout=limit) as answer:
                self.watching.set()
                async for line in answer.content:
                    if b'"phase":"Ready"' in line:
                        found = NAMED.search(line[line.index(b'"metadata"') :])
                        if found is not None:
                            self._seen(found[1].decode())

    def _seen(self, name: str) -> None:
        self.at.setdefault(name, time.perf_counter())
        self._news.set()

    async def all(self, names: set[str]) -> None:
        deadline = time.perf_counter() + PATIENCE
        while not names <= self.at.keys() and time.perf_counter() < deadline:
            self._news.clear()
            try:
                async with asyncio.timeout(1):
                    await self._news.wait()
            except TimeoutError:
                continue


@asynccontextmanager
async def watching(bench: Bench, path: str) -> AsyncIterator[Ready]:
    ready = Ready(bench, path)
    task = asyncio.create_task(ready.follow())
    try:
        async with asyncio.timeout(30):
            await ready.watching.wait()
        yield ready
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


Spread = Callable[[list[str], Callable[[str], Awaitable[None]]], Awaitable[None]]


def by_clients(clients: int) -> Spread:
    """So many clients, each one session after the other."""

    async def run(names: list[str], make: Callable[[str], Awaitable[None]]) -> None:
        left = iter(names)

        async def client() -> None:
            for name in left:
                await make(name)

        await asyncio.gather(*(client() for _ in range(clients)))

    return run


def paced(rate: float) -> Spread:
    """So many a second, whether the ones before are done or not."""

    async def run(names: list[str], make: Callable[[str], Awaitable[None]]) -> None:
        begun = time.perf_counter()
        tasks = []
        for number, name in enumerate(names):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(make(name)))
        await asyncio.gather(*tasks)

    return run


async def measure(
    bench: Bench, path: str, count: int, spread: Spread, *, one_by_one: bool = False
) -> figures.Phase:
    """One phase of one path; nothing is left of it."""
    names = [f"{path}-{uuid.uuid4().hex[:12]}" for _ in range(count)]
    begun_at: dict[str, float] = {}
    ended_at: dict[str, float] = {}

    async with AsyncExitStack() as stack:
        ready = await stack.enter_async_context(watching(bench, path)) if path != "service" else None

        async def make(name: str) -> None:
            begun_at[name] = time.perf_counter()
            if ready is None:
                await bench.call(name)
                ended_at[name] = time.perf_counter()
                return
            await bench.apply(path, name)
            if one_by_one:
                await ready.all({name})

        before, begun = bench.costs(path), time.perf_counter()
        await spread(names, make)
        if ready is not None:
            await ready.all(set(names))
            ended_at = ready.at
        after = bench.costs(path)
    done = {name: ended_at[name] for name in names if name in ended_at}
    seconds = max(done.values(), default=begun) - begun
    latencies = [at - begun_at[name] for name, at in done.items()]
    await bench.clean(path)
    return figures.phase(latencies, count, seconds, {key: after[key] - before[key] for key in after})


async def one_round(bench: Bench, order: list[str], sizes: argparse.Namespace) -> figures.Round:
    """Floor and CR path take turns in bursts: the speed of a shared machine changes from minute to minute,
    and only bursts that follow each other can be compared."""
    one = figures.Round()
    for path in order:
        one.idle[path] = await measure(bench, path, sizes.idle, by_clients(1), one_by_one=True)
    for turn in range(sizes.turns):
        pair = ("floor", "cr") if turn % 2 else ("cr", "floor")
        burst = {path: await measure(bench, path, sizes.burst, by_clients(sizes.clients)) for path in pair}
        one.bursts.append(burst)
    one.service = await measure(bench, "service", sizes.burst, by_clients(sizes.clients))
    for path in order:
        rate = one.rate(path) / 2
        one.half_load[path] = await measure(bench, path, sizes.paced, paced(rate))
    return one


# -- the ground


async def definitions(ground: Ground) -> None:
    """The chart's definitions, and VoiceSession once more under the floor's name."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for file in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        await ground.post(path, crd)
        if crd["spec"]["names"]["kind"] == "VoiceSession":
            crd["metadata"]["name"] = f"{floor.PLURAL}.{floor.GROUP}"
            crd["spec"]["group"] = floor.GROUP
            crd["spec"]["names"] = {
                "kind": floor.KIND, "listKind": f"{floor.KIND}List", "plural": floor.PLURAL,
                "singular": "floorsession",
            }  # fmt: skip
            await ground.post(path, crd)

    async def served() -> bool:
        kinds = [f"/apis/{API}/{p}" for p in ("voicesessions", "voiceagents", "voiceworkerpools")]
        answers = [await ground.store._request("GET", p) for p in (*kinds, f"{floor.PATH}/{floor.PLURAL}")]
        return all(answer.status == 200 for answer in answers)

    await until(served, "the definitions are served")


@asynccontextmanager
async def child(log: Path, *command: str, ready: bool = True, **environ: str) -> AsyncIterator[int]:
    """A process that lives as long as the block; its stdin is closed at the end."""
    with open(log, "wb") as errors:  # noqa: ASYNC230 - nothing else is at work yet
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env={**os.environ, **environ},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            if ready:
                async with asyncio.timeout(90):
                    line = await process.stdout.readline()
                assert line == b"ready\n", _read(log)[-3000:]
            yield process.pid
        finally:
            process.stdin.close()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _copy_logs(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        (target / log.name).write_bytes(log.read_bytes())


def _read(path: Path) -> str:
    return path.read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def children_of(name: str) -> list[int]:
    """Processes of this name that this one has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue
        command, _, rest = text.partition("(")[2].rpartition(")")
        if command == name[:15] and int(rest.split()[1]) == os.getpid():
            found.append(int(folder.name))
    return found


@asynccontextmanager
async def logs_kept(folder: Path, target: Path) -> AsyncIterator[None]:
    """What the programs said is kept when the bench breaks."""
    try:
        yield
    finally:
        await asyncio.to_thread(_copy_logs, folder, target)


@asynccontextmanager
async def running(folder: Path, workers: int, capacity: int) -> AsyncIterator[Bench]:
    """Everything up and warm."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_apiserver(folder))
        login = from_kubeconfig(server.kubeconfig)
        store = await stack.enter_async_context(KubeStore(login))
        ground = Ground(store, "bench")
        await definitions(ground)
        await ground.post(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}
        )
        token = await ground.token("app", "create", "get", "list", "watch", "delete")
        address, metrics = f"127.0.0.1:{free_port()}", free_port()
        environ = {
            "KUBECONFIG": str(server.kubeconfig),
            "PARLEY_OPERATOR_NAMESPACE": "bench",
            "PARLEY_OPERATOR_HTTP_HOST": "127.0.0.1",
            "PARLEY_OPERATOR_HTTP_PORT": str(metrics),
            "PARLEY_OPERATOR_SESSIONS_ADDRESS": address,
            "PARLEY_OPERATOR_SESSIONS_NAMES": NAME,
            "PARLEY_OPERATOR_SESSIONS_CONFIG_MAP": "parley-sessions",
            "PARLEY_OPERATOR_LOG_LEVEL": "warning",
            # A busy machine is to slow the operator down, not to depose it: failover has tests of its own.
            "PARLEY_OPERATOR_LEASE_DURATION": "60",
            "PARLEY_OPERATOR_LEASE_RENEW_DEADLINE": "40",
            "PARLEY_OPERATOR_LEASE_RETRY": "5",
        }
        operator = await stack.enter_async_context(
            child(folder / "operator.log", "-m", "parley_operator", ready=False, **environ)
        )
        here = str(Path(__file__).parent)
        floor_pid = await stack.enter_async_context(
            child(folder / "floor.log", f"{here}/floor.py", str(server.kubeconfig))
        )
        fleet = await stack.enter_async_context(
            child(
                folder / "fleet.log",
                f"{here}/fleet.py",
                str(server.kubeconfig),
                "bench",
                str(workers),
                str(capacity),
            )
        )
        connector = aiohttp.TCPConnector(ssl=login.ssl_context() or True, limit=0)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, read_bufsize=4 * 1024 * 1024)
        )
        bench = Bench(server, ground, http, login.token())
        bench.pids = {
            "operator": [operator],
            "floor": [floor_pid],
            "fleet": [fleet],
            "api": children_of("kube-apiserver"),
            "etcd": children_of("etcd"),
        }

        async def told() -> Any:
            return await store.get("ConfigMap", "bench", "parley-sessions")

        found: Any = await until(told, "the session service is served", 90)
        bench.sessions = await stack.enter_async_context(
            SessionsClient(
                address, token=token, ca_pem=found["data"]["ca.crt"], tls_server_name=NAME, timeout=30
            )
        )
        yield bench


async def main(sizes: argparse.Namespace) -> int:
    began, clock = datetime.now(UTC), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="parley-placement-") as folder:
        kept = logs_kept(Path(folder), sizes.out.parent / "placement-logs")
        async with kept, running(Path(folder), sizes.workers, sizes.burst) as bench:
            for path in figures.PATHS:
                await measure(bench, path, 40, by_clients(4))
            rounds = []
            for number in range(sizes.rounds):
                turn = number % len(figures.PATHS)
                order = [*figures.PATHS[turn:], *figures.PATHS[:turn]]
                rounds.append(await one_round(bench, order, sizes))
                shares = {path: rounds[-1].rate(path) for path in figures.PATHS}
                print(
                    f"round {number + 1} of {sizes.rounds}: sessions/s {shares}", file=sys.stderr, flush=True
                )
            memory = _read(Path(f"/proc/{bench.pids['operator'][0]}/status"))
            rss = next(int(line.split()[1]) for line in memory.splitlines() if line.startswith("VmRSS"))
    result: dict[str, Any] = {
        "bench": "placement",
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "command": "make load-placement",
        "machine": machine(),
        "machine_line": one_line(machine()),
        "versions": versions(("grpcio", "protobuf", "kopf", "aiohttp")),
        "sizes": {key: value for key, value in vars(sizes).items() if key != "out"},
        "operator_rss_mib": round(rss / 1024, 1),
        **figures.summary(rounds),
        "rounds": [asdict(one) for one in rounds],
    }
    sizes.out.parent.mkdir(parents=True, exist_ok=True)
    sizes.out.write_text(json.dumps(result, indent=1) + "\n")
    print(figures.table(result))
    print(f"written to {sizes.out}")
    return 0 if all(good for _, _, good in figures.verdicts(result)) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=int, default=60, help="sessions one at a time")
    parser.add_argument("--burst", type=int, default=300, help="sessions at once, by --clients")
    parser.add_argument("--turns", type=int, default=3, help="bursts of floor and CR path each, by round")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--paced", type=int, default=200, help="sessions at half of the burst's rate")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "placement.json")
    return parser.parse_args()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    sys.exit(asyncio.run(main(arguments())))
