"""An operator that restarts, and one that takes over, while thousands of calls are live.

usage: operator_restart.py [--sessions N] [--workers N] [--out FILE]

A real etcd and kube-apiserver, an operator process, and workers that are control services in this process.
The operator places every session; then it is told to go and started anew, and later killed while another
stands by. Measured are the time until the sessions are reconciled and the next one is placed, memory and
CPU; shown is that no session was touched: no Admit, no Terminate, no write of any object. Beside it stands
what a bare client needs to read the same objects from the same server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import yaml  # noqa: E402
from apiserver import CRDS, ApiServer, run_apiserver  # noqa: E402
from control_worker import ControlWorker  # noqa: E402
from operator_ground import SESSION, SPEC, Ground, until  # noqa: E402
from operator_process import OperatorProcess, operator_process  # noqa: E402
from parley_operator.kube.login import from_kubeconfig  # noqa: E402
from parley_operator.kube.store import KubeStore  # noqa: E402

LONG = 1800.0
# For the operator that fills the scene: on a busy machine the API server may be slow for seconds meanwhile.
PATIENT = {"LEASE_DURATION": "60", "LEASE_RENEW_DEADLINE": "40", "LEASE_RETRY": "5"}
_TICKS = os.sysconf("SC_CLK_TCK")

# A bare client: pages of the list, parsed and kept.
FLOOR = """
import asyncio, json, resource, sys, time
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore

async def main():
    async with KubeStore(from_kubeconfig(Path(sys.argv[1]))) as store:
        begun = time.monotonic()
        found = await store.list("VoiceSession")
        seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"objects": len(found), "seconds": seconds, "cpu_seconds": usage.ru_utime +
    usage.ru_stime,
                      "peak_mib": usage.ru_maxrss / 1024}))

asyncio.run(main())
"""


def memory(pid: int) -> dict[str, float]:
    """MiB of a process: now and at most."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found["rss_mib" if name == "VmRSS" else "peak_mib"] = round(int(rest.split()[0]) / 1024, 1)
    return found


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Scene:
    """Everything that lives, and what it looked like when all was quiet."""

    ground: Ground
    workers: list[ControlWorker]
    sessions: int
    versions: dict[str, str]
    admits: int = 0
    placed: int = 0
    extra: int = 0

    async def listed(self) -> dict[str, str]:
        bodies: list[Any] = await self.ground.store.list(SESSION)
        return {
            b["metadata"]["uid"]: b["metadata"]["resourceVersion"]
            for b in bodies
            if b["metadata"]["name"].startswith("call-")
        }

    async def quiet(self) -> None:
        """Remember how all is, once nothing is written any more."""
        self.versions = await self.listed()
        while True:
            await asyncio.sleep(5)
            now = await self.listed()
            if now == self.versions:
                break
            self.versions = now
        self.admits = sum(len(worker.admits) for worker in self.workers)

    async def touched(self) -> dict[str, int]:
        """What was done to sessions since `quiet`, those apart that were asked for meanwhile."""
        now = await self.listed()
        admits = sum(len(worker.admits) for worker in self.workers) - self.admits - self.placed
        return {
            "admits": admits,
            "terminates": sum(len(worker.terminates) for worker in self.workers),
            "objects_written": sum(now.get(uid) != version for uid, version in self.versions.items()),
            "calls_gone": self.sessions + self.extra - sum(len(worker.live) for worker in self.workers),
        }

    async def place(self, name: str) -> float:
        """Ask for one more call; returns seconds until it is Ready."""
        begun = time.monotonic()
        made = await self.ground.create(SESSION, name, SPEC)

        async def ready() -> bool:
            body: Any = await self.ground.store.get(SESSION, self.ground.namespace, name)
            return bool(body.get("status", {}).get("phase") == "Ready")

        await until(ready, f"{made['metadata']['name']} is Ready", LONG)
        self.placed += 1
        self.extra += 1
        return time.monotonic() - begun


async def apply_crds(store: KubeStore) -> None:
    for path in sorted(CRDS.glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        path_of = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = await store._request("POST", path_of, body=body)
        assert answer.status == 201, answer.body
    for plural in ("voicesessions", "voiceagents", "voiceworkerpools"):

        async def served(plural: str = plural) -> bool:
            return (await store._request("GET", f"/apis/parley.dev/v1alpha1/{plural}")).status == 200

        await until(served, f"{plural} are served")


async def fill(scene: Scene, operator: OperatorProcess) -> dict[str, Any]:
    """Have the operator place every session."""
    begun, spent = time.monotonic(), cpu(operator.pid)
    numbers = iter(range(scene.sessions))

    async def client() -> None:
        for number in numbers:
            await scene.ground.create(SESSION, f"call-{number}", SPEC)

    await asyncio.gather(*(client() for _ in range(16)))

    async def all_ready() -> bool:
        ready = await operator.metric("sessions", phase="Ready")
        say(f"  {ready:.0f} of {scene.sessions} ready")
        await asyncio.sleep(2)
        return ready >= scene.sessions

    await until(all_ready, "every session is Ready", LONG)
    seconds = time.monotonic() - begun
    return {
        "seconds": round(seconds, 1),
        "sessions_a_second": round(scene.sessions / seconds, 1),
        "operator_cpu_ms_a_session": round((cpu(operator.pid) - spent) * 1000 / scene.sessions, 2),
        **memory(operator.pid),
    }


async def watched(scene: Scene, operator: OperatorProcess, begun: float) -> dict[str, Any]:
    """Follow one that begins to lead at `begun`, or soon after."""
    found: dict[str, Any] = {}

    async def reached(what: str, check: Any) -> None:
        await until(check, what, LONG)
        found[what] = round(time.monotonic() - begun, 2)

    async def leads() -> bool:
        return await operator.metric("leading") == 1

    async def reconciled() -> bool:
        seen = await operator.metric("reconciles_total", kind=SESSION, outcome="done")
        return seen >= scene.sessions

    await asyncio.gather(
        reached("leads_after_s", leads),
        reached("all_reconciled_after_s", reconciled),
        reached("watches_after_s", operator.leads),
    )
    return found


async def restart(scene: Scene, first: OperatorProcess, second: OperatorProcess) -> dict[str, Any]:
    """The one and only operator is told to go, and another one started."""
    scene.placed = 0
    await first.end(signal.SIGTERM)
    begun = time.monotonic()
    await second.start()
    placing = asyncio.create_task(scene.place("after-restart"))
    found = await watched(scene, second, begun)
    found["next_placed_after_s"] = round(await placing, 2)
    found["cpu_seconds"] = round(cpu(second.pid), 2)
    await asyncio.sleep(10)
    return {**found, **memory(second.pid), "touched": await scene.touched()}


async def takeover(scene: Scene, first: OperatorProcess, second: OperatorProcess) -> dict[str, Any]:
    """The leader is killed while another stands by."""
    scene.placed = 0
    await second.start()

    async def able() -> bool:
        return (await second.ask("readyz"))[0] == 200

    await until(able, "the other stands by")
    standby = memory(second.pid)
    await first.end(signal.SIGKILL)
    begun = time.monotonic()
    placing = asyncio.create_task(scene.place("after-kill"))
    found = await watched(scene, second, begun)
    found["next_placed_after_s"] = round(await placing, 2)
    await asyncio.sleep(10)
    shown = {**found, **memory(second.pid), "standby_rss_mib": standby["rss_mib"]}
    return {**shown, "touched": await scene.touched()}


def floor(kubeconfig: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", FLOOR, str(kubeconfig), json.dumps(sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found: dict[str, Any] = json.loads(done.stdout)
    return {key: round(value, 2) for key, value in found.items()}


async def measure(server: ApiServer, folder: Path, sessions: int, workers: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(KubeStore(from_kubeconfig(server.kubeconfig)))
        await apply_crds(store)
        # The objects are not deleted: they go with the server.
        made = Ground(store, "restart")
        await made.post("/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        stack.push_async_callback(made.stop_workers)
        capacity = sessions // workers + 10
        first = await stack.enter_async_context(
            operator_process("operator-1", made.namespace, server.kubeconfig, folder, POD_NAME="", **PATIENT)
        )
        await until(first.leads, "the operator leads")
        await made.pool(sessionsPerWorker=capacity, replicas=workers)
        scene = Scene(made, await made.run_workers(workers, capacity=capacity), sessions, {})
        say(f"placing {sessions} sessions on {workers} workers")
        found: dict[str, Any] = {"placing": await fill(scene, first)}
        await scene.quiet()
        found["floor_list"] = floor(server.kubeconfig)
        others = []
        for name in ("operator-2", "operator-3"):
            other = OperatorProcess(name, made.namespace, server.kubeconfig, folder, POD_NAME="")
            stack.push_async_callback(_end, other)
            others.append(other)
        say("restarting the operator")
        found["restart"] = await restart(scene, first, others[0])
        await scene.quiet()
        say("killing the leader of two")
        found["takeover"] = await takeover(scene, others[0], others[1])
        return found


async def _end(process: OperatorProcess) -> None:
    if process.runs:
        await process.end()


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "operator_restart.json")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    with tempfile.TemporaryDirectory(prefix="parley-restart-") as name:
        folder = Path(name)
        with run_apiserver(folder) as server:
            found = asyncio.run(measure(server, folder, options.sessions, options.workers))
    result = {
        "case": "operator_restart",
        "sessions": options.sessions,
        "workers": options.workers,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[1], 1),
        **found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    untouched = all(not any(found[part]["touched"].values()) for part in ("restart", "takeover"))
    return 0 if untouched else 1


if __name__ == "__main__":
    sys.exit(main())
