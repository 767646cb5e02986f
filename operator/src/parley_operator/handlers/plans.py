"""What a session would run as: its agent, pool and Secret found, and every check passed."""

from __future__ import annotations

from collections.abc import Mapping

from parley_operator.api.constants import AGENT, CONFIG_MAP, POOL, SECRET
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import AgentSpec, SessionSpec, parse_agent_spec, parse_pool_spec, spec_of
from parley_operator.domain.checks import Problem, SecretView, problem_of
from parley_operator.domain.conduct import Materials, Needs
from parley_operator.domain.observation import Plan, Subject
from parley_operator.domain.subjects import PoolView, config_map_data, make_plan, needs_of, secret_view

from .context import Context
from .line import PoolName


async def gather_plan(context: Context, subject: Subject) -> Plan | Problem:
    """The plan of a session that is to be placed, or what stands in its way. Raises `StoreError`."""
    spec = subject.spec
    if spec is None:
        return Problem("InvalidSpec", "spec: cannot be read")
    agent = _agent(context, subject, spec)
    if isinstance(agent, Problem):
        return agent
    pool = _pool(context, subject, spec)
    if isinstance(pool, Problem):
        return pool
    try:
        needs = needs_of(agent, spec)
    except FieldError as error:
        return problem_of(error)
    # The trust rules that need no Secret come first: a session that breaks one makes nobody read any.
    found = make_plan(subject, spec, agent, pool, Materials())
    if isinstance(found, Plan) or found.reason not in ("SecretNotFound", "ConfigMapNotFound"):
        return found
    return make_plan(subject, spec, agent, pool, await _read(context, subject.namespace, needs))


async def _read(context: Context, namespace: str, needs: Needs) -> Materials:
    secrets: dict[str, SecretView | None] = {}
    for name in sorted(needs.secrets):
        body = await context.store.get(SECRET, namespace, name)
        secrets[name] = secret_view(body) if body else None
    maps: dict[str, Mapping[str, str] | None] = {}
    for name in sorted(needs.config_maps):
        body = await context.store.get(CONFIG_MAP, namespace, name)
        maps[name] = config_map_data(body) if body else None
    return Materials(secrets, maps)


def _agent(context: Context, subject: Subject, spec: SessionSpec) -> AgentSpec | Problem:
    if spec.agent is not None:
        return spec.agent
    body = context.cache.get(AGENT, subject.namespace, spec.agent_ref)
    if body is None:
        return Problem(
            "AgentNotFound",
            f"spec.agentRef.name: VoiceAgent {spec.agent_ref} does not exist in namespace "
            f"{subject.namespace}; create it or name another",
        )
    try:
        return parse_agent_spec(spec_of(body))
    except FieldError as error:
        return problem_of(error, "AgentInvalid", f"spec.agentRef: VoiceAgent {spec.agent_ref}: ")


def pools_of(context: Context, subject: Subject) -> list[PoolName]:
    """The pools that the session may mean, in the order in which they are looked for."""
    if subject.spec is None:
        return []
    reference = subject.spec.pool
    own = [subject.namespace, context.settings.default_pool_namespace]
    namespaces = [reference.namespace] if reference.namespace else list(dict.fromkeys(own))
    return [(namespace, reference.name) for namespace in namespaces]


def _pool(context: Context, subject: Subject, spec: SessionSpec) -> PoolView | Problem:
    reference = spec.pool
    namespaces = [namespace for namespace, _ in pools_of(context, subject)]
    for namespace in namespaces:
        body = context.cache.get(POOL, namespace, reference.name)
        if body is None:
            continue
        try:
            return PoolView(namespace, reference.name, parse_pool_spec(spec_of(body)))
        except FieldError as error:
            return problem_of(error, "PoolInvalid", f"spec.poolRef: VoiceWorkerPool {reference.name}: ")
    return Problem(
        "PoolNotFound",
        f"spec.poolRef: VoiceWorkerPool {reference.name} does not exist in namespace "
        f"{' or '.join(namespaces)}; create it or name another",
    )
