"""The ground of the chaos suite: a pool, a provider that never stops talking, and sessions that talk on it.

Everything that blocks runs in threads, so that calls keep flowing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import chaos_provider
from chaos_callers import Talker
from chaos_table import Row
from cluster_fixture import ClusterError, wait_for
from e2e_release import ADMIN, FINISHED, Release, is_ready, resource
from parley_client import KubernetesResolver, resolve_cluster

POOL = "chaos"
PROVIDER = "chaos-provider"
PORT = 8765
CASE_LABEL = "parley.dev/chaos"
DRAIN = "150s"
PER_WORKER = 12
REFUSALS = frozenset({"NoCapacity", "QueueTimeout", "QuotaExceeded"})
LIVE = ("Ready", "Active", "Recovering")
BUILD = Path(__file__).resolve().parents[2] / "build" / "chaos"
T = TypeVar("T")


async def off(work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Run what blocks in a thread."""
    return await asyncio.to_thread(work, *arguments, **named)


@dataclass
class Ground:
    """An installed release with the suite's provider and pool in it."""

    release: Release
    sids: int = 0
    policy: str = "Resume"
    spreads: bool = True

    @property
    def own(self) -> bool:
        return self.release.cluster.own

    def prepare(self) -> None:
        """Make provider and pool; returns when both are ready."""
        source = Path(chaos_provider.__file__).read_text()
        image = self.release.cluster.images["localprovider"]
        self.release.apply(*provider_manifests(image, source, self.first_node()))
        self.release.apply(agent(self.release))
        self.look()
        self.apply_pool()
        self.release.kubectl("wait", "--for=condition=Ready", f"pod/{PROVIDER}", "--timeout=90s", timeout=100)
        self.release.wait_workers(POOL, 2)
        self.spread()

    def look(self) -> None:
        """What the installed definitions know: those of an earlier commit know neither Resume nor Spread."""
        texts = [
            json.dumps(self.release.cluster.get("crd", f"{kind}.parley.dev"))
            for kind in ("voicesessions", "voiceworkerpools")
        ]
        self.policy = "Resume" if '"Resume"' in texts[0] else "Fail"
        self.spreads = '"Spread"' in texts[1]

    def apply_pool(self, name: str = POOL, **spec: Any) -> None:
        """The suite's pool as every case expects it, or another like it."""
        given = self.release.get("voiceworkerpool", "default")["spec"]
        if self.spreads:
            spec.setdefault("placement", {"policy": "Spread"})
        self.release.apply(resource("VoiceWorkerPool", name, pool_spec(given, self.release, name, **spec)))

    def first_node(self) -> str:
        """Where the provider stays: on the own cluster that of the control plane, which is never lost."""
        return sorted(n["metadata"]["name"] for n in self.release.cluster.get("nodes")["items"])[0]

    def nodes(self) -> list[str]:
        """Nodes that pods may be put on."""
        items = self.release.cluster.get("nodes")["items"]
        return [n["metadata"]["name"] for n in items if not n["spec"].get("unschedulable") and is_ready(n)]

    def workers(self, pool: str = POOL) -> list[dict[str, Any]]:
        """Pods of the pool that are not going away."""
        return [p for p in self.release.workers(pool) if "deletionTimestamp" not in p["metadata"]]

    def leader(self) -> dict[str, Any]:
        """The pod of the operator that leads."""
        pods = self.release.items("pods", "app.kubernetes.io/component=operator")
        ready = [p for p in pods if "deletionTimestamp" not in p["metadata"] and is_ready(p)]
        leading = [p for p in ready if p["metadata"]["labels"].get("parley.dev/leader") == "true"]
        assert ready, "no operator is ready"
        return (leading or ready)[0]

    def sessions(self, case: str) -> dict[str, dict[str, Any]]:
        """The case's VoiceSessions by name."""
        found = self.release.items("voicesessions", f"{CASE_LABEL}={case}")
        return {each["metadata"]["name"]: each for each in found}

    def held(self, pool: str = POOL) -> int:
        """Live sessions that the pool's workers say they have."""
        count = 0.0
        for pod in self.workers(pool):
            samples = self.release.metrics(pod["metadata"]["name"], ADMIN)
            count += sum(v for k, v in samples.items() if k.startswith("parley_worker_sessions{"))
        return round(count)

    def new_session(
        self, name: str, case: str, *, pool: str = POOL, **spec: Any
    ) -> tuple[int, dict[str, Any]]:
        """A call number and the manifest of its session."""
        self.sids += 1
        limits = {
            "maxDuration": "30m", "attachTimeout": "90s", "reattachTimeout": "60s", "idleTimeout": "10m",
            "queueTimeout": "30s",
        }  # fmt: skip
        body = {
            "agentRef": {"name": "chaos"},
            "poolRef": {"name": pool},
            "session": {"instructions": f"Talk on. sid={self.sids}"},
            "recovery": {"policy": self.policy},
            "limits": limits | spec.pop("limits", {}),
            **spec,
        }
        return self.sids, resource("VoiceSession", name, body, labels={CASE_LABEL: case})

    def clean(self, case: str) -> None:
        """Delete the case's sessions and wait until workers hold nothing."""
        self.release.kubectl("delete", "voicesessions", "-l", f"{CASE_LABEL}={case}", "--wait=false")
        wait_for(lambda: not self.sessions(case), f"the end of {case}'s sessions", timeout=60)

    def keep(self, case: str) -> None:
        """Write down what the cluster looks like: pods, events, the ends of logs, all sessions."""
        BUILD.mkdir(parents=True, exist_ok=True)
        told = [self.release.cluster.describe(lines=400)]
        with contextlib.suppress(ClusterError):
            told.append(self.release.kubectl("get", "voicesessions,voiceworkerpools,leases", "-o", "yaml"))
        (BUILD / f"{case}.log").write_text("\n".join(told))

    def restore(self) -> None:
        """After a case, however it ended: everything runs, the pool is as it was."""
        if self.own:
            self.release.cluster.fault("mend")
        wait_for(lambda: self.release.cluster.get("nodes"), "the API server", timeout=60)
        for node in self.release.cluster.get("nodes")["items"]:
            if node["spec"].get("unschedulable"):
                self.release.cluster.kubectl("uncordon", node["metadata"]["name"])
        self.look()
        self.apply_pool()
        self.release.wait_workers(POOL, 2, timeout=180)
        self.spread()
        wait_for(lambda: self.leader(), "an operator", timeout=60)

    def spread(self) -> None:
        """One worker on each node, where there are two: a case may have left both on one."""
        if len(self.nodes()) < 2:
            return
        for _ in range(4):
            on = [p["spec"].get("nodeName") for p in self.workers()]
            if len(set(on)) > 1:
                return
            self.release.kubectl("delete", "pod", self.workers()[0]["metadata"]["name"], "--wait=false")
            self.release.wait_workers(POOL, 2, timeout=120)


@dataclass
class Party:
    """Callers of one case, and what became of their sessions."""

    ground: Ground
    row: Row
    talkers: list[Talker] = field(default_factory=list)
    expected: set[str] = field(default_factory=lambda: {"CallerHangup"})
    """End reasons that the case itself brings about."""

    async def join(self, count: int, *, prefix: str = "", pool: str = POOL, **spec: Any) -> list[Talker]:
        """So many sessions, applied at once, each with a caller that is attached and has heard its agent."""
        case, release = self.row.case, self.ground.release
        made: list[tuple[str, int]] = []
        manifests = []
        for number in range(count):
            name = f"{case}-{prefix}{len(self.talkers) + number}"
            sid, manifest = self.ground.new_session(name, case, pool=pool, **spec)
            made.append((name, sid))
            manifests.append(manifest)
        await off(release.apply, *manifests)
        attached = await asyncio.gather(*(self._attach(*each) for each in made), return_exceptions=True)
        talkers = [each for each in attached if isinstance(each, Talker)]
        self.talkers += talkers
        for failure in attached:
            if isinstance(failure, BaseException):
                raise failure
        await self.progress(talkers, turns=2, within=30)
        for talker in talkers:
            talker.ear.watch()
        return talkers

    async def _attach(self, name: str, sid: int) -> Talker:
        release = self.ground.release
        kubeconfig = release.cluster.kubeconfig
        target = await resolve_cluster(name, namespace=release.namespace, kubeconfig=kubeconfig, wait=40)
        resolver = KubernetesResolver(name, release.namespace, kubeconfig)
        talker = Talker(name, sid, target, resolver)
        await talker.start()
        return talker

    async def progress(
        self, talkers: Iterable[Talker] | None = None, *, turns: int = 2, within: float = 30
    ) -> bool:
        """Whether every caller that is still there hears so many more turns within the time."""
        chosen = list(self.talkers if talkers is None else talkers)
        before = {talker.sid: len(talker.turns.told) for talker in chosen}
        deadline = time.monotonic() + within

        def waiting() -> list[Talker]:
            return [
                t for t in chosen
                if t.ended is None and not t.failure and len(t.turns.told) < before[t.sid] + turns
            ]  # fmt: skip

        while waiting():
            if time.monotonic() > deadline:
                names = ", ".join(t.name for t in waiting())
                self.row.problems.append(f"no conversation within {within:g} s: {names}")
                return False
            await asyncio.sleep(0.1)
        return True

    async def talk(self, seconds: float) -> None:
        """Let them talk."""
        await asyncio.sleep(seconds)

    async def finish(self) -> None:
        """Everybody hangs up; fills the row."""
        row = self.row
        await asyncio.gather(*(talker.hang_up() for talker in self.talkers))
        sessions = await off(self._settled)
        by_name = {talker.name: talker for talker in self.talkers}
        row.sessions = max(row.sessions, len(self.talkers))
        for talker in self.talkers:
            status = sessions.get(talker.name, {}).get("status", {})
            ended = talker.ended.reason if talker.ended else ""
            attempt = int(status.get("attempt") or 1)
            row.resumed += bool(talker.resumes) or attempt > 1
            row.moved += attempt > 1
            row.turns_lost += talker.turns.lost
            row.turns_doubled += talker.turns.doubled
            if talker.turns.lost or talker.turns.doubled:
                print(f"{talker.name}: turns {talker.turns.told}, cut in {talker.turns.cut}", flush=True)
            row.longest_silence_ms = max(row.longest_silence_ms, round(talker.excess * 1000))
            wrong = talker.failure or (ended if ended not in self.expected else "")
            reason = str(status.get("endReason", ""))
            if wrong or (reason and reason not in self.expected):
                row.cut += 1
                row.problems.append(
                    f"{talker.name}: {wrong or 'hung up'}; the object says {reason or status.get('phase')}"
                )
            if talker.ear.strange > 5 or talker.turns.misheard:
                row.problems.append(
                    f"{talker.name}: {talker.ear.strange} pieces of another voice, "
                    f"{talker.turns.misheard} turns of another caller"
                )
        row.lost += self._lost(sessions, by_name)

    def _settled(self) -> dict[str, dict[str, Any]]:
        """The objects once all are over, or as they are after a while."""
        case = self.row.case

        def over() -> dict[str, dict[str, Any]] | None:
            found = self.ground.sessions(case)
            done = all(s.get("status", {}).get("phase") in FINISHED for s in found.values())
            return found or {"": {}} if done else None

        with contextlib.suppress(AssertionError):
            return {name: body for name, body in wait_for(over, "all ends", timeout=30).items() if name}
        return self.ground.sessions(case)

    def _lost(self, sessions: Mapping[str, Mapping[str, Any]], talkers: Mapping[str, Talker]) -> int:
        """Objects that are over without a reason, or not over though nobody is there any more."""
        lost = 0
        for name, body in sessions.items():
            status = body.get("status", {})
            phase, reason = status.get("phase"), status.get("endReason")
            if (phase in FINISHED and reason) or name not in talkers:
                continue
            lost += 1
            self.row.problems.append(f"{name}: phase {phase}, endReason {reason}: {json.dumps(status)[:600]}")
        return lost


@contextlib.asynccontextmanager
async def talking(ground: Ground, row: Row, count: int, **spec: Any) -> AsyncIterator[Party]:
    """A party that talks while the block runs; afterwards the row is filled and the sessions are deleted."""
    party = Party(ground, row)
    try:
        await party.join(count, **spec)
        yield party
    except Exception:
        await off(ground.keep, row.case)  # while it is as it was
        raise
    finally:
        await party.finish()
        with contextlib.suppress(ClusterError, AssertionError):
            await off(ground.clean, row.case)


def refusals(sessions: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """End reasons of sessions that never got a place."""
    reasons = (str(s.get("status", {}).get("endReason", "")) for s in sessions)
    return Counter(reason for reason in reasons if reason in REFUSALS)


# Manifests


def agent(release: Release) -> dict[str, Any]:
    """The agent of every session; its provider is the suite's."""
    heard = {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "server_vad"}}
    spec = {
        "provider": {
            "type": "custom", "apiVersion": "ga", "model": "gpt-realtime",
            "url": f"ws://{PROVIDER}.{release.namespace}.svc:{PORT}/v1/realtime",
        },
        "instructions": "Talk on.",
        "session": {"audio": {"input": heard}},
    }  # fmt: skip
    return resource("VoiceAgent", "chaos", spec)


def pool_spec(given: Mapping[str, Any], release: Release, name: str, **changes: Any) -> dict[str, Any]:
    """Two workers of two shards, on different nodes where there are several."""
    template = dict(given["podTemplate"])
    apart = {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {"parley.dev/pool": name}},
    }  # fmt: skip
    pod = {**template.get("spec", {}), "topologySpreadConstraints": [apart]}
    pod["terminationGracePeriodSeconds"] = 180
    host = f"{PROVIDER}.{release.namespace}.svc:{PORT}"
    return {
        **{k: v for k, v in given.items() if k != "autoscaling"},
        "replicas": 2,
        "sessionsPerWorker": PER_WORKER,
        "shards": 2,
        "provider": {"allowedHosts": [host]},
        "updateStrategy": {**given.get("updateStrategy", {}), "drainTimeout": DRAIN},
        "podTemplate": {**template, "spec": pod},
        **changes,
    }


def provider_manifests(image: str, source: str, node: str) -> list[dict[str, Any]]:
    """The suite's provider: its source in a ConfigMap, run by the Python of the local provider's image."""
    labels = {"app.kubernetes.io/name": PROVIDER}
    container = {
        "name": "provider",
        "image": image,
        "command": ["/opt/parley/bin/python", "-u", "/etc/chaos/provider.py", str(PORT)],
        "ports": [{"name": "realtime", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": "realtime"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "source", "mountPath": "/etc/chaos", "readOnly": True}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "source", "configMap": {"name": PROVIDER}}],
    }  # fmt: skip
    way = {
        "podSelector": {"matchExpressions": [{"key": "parley.dev/pool", "operator": "Exists"}]},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": PORT}], "to": [{"podSelector": {"matchLabels": labels}}]}],
    }
    ports = [{"port": PORT, "targetPort": "realtime"}]
    return [
        _object("v1", "ConfigMap", data={"provider.py": source}),
        _object("v1", "Service", spec={"selector": labels, "ports": ports}),
        {**_object("v1", "Pod", spec=pod), "metadata": {"name": PROVIDER, "labels": labels}},
        _object("networking.k8s.io/v1", "NetworkPolicy", spec=way),
    ]


def _object(version: str, kind: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": PROVIDER}, **rest}
