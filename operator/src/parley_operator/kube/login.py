"""How to reach the API server: the pod's service account, or a kubeconfig file."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from parley_operator.api.v1alpha1 import map_at, text_at

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class LoginError(Exception):
    """No way to the API server was found; `str()` says what was looked for."""


@dataclass(frozen=True, slots=True)
class Login:
    """Address and credentials. `token_file` is read again at need, since tokens rotate."""

    server: str
    ca: bytes = b""
    token_file: Path | None = None
    static_token: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    insecure: bool = False

    def token(self) -> str:
        if self.token_file is not None:
            return self.token_file.read_text(encoding="utf-8").strip()
        return self.static_token

    def ssl_context(self) -> ssl.SSLContext | None:
        """`None` for a plaintext server."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            with tempfile.TemporaryDirectory() as folder:
                chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
                chain.write_bytes(self.certificate)
                key.touch(mode=0o600)
                key.write_bytes(self.key)
                context.load_cert_chain(chain, key)
        return context


def find_login(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Login:
    """KUBECONFIG where it is set, else the service account, else ~/.kube/config. Raises `LoginError`."""
    if environ.get("KUBECONFIG"):
        return from_kubeconfig(Path(environ["KUBECONFIG"].split(os.pathsep)[0]))
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if host and (service_account / "token").exists():
        port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        shown = f"[{host}]" if ":" in host else host
        ca = (service_account / "ca.crt").read_bytes()
        return Login(f"https://{shown}:{port}", ca, service_account / "token")
    home = Path(environ.get("HOME", "/"), ".kube", "config")
    if home.exists():
        return from_kubeconfig(home)
    raise LoginError("neither KUBECONFIG, nor a service account, nor ~/.kube/config is there")


def from_kubeconfig(path: Path) -> Login:
    """The current context of the file. Exec plugins and auth providers are not supported."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LoginError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise LoginError(f"{path}: is no kubeconfig")
    context = _named(config, "contexts", text_at(config, "current-context"), "context", path)
    cluster = _named(config, "clusters", text_at(context, "cluster"), "cluster", path)
    user = _named(config, "users", text_at(context, "user"), "user", path)
    token_file = text_at(user, "tokenFile")
    return Login(
        server=text_at(cluster, "server").rstrip("/"),
        ca=_data(cluster, "certificate-authority", path),
        token_file=Path(token_file) if token_file else None,
        static_token=text_at(user, "token"),
        certificate=_data(user, "client-certificate", path),
        key=_data(user, "client-key", path),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
    )


def _named(config: Mapping[str, object], group: str, name: str, key: str, path: Path) -> dict[str, object]:
    items = config.get(group)
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("name") == name:
            return map_at(item, key)
    raise LoginError(f"{path}: no entry {name!r} in {group}")


def _data(entry: Mapping[str, object], key: str, path: Path) -> bytes:
    inline = text_at(entry, f"{key}-data")
    if inline:
        return base64.b64decode(inline)
    name = text_at(entry, key)
    return (path.parent / name).read_bytes() if name else b""
