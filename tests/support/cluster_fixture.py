"""The Kubernetes cluster of the end-to-end tests, and the few verbs that they speak to it with.

Without KUBECONFIG this checkout's own cluster is booted (``tests/support/cluster``), our images are built
and imported. With KUBECONFIG that cluster is used: a kind cluster gets the images by ``kind load``, any other
from the registry that PARLEY_TEST_REGISTRY names (host/path, pushed to with buildah). ``why_not`` says why
neither is possible.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

SCRIPTS = Path(__file__).parent / "cluster"
IMAGES = ("operator", "worker", "nats")
PROGRAMS = ("buildah", "mmdebstrap")
NODES = os.environ.get("NODES", "2")
"""How many nodes the own cluster has: workers are drained, and nodes lost, only where there is another."""
NODE_PROGRAMS = ("runc", "ip", "iptables", "conntrack", "ethtool", "socat", "openssl", "nsenter")
T = TypeVar("T")


class ClusterError(Exception):
    """A command against the cluster failed; the text holds the command and what it said."""


def run(
    command: Sequence[str | Path],
    *,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    show: bool = False,
) -> str:
    """Run a command and return its standard output; with ``show`` its standard error goes to the terminal.

    Raises ClusterError when it fails or is not done after ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            input=text,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            stdin=None if text is not None else subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"not done after {timeout:g} s: {' '.join(map(str, command))}") from error
    if done.returncode:
        raise ClusterError(
            f"exit {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}{done.stderr or ''}"
        )
    return done.stdout


def wait_for(probe: Callable[[], T | None], what: str, *, timeout: float = 30, every: float = 0.2) -> T:
    """Call ``probe`` until it returns something true, and return that.

    A probe that raises ClusterError, OSError or AssertionError is tried again. AssertionError after
    ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    last: BaseException | None = None
    while True:
        try:
            if value := probe():
                return value
        except (ClusterError, OSError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {timeout:g} s: {what}" + (f"; last: {last}" if last else "")
            ) from last
        time.sleep(every)


@dataclass(frozen=True)
class Cluster:
    """A cluster that our images are in.

    ``images`` maps operator, worker, localprovider, nats to references that a pod can name; ``own`` says
    that it is this checkout's own cluster, whose pod and node addresses this host reaches; ``started`` that
    this process booted it.
    """

    kubeconfig: Path
    images: dict[str, str]
    own: bool
    started: bool = False
    env: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        path = f"{_bin()}{os.pathsep}{os.environ.get('PATH', '')}"
        object.__setattr__(self, "env", {"KUBECONFIG": str(self.kubeconfig), "PATH": path})

    def kubectl(self, *arguments: str, text: str | None = None, timeout: float = 60) -> str:
        """Run kubectl; returns its output, raises ClusterError with what it said."""
        return run([_program("kubectl"), *arguments], text=text, env=self.env, timeout=timeout)

    def helm(self, *arguments: str, text: str | None = None, timeout: float = 180) -> str:
        """Run helm; returns its output, raises ClusterError with what it said."""
        return run([_program("helm"), *arguments], text=text, env=self.env, timeout=timeout)

    def apply(self, manifest: str, *, namespace: str = "default") -> str:
        """``kubectl apply`` of YAML or JSON text."""
        return self.kubectl("-n", namespace, "apply", "-f", "-", text=manifest)

    def get(self, *arguments: str, namespace: str | None = None) -> dict[str, Any]:
        """``kubectl get ... -o json``, parsed."""
        scope = ["-n", namespace] if namespace else []
        found: dict[str, Any] = json.loads(self.kubectl(*scope, "get", *arguments, "-o", "json"))
        return found

    def secret(self, name: str, *, namespace: str) -> dict[str, str]:
        """The decoded text entries of a Secret."""
        data = self.get("secret", name, namespace=namespace).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def wait_ready(self, pod: str, *, namespace: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until a pod is Ready; returns the pod."""
        limit = f"--timeout={timeout:g}s"
        self.kubectl(
            "-n", namespace, "wait", "--for=condition=Ready", f"pod/{pod}", limit, timeout=timeout + 10
        )
        return self.get("pod", pod, namespace=namespace)

    @cached_property
    def node_addresses(self) -> list[str]:
        """InternalIP of each node: where a HostPort is reached."""
        nodes = self.get("nodes")["items"]
        return [a["address"] for n in nodes for a in n["status"]["addresses"] if a["type"] == "InternalIP"]

    @contextlib.contextmanager
    def namespace(self, prefix: str = "e2e") -> Iterator[str]:
        """A namespace of a random name, deleted at the end (PARLEY_KEEP_NAMESPACES=1 keeps it)."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        self.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            if not os.environ.get("PARLEY_KEEP_NAMESPACES"):
                self.kubectl("delete", "namespace", name, "--wait=false")

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int, *, namespace: str) -> Iterator[int]:
        """Forward a free local port to ``port`` of ``target`` (pod/x, service/x); yields the local port."""
        command = [_program("kubectl"), "-n", namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(
            command,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                match = re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
                if match is None:
                    process.kill()
                    raise ClusterError(f"{' '.join(command)}: {line}{process.stdout.read()}")
                yield int(match[1])
            finally:
                process.kill()

    def describe(self, *, lines: int = 60) -> str:
        """Pods, recent events and the last log lines of every container, for a failure's report."""
        parts = []
        for arguments in (
            ["get", "pods", "-A", "-o", "wide"],
            ["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ):
            with contextlib.suppress(ClusterError):
                parts.append("\n".join(self.kubectl(*arguments).splitlines()[-lines:]))
        with contextlib.suppress(ClusterError):
            for pod in self.get("pods", "-A")["items"]:
                name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
                for extra in ([], ["--previous"]):
                    with contextlib.suppress(ClusterError):
                        options = ["--all-containers", f"--tail={lines}", *extra]
                        text = self.kubectl("-n", namespace, "logs", name, *options)
                        parts.append(f"--- logs {namespace}/{name} {' '.join(extra)}\n{text}")
        return "\n\n".join(parts)

    def fault(self, *arguments: str, timeout: float = 120) -> None:
        """Break or mend a part of the own cluster: `cluster/fault.sh`, which lists the verbs."""
        assert self.own, "another cluster's nodes are not ours to break"
        run(["bash", SCRIPTS / "fault.sh", *arguments], timeout=timeout)

    def stop(self) -> None:
        """End the cluster if this process booted it, unless PARLEY_KEEP_CLUSTER is set."""
        if self.started and not os.environ.get("PARLEY_KEEP_CLUSTER"):
            run(["bash", SCRIPTS / "down.sh"], timeout=120)


def ensure_cluster(images: Sequence[str] = IMAGES) -> Cluster:
    """A running cluster with these images in it: built, booted and imported as far as still to be done.

    Long the first time (progress goes to standard error). Raises ClusterError when it cannot be had.
    """
    if reason := why_not():
        raise ClusterError(reason)
    if given := _given_kubeconfig():
        if not all(map(shutil.which, PROGRAMS)):
            _script("packages.sh", "cluster")
        if tools := [tool for tool in ("kubectl", "helm") if not shutil.which(tool)]:
            _script("build.sh", *tools)
        return Cluster(given, _give_images(images), own=False)
    _script("packages.sh", "cluster")
    _script("build.sh")
    running = (_state() / "ready").exists()
    with ThreadPoolExecutor() as pool:
        booting = pool.submit(_script, "up.sh", env={"NODES": NODES})
        built = _references(_script("images.sh", "build", *images))
        kubeconfig = booting.result().strip().splitlines()[-1].removeprefix("KUBECONFIG=")
    _script("images.sh", "import", *(archive for _, archive in built.values()))
    return Cluster(
        Path(kubeconfig), {name: ref for name, (ref, _) in built.items()}, own=True, started=not running
    )


def why_not() -> str | None:
    """Why no cluster can be had here, for the person who wants one; None if nothing speaks against it."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return (
            "building images and booting a node need root on Linux: run the tests as root on such a machine"
        )
    debian = shutil.which("dpkg-query") is not None
    missing = [p for p in PROGRAMS if not shutil.which(p)]
    if given := _given_kubeconfig():
        if missing and not debian:
            return f"to build images, install {' '.join(missing)}"
        return _why_not_given(given)
    missing += [p for p in NODE_PROGRAMS if not shutil.which(p)]
    if missing and not debian:
        return f"to boot a node, install {' '.join(missing)}; or set KUBECONFIG to use another cluster"
    go = shutil.which("go") or Path("/usr/local/go/bin/go").exists()
    if not go and not all(
        (_bin() / tool).exists() for tool in ("kubelet", "kube-apiserver", "etcd", "containerd")
    ):
        return "the node's programs are built with Go 1.26 or newer, which is not on PATH"
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode:
        return (
            "this machine refuses to make network and mount namespaces; set KUBECONFIG to use another cluster"
        )
    return None


def _given_kubeconfig() -> Path | None:
    """What KUBECONFIG names, unless that is this checkout's own cluster."""
    given = os.environ.get("KUBECONFIG")
    return Path(given) if given and Path(given) != _state() / "admin.kubeconfig" else None


def _why_not_given(kubeconfig: Path) -> str | None:
    context = _current_context()
    if context is None:
        return f"KUBECONFIG={kubeconfig} names no file with a current-context: correct or unset it"
    if context.startswith("kind-"):
        return None if shutil.which("kind") else "KUBECONFIG names a kind cluster, and kind is not on PATH"
    if not os.environ.get("PARLEY_TEST_REGISTRY"):
        return (
            "KUBECONFIG names a cluster that is not kind: set PARLEY_TEST_REGISTRY to a registry that it "
            "pulls from and you may push to (host/path), or unset KUBECONFIG to boot a cluster here"
        )
    return None


def _current_context() -> str | None:
    """The current context of the first file of KUBECONFIG that names one."""
    for name in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        with contextlib.suppress(OSError, yaml.YAMLError):
            content = yaml.safe_load(Path(name).read_text())
            if isinstance(content, dict) and (context := content.get("current-context")):
                return str(context)
    return None


def _give_images(images: Sequence[str]) -> dict[str, str]:
    context = _current_context() or ""
    if not context.startswith("kind-"):
        pushed = _script("images.sh", "push", os.environ["PARLEY_TEST_REGISTRY"], *images)
        return {words[0]: words[1] for words in map(str.split, pushed.splitlines())}
    built = _references(_script("images.sh", "build", *images))
    for _, archive in built.values():
        cluster = context.removeprefix("kind-")
        run(["kind", "load", "image-archive", archive, "--name", cluster], timeout=300, show=True)
    return {name: ref for name, (ref, _) in built.items()}


def _references(output: str) -> dict[str, tuple[str, str]]:
    return {name: (ref, archive) for name, ref, archive in map(str.split, output.splitlines())}


def _script(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    return run(["bash", SCRIPTS / name, *arguments], env=env, timeout=3600, show=True)


def _cache() -> Path:
    return Path(os.environ.get("PARLEY_CACHE") or Path.home() / ".cache" / "parley")


def _bin() -> Path:
    return _cache() / "bin"


def _program(name: str) -> str:
    pinned = _bin() / name
    return str(pinned) if pinned.exists() else name


def _state() -> Path:
    return Path(run(["bash", "-c", f'. "{SCRIPTS}/lib.sh"; echo "$STATE"']).strip())
