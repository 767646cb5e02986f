"""A real kube-apiserver on a real etcd, on loopback, without kubelet, controllers or scheduler."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).parents[2]
TOKEN = "test-admin-token"
# A user without any rights but those that a test binds to it.
PLAIN_USER, PLAIN_TOKEN = "plain", "test-plain-token"
CRDS = ROOT / "charts" / "parley" / "files" / "crds"


@dataclass(frozen=True)
class ApiServer:
    url: str
    kubeconfig: Path
    plain_kubeconfig: Path


def find_binary(name: str) -> str | None:
    """From the project's caches, else from PATH."""
    home = Path.home() / ".cache"
    own = Path(os.environ.get("PARLEY_CACHE", home / "parley")) / "bin" / name
    for path in (own, home / "voice-cluster" / "bin" / name):
        if path.exists():
            return str(path)
    return shutil.which(name)


def missing_binaries() -> list[str]:
    return [name for name in ("etcd", "kube-apiserver") if find_binary(name) is None]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def _process(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    binary = find_binary(name)
    assert binary is not None
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log, cwd=folder)
        try:
            yield process
        finally:
            # SIGKILL: an API server that lost its etcd ignores SIGTERM, and nothing here is kept.
            process.kill()
            process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError):
            checked = context if url.startswith("https") else None
            with urllib.request.urlopen(request, timeout=2, context=checked) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.2)
    raise RuntimeError(f"{url} is not ready:\n{log.read_text(errors='replace')[-2000:]}")


def _write_keys(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    (folder / "sa.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(public)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n{PLAIN_TOKEN},{PLAIN_USER},2\n")


def _write_kubeconfig(path: Path, url: str, token: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "t", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "t", "user": {"token": token}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        "current-context": "t",
    }
    path.write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def run_apiserver(folder: Path) -> Iterator[ApiServer]:
    """Start both, wait until ready, stop both. `folder` holds data, logs and the kubeconfig."""
    client, peer, secure = _free_ports(3)
    _write_keys(folder)
    etcd_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    etcd = _process(
        folder, "etcd", "--data-dir", "etcd", "--listen-client-urls", etcd_url,
        "--advertise-client-urls", etcd_url, "--listen-peer-urls", peer_url,
        "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
        "--unsafe-no-fsync", "--log-level", "error",
    )  # fmt: skip
    with etcd as etcd_process:
        _wait(f"{etcd_url}/health", etcd_process, folder / "etcd.log")
        apiserver = _process(
            folder, "kube-apiserver", f"--etcd-servers={etcd_url}", f"--secure-port={secure}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--cert-dir=certs",
            "--token-auth-file=tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key", "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
        )  # fmt: skip
        with apiserver as api_process:
            url = f"https://127.0.0.1:{secure}"
            _wait(f"{url}/readyz", api_process, folder / "kube-apiserver.log")
            _write_kubeconfig(folder / "kubeconfig", url, TOKEN)
            _write_kubeconfig(folder / "plain.kubeconfig", url, PLAIN_TOKEN)
            yield ApiServer(url, folder / "kubeconfig", folder / "plain.kubeconfig")
