"""From stored objects to what decisions work on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace

from parley_operator.api.constants import Body
from parley_operator.api.fields import FieldError
from parley_operator.api.memo import ByIdentity
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import (
    AgentSpec,
    PoolSpec,
    SessionSpec,
    map_at,
    metadata_of,
    parse_session_spec,
    spec_of,
    text_at,
)

from .checks import (
    Problem,
    SecretView,
    check_credentials,
    check_host,
    check_namespace,
    check_plaintext,
    problem_of,
)
from .conduct import Materials, Needs, check_conduct, conduct_needs, plan_conduct
from .hosts import parse_url
from .merge import merge_provider, provider_headers, provider_url, session_json
from .model import Origin, Placement, ProviderTarget, worker_id
from .observation import Plan, Subject
from .status import parse_timestamp

_session_spec = ByIdentity(parse_session_spec, 1024)


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool that could be read."""

    namespace: str
    name: str
    spec: PoolSpec


def subject_of(body: Mapping[str, object]) -> tuple[Subject, Problem | None]:
    """The session, and what is wrong with its spec where it cannot be parsed."""
    metadata = metadata_of(body)
    spec: SessionSpec | None = None
    problem: Problem | None = None
    try:
        spec = _session_spec(spec_of(body))
    except FieldError as error:
        problem = problem_of(error)
    generation = metadata.get("generation")
    return (
        Subject(
            namespace=str(metadata.get("namespace", "default")),
            name=str(metadata.get("name", "")),
            uid=str(metadata.get("uid", "")),
            generation=generation if isinstance(generation, int) else 1,
            created=parse_timestamp(str(metadata.get("creationTimestamp", ""))),
            spec=spec,
            status=map_at(body, "status"),
            deleting="deletionTimestamp" in metadata,
        ),
        problem,
    )


def bound_placement(status: Mapping[str, object]) -> Placement | None:
    """The placement that a status records; not confirmed while the worker is being asked."""
    worker = worker_id(text_at(status, "worker", "namespace"), text_at(status, "worker", "name"))
    attempt = status.get("attempt")
    if not worker or not isinstance(attempt, int):
        return None
    shard = map_at(status, "worker").get("shard")
    return Placement(
        worker=worker,
        instance_id=text_at(status, "worker", "instanceId"),
        attempt=attempt,
        shard=shard if isinstance(shard, int) else 0,
        endpoint=text_at(status, "worker", "endpoint"),
        tls_server_name=text_at(status, "worker", "tlsServerName"),
        telephony_endpoint=text_at(status, "telephonyEndpoint"),
        confirmed=not _asking(status),
    )


def _asking(status: Mapping[str, object]) -> bool:
    found = status.get("conditions")
    return isinstance(found, list) and any(
        isinstance(c, Mapping) and c.get("type") == "Placed" and c.get("status") == "Unknown" for c in found
    )


def secret_view(body: Body) -> SecretView:
    """A Secret with its data decoded; what cannot be decoded counts as missing."""
    values: dict[str, SecretText] = {}
    for key, text in map_at(body, "data").items():
        try:
            values[key] = SecretText(base64.b64decode(str(text), validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue
    labels = {k: str(v) for k, v in map_at(body, "metadata", "labels").items()}
    annotations = {k: str(v) for k, v in map_at(body, "metadata", "annotations").items()}
    return SecretView(text_at(body, "metadata", "name"), labels, annotations, values)


def owned_by(body: Mapping[str, object], uid: str) -> bool:
    owners = map_at(body, "metadata").get("ownerReferences")
    return isinstance(owners, list) and any(isinstance(o, Mapping) and o.get("uid") == uid for o in owners)


def config_map_data(body: Body) -> dict[str, str]:
    """The text entries of a ConfigMap."""
    return {key: text for key, text in map_at(body, "data").items() if isinstance(text, str)}


def needs_of(agent: AgentSpec, spec: SessionSpec) -> Needs:
    """What must be read before the session can be judged. Raises `FieldError`."""
    needs = conduct_needs(agent, spec)
    reference = merge_provider(agent.provider, spec.provider).credentials
    return replace(needs, secrets=needs.secrets | {reference.name}) if reference else needs


def make_plan(
    namespace: str,
    spec: SessionSpec,
    agent: AgentSpec,
    pool: PoolView,
    given: Materials,
    origin: Origin = Origin(),  # noqa: B008 - immutable
) -> Plan | Problem:
    """Apply every trust rule for a session of the namespace; a plan is a session that may be placed.

    `origin` says where the agent came from.
    """
    outside = check_namespace(pool.spec, pool.name, pool.namespace, namespace)
    if outside:
        return outside
    field_path = (
        "spec.provider.url" if spec.provider.url or not spec.agent_ref else "spec.agentRef: provider.url"
    )
    if spec.agent is not None and not spec.provider.url:
        field_path = "spec.agent.provider.url"
    try:
        provider = merge_provider(agent.provider, spec.provider)
        endpoint = parse_url(provider_url(provider), field_path)
    except FieldError as error:
        return problem_of(error)
    forbidden = check_host(endpoint, pool.spec, field_path)
    if forbidden:
        return forbidden
    refused = check_conduct(agent, spec, pool.spec)
    if refused:
        return refused
    key = SecretText("")
    where = field_path.removesuffix(".url")
    if provider.credentials is not None:
        plain = check_plaintext(endpoint, pool.spec, field_path)
        if plain:
            return plain
        secret = given.secrets.get(provider.credentials.name)
        found = check_credentials(provider.credentials, secret, namespace, endpoint, where)
        if isinstance(found, Problem):
            return found
        key = found
    elif provider.type != "custom":
        return Problem(
            "CredentialsMissing",
            f"{where}.credentialsSecretRef: is required for type {provider.type}; name a Secret that holds "
            f"the API key",
        )
    conduct = plan_conduct(agent, spec, pool.spec, namespace, given)
    if isinstance(conduct, Problem):
        return conduct
    target = ProviderTarget(
        url=provider_url(provider),
        api_version=provider.api_version,
        model=provider.model,
        api_key=key,
        type=provider.type,
        headers=provider_headers(provider),
    )
    return Plan(
        spec=spec,
        pool_namespace=pool.namespace,
        pool_name=pool.name,
        provider=target,
        session_json=session_json(agent, spec, provider.api_version),
        greet=agent.speaks_first and not agent.behaviour.greeting,
        conduct=conduct,
        origin=origin,
    )
