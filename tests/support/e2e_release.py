"""An installed release of the chart for the end-to-end tests: installing, looking inside, removing.

Everything here blocks: asynchronous tests call it by `asyncio.to_thread`, so that calls keep flowing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster_fixture import Cluster, ClusterError, run, wait_for

CHART = Path(__file__).resolve().parents[2] / "charts" / "parley"
RELEASE = "parley-e2e"
IMAGES = ("operator", "worker", "nats", "localprovider")
CRDS = ("voicesessions.parley.dev", "voiceagents.parley.dev", "voiceworkerpools.parley.dev")
WORKERS = "parley.dev/pool"
MEDIA, ADMIN, OPERATOR_PORT = 50100, 9090, 8080
FINISHED = ("Completed", "Failed", "Cancelled")
SHARD = re.compile(r'shard="\w+",?')
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


@dataclass
class Release:
    """The chart, installed as `RELEASE` in `namespace` with trial NATS and local provider."""

    cluster: Cluster
    namespace: str
    nats_data: Path | None

    # Objects

    def apply(self, *manifests: Mapping[str, Any]) -> str:
        """`kubectl apply` of all manifests at once; raises ClusterError with the API server's words."""
        return self.cluster.apply(yaml.safe_dump_all(manifests), namespace=self.namespace)

    def get(self, *arguments: str) -> dict[str, Any]:
        return self.cluster.get(*arguments, namespace=self.namespace)

    def kubectl(self, *arguments: str, timeout: float = 60) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, timeout=timeout)

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        chosen = ["-l", selector] if selector else []
        return list(self.get(kind, *chosen)["items"])

    def session(self, name: str) -> dict[str, Any]:
        return self.get("voicesession", name)

    def wait_phase(self, name: str, *phases: str, timeout: float = 60) -> dict[str, Any]:
        """The session once it is in one of the phases; fails early when it ends otherwise."""
        seen: dict[str, Any] = {}

        def reached() -> dict[str, Any] | None:
            nonlocal seen
            seen = self.session(name)
            phase = seen.get("status", {}).get("phase")
            return seen if phase in phases or phase in FINISHED else None

        try:
            wait_for(reached, f"{name} in {phases}", timeout=timeout)
        finally:
            status = seen.get("status", {})
        assert status.get("phase") in phases, f"{name} is {json.dumps(status)}"
        return seen

    # Inside of pods

    def workers(self, pool: str) -> list[dict[str, Any]]:
        return self.items("pods", f"{WORKERS}={pool}")

    def wait_workers(self, pool: str, count: int = 1, timeout: float = 90) -> list[dict[str, Any]]:
        """The pool's workers once exactly `count` exist and all are Ready."""

        def ready() -> list[dict[str, Any]] | None:
            pods = [pod for pod in self.workers(pool) if "deletionTimestamp" not in pod["metadata"]]
            return pods if len(pods) == count and all(map(is_ready, pods)) else None

        return wait_for(ready, f"{count} ready workers of pool {pool}", timeout=timeout)

    def operator(self) -> str:
        """Name of the pod of the operator that leads, once one does."""

        def leader() -> str | None:
            pods = self.items("pods", "app.kubernetes.io/component=operator,parley.dev/leader=true")
            names = [p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]]
            return str(names[0]) if len(names) == 1 else None

        return wait_for(leader, "an operator leads", timeout=30)

    def fetch(self, pod: str, port: int, path: str) -> str:
        """A page of a pod's web server, through the API server."""
        return self.cluster.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy{path}"
        )

    def metrics(self, pod: str, port: int) -> dict[str, float]:
        """Every sample on /metrics as `name{labels}` to value, checked by promtool."""
        text = self.fetch(pod, port, "/metrics")
        check_metrics(text)
        return samples(text)

    def everything_said(self) -> str:
        """Logs of every container, events and all objects of our kinds: where a secret must not be."""
        parts = [
            self.kubectl("get", "voicesessions,voiceagents,voiceworkerpools,events,configmaps", "-o", "json")
        ]
        for pod in self.items("pods"):
            for extra in ([], ["--previous"]):
                with contextlib.suppress(ClusterError):
                    arguments = ["logs", pod["metadata"]["name"], "--all-containers", *extra]
                    parts.append(self.kubectl(*arguments, timeout=120))
        return "\n".join(parts)

    def kill_container(self, pod: Mapping[str, Any]) -> None:
        """SIGKILL to every process of the pod's containers, found by the pod's control group."""
        killed = []
        # The supervisor is older than its shards: it must not live to tell of them.
        for pid in sorted(processes_of(pod["metadata"]["uid"])):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        assert killed, f"no process of pod {pod['metadata']['name']} is visible on this host"

    @contextlib.contextmanager
    def address(self, pod: str, port: int) -> Iterator[str]:
        """host:port at which this process reaches a pod: its own address, or a forwarded one."""
        if self.cluster.own:
            yield f"{self.get('pod', pod)['status']['podIP']}:{port}"
            return
        with self.cluster.port_forward(f"pod/{pod}", port, namespace=self.namespace) as local:
            yield f"127.0.0.1:{local}"

    @contextlib.contextmanager
    def nats_url(self) -> Iterator[str]:
        with self.address(f"{RELEASE}-nats-0", 4222) as address:
            yield f"nats://{address}"

    # The whole

    @property
    def provider_url(self) -> str:
        return f"ws://{RELEASE}-localprovider.{self.namespace}.svc:8765/v1/realtime"

    def agent(self, name: str = "echo", **provider: Any) -> dict[str, Any]:
        """A VoiceAgent of the trial provider: says back what it understood."""
        return resource("VoiceAgent", name, agent_spec(provider or {"url": self.provider_url}))

    def upgrade(self, *settings: str) -> None:
        """`helm upgrade` with one or more values changed; returns when the operator is ready again."""
        options = [part for setting in settings for part in ("--set", setting)]
        self.cluster.helm(
            "upgrade", RELEASE, str(CHART), "-n", self.namespace, "--reuse-values", "--wait",
            "--timeout", "120s", *options,
        )  # fmt: skip

    def uninstall(self) -> str:
        return self.cluster.helm("uninstall", RELEASE, "-n", self.namespace, "--wait", "--timeout", "120s")

    def remove(self) -> None:
        """Whatever a failed test left: the release, the definitions, the storage."""
        with contextlib.suppress(ClusterError):
            self.uninstall()
        with contextlib.suppress(ClusterError):
            self.cluster.kubectl("delete", "crd", *CRDS, "--ignore-not-found", timeout=120)
        if self.nats_data is not None:
            with contextlib.suppress(ClusterError):
                self.cluster.kubectl(
                    "delete", "pv", self.nats_data.name, "--ignore-not-found", "--wait=false"
                )
            shutil.rmtree(self.nats_data, ignore_errors=True)


def install(cluster: Cluster, namespace: str) -> Release:
    """`helm install` with everything for a trial; returns when the default pool's worker is Ready."""
    remove_leftovers(cluster)
    release = Release(cluster, namespace, None)
    values = values_for(cluster)
    if cluster.own:
        release.nats_data = host_volume(cluster, namespace)
        values["nats"]["storage"] = {"existingClaim": "nats-data", "size": "256Mi"}
    else:
        values["nats"]["storage"] = {"createClaim": True, "size": "256Mi"}
    try:
        cluster.helm(
            "install", RELEASE, str(CHART), "-n", namespace, "--wait", "--timeout", "240s", "--values", "-",
            text=yaml.safe_dump(values), timeout=300,
        )  # fmt: skip
        release.wait_workers("default")
        release.apply(release.agent())
    except BaseException as error:
        error.add_note(cluster.describe())
        release.remove()
        raise
    return release


def values_for(cluster: Cluster) -> dict[str, Any]:
    """The chart's values for a small machine, with the images that are in the cluster."""
    values: dict[str, Any] = {"nats": {"enabled": True}, "localProvider": {"enabled": True}}
    keys = {"operator": "operator", "worker": "worker", "nats": "nats", "localprovider": "localProvider"}
    for image, key in keys.items():
        repository, _, tag = cluster.images[image].rpartition(":")
        values.setdefault(key, {})["image"] = {"repository": repository, "tag": tag}
    values["defaultPool"] = {
        "sessionsPerWorker": 10,
        "drainTimeout": "5s",
        "terminationGracePeriodSeconds": 20,
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
    }
    if cluster.own and len(nodes := cluster.get("nodes")["items"]) > 1:
        # On the control plane's node: what the tests lean on is not lost with the node that they kill.
        first = min(node["metadata"]["name"] for node in nodes)
        for part in ("nats", "localProvider"):
            values[part]["nodeSelector"] = {"kubernetes.io/hostname": first}
    values["localProvider"]["resources"] = {
        "requests": {"cpu": "50m", "memory": "256Mi"},
        "limits": {"memory": "2Gi"},
    }
    return values


def host_volume(cluster: Cluster, namespace: str) -> Path:
    """A folder of this host as a claim `nats-data`: the own cluster's node shares our files."""
    path = Path("/var/tmp") / f"parley-e2e-{secrets.token_hex(4)}"
    path.mkdir()
    os.chown(path, 10001, 10001)
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {
        **common,
        "capacity": {"storage": "256Mi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(path), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": "nats-data"},
    }
    claim = {**common, "volumeName": path.name, "resources": {"requests": {"storage": "256Mi"}}}
    manifests = [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": path.name}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "nats-data"},
            "spec": claim,
        },
    ]
    cluster.apply(yaml.safe_dump_all(manifests), namespace=namespace)
    return path


def remove_leftovers(cluster: Cluster) -> None:
    """A run that was killed leaves a release and its definitions: only ours, known by the release's name."""
    for found in json.loads(cluster.helm("list", "-A", "-o", "json")):
        if found["name"] == RELEASE:
            with contextlib.suppress(ClusterError):  # its namespace may be going away
                cluster.helm("uninstall", RELEASE, "-n", found["namespace"], "--wait", "--timeout", "60s")
    for crd in CRDS:
        with contextlib.suppress(ClusterError):
            notes = cluster.get("crd", crd)["metadata"].get("annotations", {})
            if notes.get("meta.helm.sh/release-name") == RELEASE:
                cluster.kubectl("delete", "crd", crd, timeout=120)


# Manifests


def resource(kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": dict(spec),
    }


def agent_spec(provider: Mapping[str, Any]) -> dict[str, Any]:
    heard = {
        "transcription": {"model": "whisper-1", "language": "en"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 900},
    }
    return {
        "provider": {"type": "custom", "apiVersion": "ga", "model": "gpt-realtime", **provider},
        "instructions": "Say back what the caller says.",
        "voice": "slt",
        "session": {"audio": {"input": heard}},
    }


def session(name: str, **spec: Any) -> dict[str, Any]:
    """A VoiceSession of the agent `echo`, with short limits; `spec` replaces fields."""
    limits = {"maxDuration": "5m", "attachTimeout": "90s", "reattachTimeout": "5s", "idleTimeout": "2m"}
    return resource("VoiceSession", name, {"agentRef": {"name": "echo"}, "limits": limits, **spec})


def pool(release: Release, name: str, **spec: Any) -> dict[str, Any]:
    """A VoiceWorkerPool like the default one, with fields replaced."""
    given = release.get("voiceworkerpool", "default")["spec"]
    return resource("VoiceWorkerPool", name, {**given, **spec})


# Small parts


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def condition(session: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = [c for c in session.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}


def processes_of(pod_uid: str) -> list[int]:
    """Processes of a pod's containers that this host sees, its sandbox apart."""
    spellings = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            groups = (entry / "cgroup").read_text()
            sandbox = (entry / "comm").read_text().strip() == "pause"
            if not sandbox and any(spelling in groups for spelling in spellings):
                found.append(int(entry.name))
    return found


def samples(text: str) -> dict[str, float]:
    """The samples of a text exposition as `name{labels}` to value, those of shards added up."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := SAMPLE.match(line):
            name, labels, value = match.groups()
            labels = SHARD.sub("", labels or "")
            series = f"{name}{{{labels}}}" if labels else name
            found[series] = found.get(series, 0.0) + float(value)
    return found


def check_metrics(text: str) -> None:
    """`promtool check metrics`: the exposition parses and follows the naming rules."""
    from cluster_fixture import _program

    run([_program("promtool"), "check", "metrics"], text=text)


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What changed between two scrapes."""
    return {
        name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)
    }


def seconds_since(start: float) -> float:
    return time.monotonic() - start
