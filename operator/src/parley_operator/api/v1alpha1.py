"""Specs of VoiceAgent, VoiceSession and VoiceWorkerPool: dataclasses and their parsers.

The CRDs hold the same rules for the API server; these parsers serve embedded mode, and the operator
itself, which
trusts no stored object blindly. All durations are seconds. Parsers raise `FieldError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from .constants import Body
from .fields import FieldError, Fields

PROVIDER_TYPES = ("openai", "custom")
API_VERSIONS = ("ga", "beta")
PROVIDER_FORMATS = ("pcm16", "g711_ulaw", "g711_alaw")
DEFAULT_QUEUE_TIMEOUT = 30.0
DEFAULT_ALLOWED_HOSTS = ("api.openai.com",)
DEFAULT_DRAIN_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A key of a Secret in the session's own namespace."""

    name: str
    key: str = "apiKey"


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """Where the conversation is made. Empty strings mean: not said here."""

    type: str = ""
    url: str = ""
    api_version: str = ""
    model: str = ""
    credentials: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """Who speaks."""

    provider: ProviderSpec
    instructions: str = ""
    voice: str = ""
    tools: tuple[Mapping[str, object], ...] = ()
    speaks_first: bool = False
    session: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolRef:
    """Which pool; an empty namespace means the session's own, then the operator's default one."""

    name: str = "default"
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class LimitsSpec:
    """Seconds; 0 leaves the worker's default."""

    max_duration: float = 0.0
    idle_timeout: float = 0.0
    attach_timeout: float = 0.0
    reattach_timeout: float = 0.0
    queue_timeout: float = DEFAULT_QUEUE_TIMEOUT


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """One conversation as it was asked for."""

    agent_ref: str = ""
    agent: AgentSpec | None = None
    provider: ProviderSpec = ProviderSpec()
    session: Mapping[str, object] = field(default_factory=dict)
    provider_format: str = ""
    pool: PoolRef = PoolRef()
    limits: LimitsSpec = LimitsSpec()
    ticket: bool = True
    privacy: bool = False
    ttl_after_finished: float | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """How callers reach the workers of a pool."""

    host_port: bool = False
    least_port: int = 0
    most_port: int = 0


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A fleet of workers."""

    replicas: int = 1
    sessions_per_worker: int = 20
    allowed_namespaces: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = DEFAULT_ALLOWED_HOSTS
    exposure: Exposure = Exposure()
    pod_template: Mapping[str, object] = field(default_factory=dict)
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT


def parse_provider(fields: Fields, *, partial: bool) -> ProviderSpec:
    kind = fields.choice("type", PROVIDER_TYPES, "" if partial else "openai")
    reference = None
    if fields.has("credentialsSecretRef"):
        ref = fields.child("credentialsSecretRef")
        reference = SecretRef(ref.name("name"), ref.text("key", "apiKey", longest=253) or "apiKey")
        ref.finish()
    found = ProviderSpec(
        type=kind,
        url=fields.text("url", longest=2048),
        api_version=fields.choice("apiVersion", API_VERSIONS, ""),
        model=fields.text("model", longest=256),
        credentials=reference,
    )
    fields.finish()
    if not partial:
        check_provider(found, fields.path)
    return found


def check_provider(provider: ProviderSpec, path: str) -> None:
    """What must hold of a complete provider."""
    if provider.type == "custom" and not provider.url:
        raise FieldError(f"{path}.url", "is required when type is custom")
    if provider.type == "openai" and provider.url:
        raise FieldError(f"{path}.url", "is only for type custom; leave it out for openai")


def parse_agent_spec(value: object, path: str = "spec") -> AgentSpec:
    fields = Fields(value, path)
    tools: list[Mapping[str, object]] = []
    for index, item in enumerate(fields.items("tools", most=128)):
        if not isinstance(item, Mapping):
            raise FieldError(f"{path}.tools[{index}]", "must be an object with type, name and parameters")
        tools.append(cast("Mapping[str, object]", item))
    if not fields.has("provider"):
        raise FieldError(f"{path}.provider", "is required")
    found = AgentSpec(
        provider=parse_provider(fields.child("provider"), partial=False),
        instructions=fields.text("instructions", longest=65536),
        voice=fields.text("voice", longest=128),
        tools=tuple(tools),
        speaks_first=fields.flag("speaksFirst"),
        session=fields.mapping("session"),
    )
    fields.finish()
    return found


def parse_limits(fields: Fields) -> LimitsSpec:
    found = LimitsSpec(
        max_duration=fields.duration("maxDuration", 0.0),
        idle_timeout=fields.duration("idleTimeout", 0.0),
        attach_timeout=fields.duration("attachTimeout", 0.0),
        reattach_timeout=fields.duration("reattachTimeout", 0.0),
        queue_timeout=fields.duration("queueTimeout", DEFAULT_QUEUE_TIMEOUT),
    )
    fields.finish()
    return found


def parse_session_spec(value: object) -> SessionSpec:
    fields = Fields(value, "spec")
    if fields.has("agentRef") == fields.has("agent"):
        raise FieldError("spec", "exactly one of agentRef and agent must be set")
    agent_ref = ""
    if fields.has("agentRef"):
        ref = fields.child("agentRef")
        agent_ref = ref.name("name")
        ref.finish()
    audio, pool, access, recovery = (fields.child(k) for k in ("audio", "poolRef", "access", "recovery"))
    recovery.choice("policy", ("Fail",), "Fail")
    ttl = fields.number("ttlSecondsAfterFinished", -1, least=0, most=31_536_000)
    found = SessionSpec(
        agent_ref=agent_ref,
        agent=parse_agent_spec(fields.raw("agent"), "spec.agent") if fields.has("agent") else None,
        provider=parse_provider(fields.child("provider"), partial=True),
        session=fields.mapping("session"),
        provider_format=audio.choice("providerFormat", PROVIDER_FORMATS, ""),
        pool=PoolRef(pool.name("name", "default"), pool.name("namespace", "")),
        limits=parse_limits(fields.child("limits")),
        ticket=access.choice("ticket", ("Secret", "None"), "Secret") == "Secret",
        privacy=fields.flag("privacy"),
        ttl_after_finished=None if ttl < 0 else float(ttl),
    )
    for part in (audio, pool, access, recovery, fields):
        part.finish()
    return found


def parse_pool_spec(value: object) -> PoolSpec:
    fields = Fields(value, "spec")
    provider, exposure, strategy = (fields.child(k) for k in ("provider", "exposure", "updateStrategy"))
    host_port = exposure.choice("type", ("PodIP", "HostPort"), "PodIP") == "HostPort"
    ports = exposure.child("hostPortRange")
    least = ports.number("min", 0, least=1, most=65535)
    most = ports.number("max", least, least=1, most=65535)
    if host_port and (not least or most < least):
        raise FieldError("spec.exposure.hostPortRange", "needs min and max with min <= max for type HostPort")
    hosts = provider.texts("allowedHosts", most=64) if provider.has("allowedHosts") else DEFAULT_ALLOWED_HOSTS
    found = PoolSpec(
        replicas=fields.number("replicas", 1, least=0, most=1000),
        sessions_per_worker=fields.number("sessionsPerWorker", 20, least=1, most=10000),
        allowed_namespaces=fields.texts("allowedNamespaces", most=256),
        allowed_hosts=hosts,
        exposure=Exposure(host_port, least, most),
        pod_template=fields.mapping("podTemplate"),
        drain_timeout=strategy.duration("drainTimeout", DEFAULT_DRAIN_TIMEOUT),
    )
    for part in (provider, ports, exposure, strategy, fields):
        part.finish()
    return found


def spec_of(body: Mapping[str, object]) -> object:
    return body.get("spec", {})


def metadata_of(body: Mapping[str, object]) -> Body:
    found = body.get("metadata")
    return dict(cast("Mapping[str, object]", found)) if isinstance(found, Mapping) else {}


def text_at(body: Mapping[str, object], *path: str) -> str:
    """The string at `path`, empty when something on the way is missing."""
    value: object = body
    for key in path:
        value = cast("Mapping[str, object]", value).get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def map_at(body: Mapping[str, object], *path: str) -> dict[str, object]:
    """A copy of the object at `path`, empty when it is missing."""
    value: object = body
    for key in path:
        value = cast("Mapping[str, object]", value).get(key) if isinstance(value, Mapping) else None
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else {}
