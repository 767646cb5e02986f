"""Settings of the worker process: `PARLEY_WORKER_*` environment variables, read and validated once."""

# ruff: noqa: RUF009 - every default is made by dataclasses.field
from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from parley_realtime.transport import TransportName, check_transport, fastest

from parley_worker.config_fields import boolean as _boolean
from parley_worker.config_fields import choice as _choice
from parley_worker.config_fields import integer as _integer
from parley_worker.config_fields import seconds as _seconds
from parley_worker.config_fields import setting as _var
from parley_worker.config_fields import text as _text
from parley_worker.config_session import SessionSettings
from parley_worker.transport import congestion

PREFIX = "PARLEY_WORKER_"
TLS_FILES = ("tls.crt", "tls.key")
MTLS_FILES = ("ca.crt", "tls.crt", "tls.key")
AUTO = -1
"""As many shards as this process may use cores."""
MAX_SHARDS = 64
# Kubernetes adds such variables for a Service called parley-worker.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


class ConfigError(Exception):
    """Settings that cannot be used: `problems` has one line each, naming variable, value and remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: host and port (0: any free one), or a unix socket (`path`)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def grpc(self) -> str:
        return f"unix:{self.path}" if self.path else f"{_bracketed(self.host)}:{self.port}"

    @property
    def private(self) -> bool:
        """True for loopback and unix sockets: nobody outside the machine can reach them."""
        if self.path:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def with_port(self, port: int) -> str:
        return f"unix:{self.path}" if self.path else f"{_bracketed(self.host)}:{port}"

    def __str__(self) -> str:
        return self.grpc


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _transport(value: str) -> TransportName:
    check_transport(value)
    return "picows" if value == "picows" else "websockets"


def _shards(value: str) -> int:
    if value == "auto":
        return AUTO
    try:
        return _integer(0, MAX_SHARDS)(value)
    except ValueError:
        raise ValueError(f"give auto, or a whole number from 0 to {MAX_SHARDS}") from None


def _address(value: str) -> Address:
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path:
            raise ValueError("give unix:/path/of/socket or host:port")
        return Address(path=path)
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(
            "give host:port with a port from 0 to 65535 (0: any free one), or unix:/path/of/socket"
        )
    return Address(host=host.strip("[]") or "0.0.0.0", port=int(port))


def _host_port(value: str) -> Address:
    if value.startswith("unix:"):
        raise ValueError("give host:port")
    return _address(value)


def _directory(value: str) -> Path:
    path = Path(value)
    if not path.is_dir():
        raise ValueError("give the directory that holds the files, readable by this process")
    return path


def _paths(value: str) -> tuple[str, ...]:
    paths = tuple(part for part in value.split(":") if part)
    for path in paths:
        if not Path(path).is_dir():
            raise ValueError(f"{path} is no directory: give directories, separated by colons")
    return paths


def _file(value: str) -> Path:
    path = Path(value)
    if not path.is_file():
        raise ValueError("give a file that this process can read")
    return path


def _nats_url(value: str) -> str:
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        split = urlsplit(part)
        if split.scheme not in ("nats", "tls") or not split.hostname:
            raise ValueError("give nats://host:port or tls://host:port, several separated by commas")
    return ",".join(parts)


def redact_url(value: str) -> str:
    """The URL, or comma-separated URLs, without user and password."""
    shown = []
    for part in value.split(","):
        split = urlsplit(part)
        netloc = split.netloc.rpartition("@")
        shown.append(urlunsplit(split._replace(netloc="***@" + netloc[2])) if netloc[1] else part)
    return ",".join(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(SessionSettings):
    """Everything that the process can be told. Field `x_y` is the variable `PARLEY_WORKER_X_Y`."""

    name: str = _var(_text, "name of the worker (its pod); the host's name when empty", "")
    pod_uid: str = _var(_text, "uid of the pod; empty outside Kubernetes", "")
    namespace: str = _var(_text, "namespace of the pod; empty outside Kubernetes", "")
    node: str = _var(_text, "name of the node; empty outside Kubernetes", "")
    pool: str = _var(_text, "name of the VoiceWorkerPool; empty outside Kubernetes", "")
    revision: str = _var(_text, "revision of the pool that the pod was made after", "")
    capacity: int = _var(_integer(1, 10_000), "sessions that this worker runs at most", 50)
    shards: int = _var(
        _shards,
        "processes that sessions are spread over, beside one that supervises them; auto: one a core that this"
        " worker may use; 0: everything in one process",
        0,
    )
    pin_shards: bool = _var(_boolean, "bind each shard to a core of its own where there are enough", False)
    huge_pages: bool = _var(
        _boolean, "keep what a shard has in memory on huge pages, where kernel and C library have them", True
    )
    batch_threads: bool = _var(
        _boolean, "let no thread of gRPC interrupt a shard's event loop, where the system can do that", True
    )
    supervisor_nice: int = _var(
        _integer(0, 19),
        "nice value of the supervisor: what it does is not to hold up the sound of its shards; 0: none",
        16,
    )
    shard_timeout: float = _var(
        _seconds(0.5, 600), "seconds without a sign of life after which a shard is killed", 5.0
    )
    media_address: Address = _var(
        _host_port, "where callers attach; shard N at port + N", Address("127.0.0.1", 7070)
    )
    control_address: Address = _var(_address, "where the operator calls", Address("127.0.0.1", 7061))
    admin_address: Address = _var(
        _host_port, "where /metrics, /healthz and /readyz are served", Address("127.0.0.1", 7062)
    )
    advertised_host: str = _var(_text, "host that callers are told; the media address's host when empty", "")
    advertised_port: int = _var(
        _integer(0, 65535), "port that callers are told, of shard N port + N; 0: that listened on", 0
    )
    telephony_address: Address | None = _var(
        _host_port,
        "where telephony streams attach (shard N at port + N), with the media service's TLS; empty: nowhere",
        None,
    )
    twilio_auth_token: str = _var(
        _text, "Twilio's auth token; when set, its streams must carry its signature", "", secret=True
    )
    telephony_advertised_host: str = _var(
        _text, "host that telephony is told; the one that callers are told when empty", ""
    )
    telephony_advertised_port: int = _var(
        _integer(0, 65535), "port that telephony is told, port + N of shard N; 0: the port listened on", 0
    )
    tls_server_name: str = _var(
        _text, "name that callers verify in the media certificate; the host when empty", ""
    )
    control_tls_dir: Path | None = _var(
        _directory,
        f"directory with {', '.join(MTLS_FILES)} of the control service; required outside loopback",
        None,
    )
    control_client_name: str = _var(
        _text, "name that the operator's certificate must carry", "parley-operator"
    )
    media_tls_dir: Path | None = _var(
        _directory,
        f"directory with {', '.join(TLS_FILES)} of the media service; required outside loopback",
        None,
    )
    nats_url: str = _var(
        _nats_url, "NATS servers; empty: no events and no journal are written", "", secret=True
    )
    nats_creds: Path | None = _var(_file, "NATS credentials file", None)
    nats_tls_dir: Path | None = _var(
        _directory,
        "directory with ca.crt (and tls.crt, tls.key) for NATS; the system's authorities when unset",
        None,
    )
    nats_replicas: int = _var(_integer(1, 5), "replicas of the streams that the worker creates", 1)
    nats_max_age: float = _var(
        _seconds(0, 10 * 365 * 86400), "seconds that created streams keep records; 0: forever", 7 * 86400.0
    )
    nats_max_bytes: int = _var(
        _integer(-1, 1 << 50), "bytes that each created stream keeps; -1: no limit", 1 << 30
    )
    nats_duplicate_window: float = _var(
        _seconds(1, 86400), "seconds in which created streams recognise repeated records", 120.0
    )
    event_buffer_count: int = _var(_integer(1, 10_000_000), "records that wait for NATS at most", 100_000)
    event_buffer_bytes: int = _var(
        _integer(1024, 1 << 40), "bytes of records that wait for NATS at most", 64 << 20
    )
    event_window: int = _var(_integer(1, 4000), "records sent to NATS and not yet acknowledged at most", 256)
    tool_calls: int = _var(
        _integer(1, 100_000), "function calls that services answer at once at most; more are refused", 256
    )
    drain_timeout: float = _var(_seconds(0, 86400), "seconds that sessions may go on after SIGTERM", 60.0)
    termination_grace: float = _var(
        _seconds(0, 90_000), "seconds between SIGTERM and SIGKILL: a drain ends before; 0: not known", 0.0
    )
    flush_timeout: float = _var(_seconds(0, 600), "seconds to deliver waiting records at the end", 5.0)
    max_duration: float = _var(_seconds(1, 86400), "default limit of a session's life", 3600.0)
    idle_timeout: float = _var(_seconds(1, 86400), "default limit without speech of either side", 300.0)
    attach_timeout: float = _var(_seconds(0.1, 86400), "default limit from Ready to the first attach", 60.0)
    reattach_timeout: float = _var(
        _seconds(0, 86400), "default limit for a caller that was lost to return", 30.0
    )
    max_lag: float = _var(
        _seconds(0.01, 60),
        "event-loop lag (median of the last seconds) from which admissions are refused",
        0.5,
    )
    watch_buffer: int = _var(
        _integer(1, 100_000), "reports that wait for one watcher; more end its watch", 1024
    )
    watch_heartbeat: float = _var(_seconds(0.05, 60), "seconds between heartbeats on a quiet watch", 2.0)
    log_format: str = _var(_choice("json", "plain"), "json or plain", "json")
    log_level: str = _var(
        _choice("debug", "info", "warning", "error"), "debug, info, warning or error", "info"
    )
    scenario_paths: tuple[str, ...] = _var(
        _paths, "directories, separated by colons, with modules of scenarios beside the image's own", ()
    )
    congestion_control: str = _var(
        congestion.check,
        "TCP congestion control of connections with callers and providers; auto: cubic or reno where the"
        " system's is BBR, which holds audio up for some 40 ms now and then; system: the system's",
        congestion.AUTO,
    )
    uvloop: bool = _var(_boolean, "run on uvloop", True)
    provider_transport: TransportName = _var(
        _transport, "what speaks WebSocket with providers: picows or websockets", fastest()
    )

    @property
    def secret_paths(self) -> tuple[str, ...]:
        """Files and folders with keys of this worker."""
        given = (self.control_tls_dir, self.media_tls_dir, self.nats_tls_dir, self.nats_creds)
        return tuple(str(path) for path in given if path is not None)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read every variable; raise ConfigError with all problems at once."""
        problems: list[str] = []
        values: dict[str, Any] = {}
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name):
                problems.append(f"{name}: no such setting; `python -m parley_worker --help` lists them")
        for name, f in known.items():
            text = environ.get(name, "").strip()
            if not text:
                continue
            try:
                values[f.name] = f.metadata["parse"](text)
            except ValueError as error:
                problems.append(f"{name}={'***' if f.metadata['secret'] else repr(text)}: {error}")
        if not values.get("name"):
            values["name"] = socket.gethostname()
        settings = cls(**values)
        problems += settings._problems()
        if problems:
            raise ConfigError(problems)
        return settings

    def _problems(self) -> list[str]:
        problems = []
        pairs = (
            ("CONTROL", self.control_address, self.control_tls_dir, MTLS_FILES),
            ("MEDIA", self.media_address, self.media_tls_dir, TLS_FILES),
        )
        for word, address, directory, names in pairs:
            if directory is None:
                if not address.private:
                    problems.append(
                        f"{PREFIX}{word}_ADDRESS={str(address)!r}: reachable from outside without TLS;"
                        f" set {PREFIX}{word}_TLS_DIR or listen on loopback"
                    )
                continue
            for name in names:
                if not (directory / name).is_file():
                    problems.append(
                        f"{PREFIX}{word}_TLS_DIR={str(directory)!r}: {name} is missing; put it there"
                    )
        telephony = self.telephony_address
        if telephony is not None and not telephony.private and self.media_tls_dir is None:
            problems.append(
                f"{PREFIX}TELEPHONY_ADDRESS={str(telephony)!r}: reachable from outside without TLS;"
                f" set {PREFIX}MEDIA_TLS_DIR or listen on loopback"
            )
        host = self.advertised_host or self.media_address.host
        if host in ("0.0.0.0", "::"):
            problems.append(
                f"{PREFIX}ADVERTISED_HOST={self.advertised_host!r}: callers cannot connect to {host};"
                f" name a host or address that reaches this worker"
            )
        return problems

    def validated(self) -> Settings:
        """Itself, or ConfigError; for settings that were not read from the environment."""
        problems = self._problems()
        if problems:
            raise ConfigError(problems)
        return self

    def environ(self) -> dict[str, str]:
        """The variables, secrets included, from which `from_environ` makes the same settings."""
        chosen = {f: getattr(self, f.name) for f in fields(self)}
        texts = {
            PREFIX + f.name.upper(): _written(value) for f, value in chosen.items() if value != f.default
        }
        return texts | ({PREFIX + "SHARDS": "auto"} if self.shards == AUTO else {})

    def shown(self) -> dict[str, str]:
        """Every setting as text, without secrets."""
        shown = {}
        for f in fields(self):
            value = getattr(self, f.name)
            text = "" if value is None else str(value)
            if f.metadata["secret"]:
                text = redact_url(text) if f.name == "nats_url" else "***" if text else ""
            shown[f.name] = text
        return shown


def _written(value: Any) -> str:
    """A setting as its variable holds it."""
    if isinstance(value, float):
        return repr(value)
    return ":".join(value) if isinstance(value, tuple) else str(value)


def help_text() -> str:
    """The list of all variables with meaning and default."""
    lines = [
        "usage: python -m parley_worker [--help | --version]",
        "",
        "Settings are environment variables:",
        "",
    ]
    for f in fields(Settings):
        default = "" if f.default in (None, MISSING, ()) else str(f.default)
        lines.append(f"  {PREFIX}{f.name.upper()}")
        lines.append(f"      {f.metadata['help']}" + (f" [{default}]" if default else ""))
    lines += [
        "",
        "When it is ready the worker prints one line of JSON on stdout with the addresses it listens on.",
        "SIGTERM and SIGINT drain it; a second one ends it at once (in a pod only SIGINT does).",
        "Exit codes: 0 ended as asked, 1 failed, 2 settings are wrong.",
    ]
    return "\n".join(lines)
