"""Specs of VoiceAgent, VoiceSession and VoiceWorkerPool: dataclasses and their parsers.

The CRDs hold the same rules for the API server; these parsers serve embedded mode, and the operator
itself, which
trusts no stored object blindly. All durations are seconds. Parsers raise `FieldError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .conduct import (
    BehaviourSpec,
    RecordingSpec,
    RecoverySpec,
    ScenarioSpec,
    check_folder,
    parse_behaviour,
    parse_recording,
    parse_recovery,
    parse_scenario,
)
from .constants import MAX_SHARDS, Body
from .fields import FieldError, Fields
from .fleet import (
    DEFAULT_DRAIN_TIMEOUT,
    AutoscalingSpec,
    RecycleSpec,
    StrategySpec,
    parse_autoscaling,
    parse_recycle,
    parse_strategy,
)
from .placement import (
    PlacementSpec,
    QuotaSpec,
    SelectorSpec,
    parse_placement,
    parse_quotas,
    parse_selectors,
)
from .references import PoolRef as PoolRef
from .references import SecretRef as SecretRef
from .references import parse_pool_ref, parse_secret_ref
from .tools import ToolSpec, parse_tools, refuse_routes

PROVIDER_TYPES = ("openai", "azure", "custom")
API_VERSIONS = ("ga", "beta")
PROVIDER_FORMATS = ("pcm16", "g711_ulaw", "g711_alaw")
DEFAULT_QUEUE_TIMEOUT = 30.0
DEFAULT_ALLOWED_HOSTS = ("api.openai.com",)
DEFAULT_REVISION_HISTORY = 10


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """Where the conversation is made. Empty strings mean: not said here."""

    type: str = ""
    url: str = ""
    api_version: str = ""
    model: str = ""
    credentials: SecretRef | None = None
    organization: str = ""
    project: str = ""
    safety_identifier: str = ""


@dataclass(frozen=True, slots=True)
class CanarySpec:
    """Another agent that gets `weight` of a hundred new sessions."""

    agent: str
    weight: int


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """Who speaks."""

    provider: ProviderSpec
    instructions: str = ""
    voice: str = ""
    tools: tuple[ToolSpec, ...] = ()
    speaks_first: bool = False
    session: Mapping[str, object] = field(default_factory=dict)
    behaviour: BehaviourSpec = field(default_factory=BehaviourSpec)
    scenario: ScenarioSpec | None = None
    canary: CanarySpec | None = None
    revision_history: int = DEFAULT_REVISION_HISTORY


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
    pool: PoolRef = field(default_factory=PoolRef)
    selectors: tuple[SelectorSpec, ...] = ()
    limits: LimitsSpec = LimitsSpec()
    ticket: bool = True
    privacy: bool = False
    scenario: ScenarioSpec | None = None
    recording: RecordingSpec | None = None
    recovery: RecoverySpec = field(default_factory=RecoverySpec)
    trace: bool = False
    ttl_after_finished: float | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """How callers reach the workers of a pool."""

    host_port: bool = False
    least_port: int = 0
    most_port: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """Where something may go: hosts as `host`, `host:port` or `*.suffix`, and folders."""

    hosts: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScenarioRules:
    """Which scenarios may run. `entry_points` are patterns with `*`; `source`: also source in ConfigMaps."""

    source: bool = False
    entry_points: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A fleet of workers."""

    replicas: int = 1
    sessions_per_worker: int = 20
    shards: int = 0
    """0: one for each core of the worker container."""
    allowed_namespaces: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = DEFAULT_ALLOWED_HOSTS
    scenarios: ScenarioRules = ScenarioRules()
    tool_hosts: tuple[str, ...] = ()
    media: Places = Places()
    recordings: Places = Places()
    exposure: Exposure = Exposure()
    placement: PlacementSpec = field(default_factory=PlacementSpec)
    quotas: tuple[QuotaSpec, ...] = ()
    pod_template: Mapping[str, object] = field(default_factory=dict)
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT
    strategy: StrategySpec = field(default_factory=StrategySpec)
    autoscaling: AutoscalingSpec | None = None
    recycle: RecycleSpec = field(default_factory=RecycleSpec)


def parse_provider(fields: Fields, *, partial: bool) -> ProviderSpec:
    kind = fields.choice("type", PROVIDER_TYPES, "" if partial else "openai")
    reference = parse_secret_ref(fields, "credentialsSecretRef", "apiKey")
    found = ProviderSpec(
        type=kind,
        url=fields.text("url", longest=2048),
        api_version=fields.choice("apiVersion", API_VERSIONS, ""),
        model=fields.text("model", longest=256),
        credentials=reference,
        organization=_header_value(fields, "organization"),
        project=_header_value(fields, "project"),
        safety_identifier=_header_value(fields, "safetyIdentifier"),
    )
    fields.finish()
    if not partial:
        check_provider(found, fields.path)
    return found


def _header_value(fields: Fields, key: str) -> str:
    value = fields.text(key, longest=256)
    if any(not "!" <= letter <= "~" for letter in value):
        raise FieldError(fields.at(key), "goes into a header: use visible ASCII characters without spaces")
    return value


def check_provider(provider: ProviderSpec, path: str) -> None:
    """What must hold of a complete provider."""
    if provider.type == "openai" and provider.url:
        raise FieldError(f"{path}.url", "is only for types azure and custom; leave it out for openai")
    if provider.type != "openai" and not provider.url:
        raise FieldError(f"{path}.url", f"is required when type is {provider.type}")


def parse_agent_spec(value: object, path: str = "spec", *, shared: bool = True) -> AgentSpec:
    """`shared`: of a VoiceAgent, which may have a canary; not an agent of one session alone."""
    fields = Fields(value, path)
    if not fields.has("provider"):
        raise FieldError(f"{path}.provider", "is required")
    found = AgentSpec(
        provider=parse_provider(fields.child("provider"), partial=False),
        instructions=fields.text("instructions", longest=65536),
        voice=fields.text("voice", longest=128),
        tools=parse_tools(fields),
        speaks_first=fields.flag("speaksFirst"),
        session=fields.mapping("session"),
        behaviour=parse_behaviour(fields),
        scenario=parse_scenario(fields, partial=False),
        canary=_canary(fields) if shared else None,
        revision_history=fields.number("revisionHistoryLimit", DEFAULT_REVISION_HISTORY, least=0, most=100)
        if shared
        else DEFAULT_REVISION_HISTORY,
    )
    refuse_routes(found.session, fields.at("session"))
    fields.finish()
    return found


def _canary(parent: Fields) -> CanarySpec | None:
    if not parent.has("canary"):
        return None
    fields = parent.child("canary")
    reference = fields.child("agentRef")
    found = CanarySpec(reference.name("name"), fields.number("weight", 0, least=0, most=100))
    reference.finish()
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
    own_agent = None
    if fields.has("agent"):
        own_agent = parse_agent_spec(fields.raw("agent"), "spec.agent", shared=False)
    audio, access = (fields.child(k) for k in ("audio", "access"))
    privacy = fields.flag("privacy")
    ttl = fields.number("ttlSecondsAfterFinished", -1, least=0, most=31_536_000)
    found = SessionSpec(
        agent_ref=agent_ref,
        agent=own_agent,
        provider=parse_provider(fields.child("provider"), partial=True),
        session=fields.mapping("session"),
        provider_format=audio.choice("providerFormat", PROVIDER_FORMATS, ""),
        pool=parse_pool_ref(fields, "poolRef"),
        selectors=parse_selectors(fields),
        limits=parse_limits(fields.child("limits")),
        ticket=access.choice("ticket", ("Secret", "None"), "Secret") == "Secret",
        privacy=privacy,
        scenario=parse_scenario(fields, partial=True),
        recording=parse_recording(fields, privacy=privacy),
        recovery=parse_recovery(fields.child("recovery"), privacy=privacy),
        trace=fields.flag("trace"),
        ttl_after_finished=None if ttl < 0 else float(ttl),
    )
    refuse_routes(found.session, "spec.session")
    if found.trace and privacy:
        raise FieldError("spec.trace", "cannot be given together with privacy; leave one of them out")
    for part in (audio, access, fields):
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
    sessions = fields.number("sessionsPerWorker", 20, least=1, most=10000)
    shards = fields.number("shards", 0, least=1, most=MAX_SHARDS)
    if shards > sessions:
        raise FieldError("spec.shards", f"must not be greater than sessionsPerWorker, {sessions}")
    if host_port and shards > most - least + 1:
        raise FieldError("spec.exposure.hostPortRange", f"needs a port for each of the {shards} shards")
    hosts = provider.texts("allowedHosts", most=64) if provider.has("allowedHosts") else DEFAULT_ALLOWED_HOSTS
    found = PoolSpec(
        replicas=fields.number("replicas", 1, least=0, most=1000),
        sessions_per_worker=sessions,
        shards=shards,
        allowed_namespaces=fields.texts("allowedNamespaces", most=256),
        allowed_hosts=hosts,
        scenarios=_scenario_rules(fields.child("scenarios")),
        tool_hosts=_places(fields.child("tools"), folders=False).hosts,
        media=_places(fields.child("media")),
        recordings=_places(fields.child("recordings")),
        exposure=Exposure(host_port, least, most),
        placement=parse_placement(fields.child("placement")),
        quotas=parse_quotas(fields),
        pod_template=fields.mapping("podTemplate"),
        drain_timeout=strategy.duration("drainTimeout", DEFAULT_DRAIN_TIMEOUT),
        strategy=parse_strategy(strategy),
        autoscaling=parse_autoscaling(fields),
        recycle=parse_recycle(fields.child("recycle")),
    )
    for part in (provider, ports, exposure, strategy, fields):
        part.finish()
    return found


def _places(fields: Fields, *, folders: bool = True) -> Places:
    hosts = fields.texts("allowedHosts", most=64)
    paths = fields.texts("directories", most=16) if folders else ()
    found = Places(
        hosts,
        tuple(check_folder(path, f"{fields.at('directories')}[{i}]") for i, path in enumerate(paths)),
    )
    fields.finish()
    return found


def _scenario_rules(fields: Fields) -> ScenarioRules:
    points = fields.texts("entryPoints", most=64) if fields.has("entryPoints") else ("*",)
    found = ScenarioRules(fields.flag("allowSource"), points)
    fields.finish()
    return found


def spec_of(body: Mapping[str, object]) -> object:
    return body.get("spec", {})


def metadata_of(body: Mapping[str, object]) -> Body:
    found = body.get("metadata")
    return dict(cast("Mapping[str, object]", found)) if isinstance(found, Mapping) else {}


def text_at(body: Mapping[str, object], *path: str) -> str:
    """The string at `path`, empty when something on the way is missing."""
    value = _at(body, path)
    return value if isinstance(value, str) else ""


def map_at(body: Mapping[str, object], *path: str) -> dict[str, object]:
    """A copy of the object at `path`, empty when it is missing."""
    value = _at(body, path)
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else {}


def _at(body: Mapping[str, object], path: tuple[str, ...]) -> object:
    value: Any = body
    for key in path:
        # Nearly always a dict, which is told faster than a Mapping: this is looked up dozens of times a
        # session.
        if type(value) is dict or isinstance(value, Mapping):
            value = value.get(key)
        else:
            return None
    return value
