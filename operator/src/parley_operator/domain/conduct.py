"""What an agent does beside conversing, once every trust rule let it through: targets of a worker.

`plan_conduct` is pure: Secrets and ConfigMaps come in as they were read. A `Problem` names the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from parley_operator.api.conduct import BehaviourSpec, RecordingSpec, RecoverySpec, ScenarioSpec
from parley_operator.api.fields import FieldError
from parley_operator.api.references import SecretRef
from parley_operator.api.secret import SecretText
from parley_operator.api.tools import RouteSpec, ToolSpec
from parley_operator.api.v1alpha1 import AgentSpec, Places, PoolSpec, SessionSpec

from .checks import (
    RECORDING_CREDENTIALS,
    TOOL_CREDENTIALS,
    Problem,
    SecretView,
    check_places,
    first_problem,
    open_secret,
    problem_of,
)
from .hosts import parse_url
from .merge import deep_merge

MAX_SOURCE_BYTES = 256 * 1024
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "accessKeyId", "secretAccessKey"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Materials:
    """What was read for a session in its namespace, by name. `None`: it does not exist."""

    secrets: Mapping[str, SecretView | None] = field(default_factory=dict, repr=False)
    config_maps: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ToolTarget:
    """A route with its signing key."""

    name: str
    route: RouteSpec
    signing_key: SecretText = field(default_factory=lambda: SecretText(""), repr=False)


@dataclass(frozen=True, slots=True)
class ScenarioTarget:
    """User code with its source where it comes from a ConfigMap; `parameters_json` is "" for none."""

    spec: ScenarioSpec
    source: str = field(default="", repr=False)
    file_name: str = ""
    parameters_json: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RecordingTarget:
    """A recording with the store's keys."""

    spec: RecordingSpec
    access_key_id: SecretText = field(default_factory=lambda: SecretText(""), repr=False)
    secret_access_key: SecretText = field(default_factory=lambda: SecretText(""), repr=False)


@dataclass(frozen=True, slots=True)
class Conduct:
    """Everything that a session does beside conversing."""

    behaviour: BehaviourSpec = field(default_factory=BehaviourSpec)
    tools: tuple[ToolTarget, ...] = ()
    scenario: ScenarioTarget | None = None
    recording: RecordingTarget | None = None
    recovery: RecoverySpec = field(default_factory=RecoverySpec)
    media: Places = field(default_factory=Places)
    trace: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """Names of the objects that must be read before a session can be judged."""

    secrets: frozenset[str] = frozenset()
    config_maps: frozenset[str] = frozenset()


def conduct_needs(agent: AgentSpec, spec: SessionSpec) -> Needs:
    """What `plan_conduct` will ask for."""
    routes = [tool.route for tool in agent.tools if tool.route is not None]
    secrets = {route.signing.name for route in routes if route.signing is not None}
    if spec.recording is not None and spec.recording.credentials:
        secrets.add(spec.recording.credentials)
    scenario = merge_scenario(agent.scenario, spec.scenario)
    maps = {scenario.source.name} if scenario is not None and scenario.source is not None else set()
    return Needs(frozenset(secrets), frozenset(maps))


def check_conduct(agent: AgentSpec, spec: SessionSpec, pool: PoolSpec) -> Problem | None:
    """The pool's rules: what can be said before any Secret or ConfigMap is read."""
    where = _agent_path(spec)
    scenario = merge_scenario(agent.scenario, spec.scenario)
    routes = (
        _route_problem(tool, pool, f"{where}.tools[{index}].route", scenario)
        for index, tool in enumerate(agent.tools)
    )
    rules = [
        _goodbye_problem(agent.behaviour, spec, where),
        _scenario_problem(scenario, pool, _scenario_path(spec)),
        *routes,
        _recording_problem(spec.recording, pool),
    ]
    return first_problem(rules)


def plan_conduct(
    agent: AgentSpec, spec: SessionSpec, pool: PoolSpec, namespace: str, given: Materials
) -> Conduct | Problem:
    """Put the Secrets and the ConfigMap that were read in their places; `check_conduct` found no problem."""
    tools = _tools(agent, namespace, given, _agent_path(spec))
    if isinstance(tools, Problem):
        return tools
    recording = _recording(spec.recording, namespace, given)
    if isinstance(recording, Problem):
        return recording
    scenario = merge_scenario(agent.scenario, spec.scenario)
    target = _scenario(scenario, namespace, given, _scenario_path(spec))
    if isinstance(target, Problem):
        return target
    return Conduct(agent.behaviour, tools, target, recording, spec.recovery, pool.media, spec.trace)


def _agent_path(spec: SessionSpec) -> str:
    return "spec.agent" if spec.agent is not None else "spec.agentRef: spec"


def _scenario_path(spec: SessionSpec) -> str:
    own = spec.scenario is not None and (spec.scenario.has_code or spec.agent is None)
    return "spec.scenario" if own else f"{_agent_path(spec)}.scenario"


def merge_scenario(agent: ScenarioSpec | None, session: ScenarioSpec | None) -> ScenarioSpec | None:
    """A session's code stands alone; without code its parameters and limits are laid over the agent's."""
    if session is None or (session.has_code or agent is None):
        return session if session is not None else agent
    ours, theirs = session.limits, agent.limits
    limits = replace(
        theirs,
        handler_timeout=ours.handler_timeout or theirs.handler_timeout,
        memory_bytes=ours.memory_bytes or theirs.memory_bytes,
        timers=ours.timers or theirs.timers,
        events_per_second=ours.events_per_second or theirs.events_per_second,
    )
    return replace(agent, parameters=deep_merge(agent.parameters, session.parameters), limits=limits)


def _goodbye_problem(behaviour: BehaviourSpec, spec: SessionSpec, where: str) -> Problem | None:
    longest = spec.limits.max_duration
    if not longest or behaviour.goodbye_before < longest:
        return None
    return Problem(
        "InvalidSpec",
        f"{where}.goodbye.before: is {behaviour.goodbye_before:g} s, which is not less than "
        f"spec.limits.maxDuration ({longest:g} s); shorten it or allow more time",
    )


def _scenario_problem(scenario: ScenarioSpec | None, pool: PoolSpec, where: str) -> Problem | None:
    if scenario is None:
        return None
    if not scenario.has_code:
        return Problem(
            "InvalidSpec",
            f"{where}: has no code and the agent has no scenario; set entryPoint or configMapRef",
        )
    if scenario.source is not None:
        if pool.scenarios.source:
            return None
        return Problem(
            "ScenarioSourceNotAllowed",
            f"{where}.configMapRef: the pool runs no source from ConfigMaps; use an entryPoint of the "
            "worker's image, or have the pool's owner set spec.scenarios.allowSource",
        )
    if any(fnmatchcase(scenario.entry_point, pattern) for pattern in pool.scenarios.entry_points):
        return None
    return Problem(
        "EntryPointNotAllowed",
        f"{where}.entryPoint: {scenario.entry_point} is not in the pool's spec.scenarios.entryPoints; "
        "ask the pool's owner to add it or use another",
    )


def _route_problem(
    tool: ToolSpec, pool: PoolSpec, where: str, scenario: ScenarioSpec | None
) -> Problem | None:
    route = tool.route
    if route is None or route.kind not in ("scenario", "webhook"):
        return None
    if route.kind == "scenario":
        if scenario is not None:
            return None
        return Problem(
            "InvalidSpec", f"{where}.scenario: the session has no scenario; add one or choose another route"
        )
    try:
        endpoint = parse_url(route.url, f"{where}.webhook.url", schemes=("https", "http"))
    except FieldError as error:
        return problem_of(error)
    if route.ca_pem and "-----BEGIN CERTIFICATE-----" not in route.ca_pem:
        return Problem("InvalidSpec", f"{where}.webhook.caBundle: holds no certificate in PEM form")
    return check_places(endpoint, pool.tool_hosts, "spec.tools.allowedHosts", f"{where}.webhook.url")


def _tools(
    agent: AgentSpec, namespace: str, given: Materials, where: str
) -> tuple[ToolTarget, ...] | Problem:
    found = []
    for index, tool in enumerate(agent.tools):
        if tool.route is None:
            continue
        path = f"{where}.tools[{index}].route.webhook"
        key = SecretText("")
        if tool.route.signing is not None:
            endpoint = parse_url(tool.route.url, f"{path}.url", schemes=("https", "http"))
            secret = given.secrets.get(tool.route.signing.name)
            opened = open_secret(
                tool.route.signing, secret, TOOL_CREDENTIALS, namespace, endpoint, f"{path}.signingSecretRef"
            )
            if isinstance(opened, Problem):
                return opened
            key = opened
        found.append(ToolTarget(tool.name, tool.route, key))
    return tuple(found)


def _recording_problem(recording: RecordingSpec | None, pool: PoolSpec) -> Problem | None:
    if recording is None:
        return None
    if recording.directory:
        folder = recording.directory.rstrip("/") + "/"
        if any(folder.startswith(known.rstrip("/") + "/") for known in pool.recordings.directories):
            return None
        return Problem(
            "DirectoryNotAllowed",
            f"spec.recording.volume.path: {recording.directory} is not below one of the pool's "
            "spec.recordings.directories; have the pool's owner mount a volume there and list it",
        )
    try:
        endpoint = parse_url(store_url(recording), "spec.recording.s3.endpoint", schemes=("https", "http"))
    except FieldError as error:
        return problem_of(error)
    return check_places(
        endpoint, pool.recordings.hosts, "spec.recordings.allowedHosts", "spec.recording.s3.endpoint"
    )


def store_url(recording: RecordingSpec) -> str:
    """The URL of the S3-compatible service; AWS's own of the region where none is given."""
    return recording.s3_endpoint or f"https://s3.{recording.s3_region or DEFAULT_REGION}.amazonaws.com"


def _recording(
    recording: RecordingSpec | None, namespace: str, given: Materials
) -> RecordingTarget | Problem | None:
    if recording is None or recording.directory:
        return None if recording is None else RecordingTarget(recording)
    endpoint = parse_url(store_url(recording), "spec.recording.s3.endpoint", schemes=("https", "http"))
    keys = []
    for name in (ACCESS_KEY_ID, SECRET_ACCESS_KEY):
        opened = open_secret(
            SecretRef(recording.credentials, name),
            given.secrets.get(recording.credentials),
            RECORDING_CREDENTIALS,
            namespace,
            endpoint,
            "spec.recording.s3.credentialsSecretRef",
        )
        if isinstance(opened, Problem):
            return opened
        keys.append(opened)
    return RecordingTarget(recording, *keys)


def _scenario(
    scenario: ScenarioSpec | None, namespace: str, given: Materials, where: str
) -> ScenarioTarget | Problem | None:
    if scenario is None:
        return None
    parameters = ""
    if scenario.parameters:
        parameters = json.dumps(dict(scenario.parameters), separators=(",", ":"), ensure_ascii=False)
    reference = scenario.source
    if reference is None:
        return ScenarioTarget(scenario, parameters_json=parameters)
    data = given.config_maps.get(reference.name)
    if data is None:
        return Problem(
            "ConfigMapNotFound",
            f"{where}.configMapRef.name: ConfigMap {reference.name} does not exist in namespace {namespace}; "
            "create it or name another",
        )
    source = data.get(reference.key, "")
    if not source.strip():
        return Problem(
            "ConfigMapKeyMissing",
            f"{where}.configMapRef.key: ConfigMap {reference.name} has no text under key {reference.key}; "
            "add it or name another key",
        )
    size = len(source.encode())
    if size > MAX_SOURCE_BYTES:
        return Problem(
            "ScenarioTooLarge",
            f"{where}.configMapRef.key: {reference.key} of ConfigMap {reference.name} has {size} bytes; "
            f"at most {MAX_SOURCE_BYTES} are run",
        )
    return ScenarioTarget(scenario, source, reference.key, parameters)
