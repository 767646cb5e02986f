"""Settings of the operator: environment variables `PARLEY_OPERATOR_*`, read and checked once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .domain.election import LeaseTimes

PREFIX = "PARLEY_OPERATOR_"

_HELP = {
    "NAMESPACE": ("parley-system", "namespace of the operator; its CA lives there"),
    "DEFAULT_POOL_NAMESPACE": ("", "where pools are looked for that a session's namespace lacks [NAMESPACE]"),
    "DEFAULT_POOL_FILE": ("", "YAML file with a VoiceWorkerPool to be applied at start"),
    "DEFAULT_POOL_OWNER": ("", "ConfigMap in NAMESPACE that owns the default pool: both go together"),
    "WORKER_IMAGE": ("parley-worker:latest", "image of workers whose pool names none"),
    "WORKER_IMAGE_PULL_POLICY": ("IfNotPresent", "Always, IfNotPresent or Never"),
    "WORKER_ENV": ("", 'more variables of every worker: a JSON list [{"name": ..., "value": ...}]'),
    "NATS_URL": ("", "NATS servers that workers are told"),
    "HTTP_HOST": ("0.0.0.0", "address of /metrics, /healthz and /readyz"),
    "HTTP_PORT": ("8080", "its port; 0 takes a free one"),
    "WORKER_LOST_AFTER": (
        "60",
        "seconds of silence after which a worker whose pod still runs counts as lost",
    ),
    "SESSIONS_ADDRESS": ("", "host:port of the session service; empty: it is not served"),
    "SESSIONS_NAMES": ("", "names in its certificate, the first one told to clients, with commas between"),
    "SESSIONS_TLS_DIR": (
        "",
        "folder with tls.crt and tls.key of your own, instead of a certificate of the CA",
    ),
    "SESSIONS_AUDIENCES": ("", "audiences that callers' tokens may be for [those of the API server]"),
    "SESSIONS_CONFIG_MAP": ("", "ConfigMap in NAMESPACE that tells clients address, name and CA"),
    "WATCH_NODES": ("true", "true or false: whether nodes are watched, so that pods leave those that go"),
    "CONCURRENCY": ("32", "objects worked on at a time"),
    "POD_NAME": ("", "this pod: while it leads it carries the label parley.dev/leader=true"),
    "POD_IP": ("", "its address, which the Lease tells of the leader"),
    "LEASE_DURATION": ("5", "seconds after which another takes a Lease that is not renewed"),
    "LEASE_RENEW_DEADLINE": ("3", "seconds after which a leader that cannot renew the Lease stops"),
    "LEASE_RETRY": ("1", "seconds between attempts to renew or take the Lease"),
    "WATCH_STALE_AFTER": ("60", "seconds that a watch may owe a change until /healthz says so"),
    "EVENTS": ("All", "which Kubernetes Events are posted: All, Warnings or None"),
    "LOG_LEVEL": ("info", "debug, info, warning or error"),
    "LOG_FORMAT": ("json", "json or text"),
}
_EVENTS = ("All", "Warnings", "None")
_LEVELS = ("debug", "info", "warning", "error")


class ConfigError(Exception):
    """Settings that cannot be used; one line a problem."""


@dataclass(frozen=True, slots=True)
class Settings:
    """As in `help_text()`. Times in seconds."""

    namespace: str
    default_pool_namespace: str
    default_pool_file: Path | None
    default_pool_owner: str
    worker_image: str
    worker_image_pull_policy: str
    worker_env: tuple[tuple[str, str], ...]
    nats_url: str
    http_host: str
    http_port: int
    worker_lost_after: float
    concurrency: int
    pod_name: str
    pod_ip: str
    lease: LeaseTimes
    watch_stale_after: float
    watch_nodes: bool
    log_level: str
    log_format: str
    events: str
    sessions: SessionsSettings


@dataclass(frozen=True, slots=True)
class SessionsSettings:
    """The session service; not served without an `address`."""

    address: str = ""
    names: tuple[str, ...] = ()
    tls_dir: Path | None = None
    audiences: tuple[str, ...] = ()
    config_map: str = ""


def help_text() -> str:
    """The variables with meaning and default."""
    lines = ["usage: python -m parley_operator [--help | --version]", "", "Settings (environment variables):"]
    for name, (default, words) in _HELP.items():
        shown = f" [{default}]" if default else ""
        lines.append(f"  {PREFIX}{name}\n      {words}{shown}")
    lines += ["", "The API server is found by KUBECONFIG or the pod's service account."]
    return "\n".join(lines)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Raises `ConfigError` with every problem found."""
    values = {name: environ.get(PREFIX + name, "").strip() or default for name, (default, _) in _HELP.items()}
    problems = [
        f"{name}: is not known; see --help"
        for name in environ
        if name.startswith(PREFIX)
        and name.removeprefix(PREFIX) not in _HELP
        and "_SERVICE_" not in name
        and "_PORT" not in name
    ]
    file = Path(values["DEFAULT_POOL_FILE"]) if values["DEFAULT_POOL_FILE"] else None
    if file is not None and not file.is_file():
        problems.append(f"{PREFIX}DEFAULT_POOL_FILE: {file} is not there")
    choices = (
        ("LOG_LEVEL", _LEVELS),
        ("LOG_FORMAT", ("json", "text")),
        ("WATCH_NODES", ("true", "false")),
        ("EVENTS", _EVENTS),
    )
    for name, allowed in choices:
        if values[name] not in allowed:
            problems.append(f"{PREFIX}{name}: {values[name]!r}; use one of {', '.join(allowed)}")
    port = _number(values, "HTTP_PORT", 0, 65535, problems)
    lost = _number(values, "WORKER_LOST_AFTER", 5, 3600, problems)
    concurrency = _number(values, "CONCURRENCY", 1, 1000, problems)
    stale = _number(values, "WATCH_STALE_AFTER", 10, 3600, problems)
    lease = _lease(values, problems)
    env = _worker_env(values["WORKER_ENV"], problems)
    sessions = _sessions(values, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return Settings(
        namespace=values["NAMESPACE"],
        default_pool_namespace=values["DEFAULT_POOL_NAMESPACE"] or values["NAMESPACE"],
        default_pool_file=file,
        default_pool_owner=values["DEFAULT_POOL_OWNER"],
        worker_image=values["WORKER_IMAGE"],
        worker_image_pull_policy=values["WORKER_IMAGE_PULL_POLICY"],
        worker_env=env,
        nats_url=values["NATS_URL"],
        http_host=values["HTTP_HOST"],
        http_port=port,
        worker_lost_after=float(lost),
        concurrency=concurrency,
        pod_name=values["POD_NAME"],
        pod_ip=values["POD_IP"],
        lease=lease,
        watch_stale_after=float(stale),
        watch_nodes=values["WATCH_NODES"] == "true",
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
        events=values["EVENTS"],
        sessions=sessions,
    )


def _sessions(values: Mapping[str, str], problems: list[str]) -> SessionsSettings:
    address = values["SESSIONS_ADDRESS"]
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdigit() and int(port) < 65536):
        problems.append(f"{PREFIX}SESSIONS_ADDRESS: {address!r}; give host:port, such as 0.0.0.0:8443")
    folder = Path(values["SESSIONS_TLS_DIR"]) if values["SESSIONS_TLS_DIR"] else None
    missing = [] if folder is None else [n for n in ("tls.crt", "tls.key") if not (folder / n).is_file()]
    if missing:
        problems.append(f"{PREFIX}SESSIONS_TLS_DIR: {folder} has no {' and no '.join(missing)}")
    return SessionsSettings(
        address,
        _items(values["SESSIONS_NAMES"]),
        folder,
        _items(values["SESSIONS_AUDIENCES"]),
        values["SESSIONS_CONFIG_MAP"],
    )


def _items(text: str) -> tuple[str, ...]:
    return tuple(part for item in text.split(",") if (part := item.strip()))


def _number(values: Mapping[str, str], name: str, least: int, most: int, problems: list[str]) -> int:
    text = values[name]
    if text.isdigit() and least <= int(text) <= most:
        return int(text)
    problems.append(f"{PREFIX}{name}: {text!r}; give a whole number from {least} to {most}")
    return least


def _lease(values: Mapping[str, str], problems: list[str]) -> LeaseTimes:
    names = ("LEASE_DURATION", "LEASE_RENEW_DEADLINE", "LEASE_RETRY")
    found = [float(_number(values, name, 1, 300, problems)) for name in names]
    try:
        return LeaseTimes(*found)
    except ValueError:
        shown = ", ".join(f"{PREFIX}{name}={values[name]}" for name in names)
        problems.append(f"{shown}: each must be greater than the next; use 5, 3 and 1")
        return LeaseTimes()


def _worker_env(text: str, problems: list[str]) -> tuple[tuple[str, str], ...]:
    if not text:
        return ()
    try:
        items = json.loads(text)
        return tuple((str(item["name"]), str(item["value"])) for item in items)
    except (ValueError, TypeError, KeyError):
        problems.append(f'{PREFIX}WORKER_ENV: is not a JSON list of {{"name": ..., "value": ...}}')
        return ()
