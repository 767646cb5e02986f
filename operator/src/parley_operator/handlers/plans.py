"""What a session would run as: its agent, pool and Secret found, and every check passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parley_operator.api.constants import CONFIG_MAP, POOL, SECRET
from parley_operator.api.fields import FieldError
from parley_operator.api.memo import ByIdentity
from parley_operator.api.placement import SelectorSpec
from parley_operator.api.v1alpha1 import (
    AgentSpec,
    PoolRef,
    SessionSpec,
    parse_pool_spec,
    spec_of,
)
from parley_operator.domain.checks import Problem, SecretView, problem_of
from parley_operator.domain.conduct import Materials, Needs
from parley_operator.domain.model import Origin
from parley_operator.domain.observation import Plan, Subject
from parley_operator.domain.placement.demand import Choice, Choices, Need, PoolName
from parley_operator.domain.subjects import PoolView, config_map_data, make_plan, needs_of, secret_view

from .context import Context

_pool_spec = ByIdentity(parse_pool_spec, 128)


async def gather_plan(
    context: Context, subject: Subject, pool_name: PoolName | None = None
) -> Plan | Problem:
    """The plan of a session on workers of a pool, or what stands in its way. Raises `StoreError`.

    Without `pool_name` the pool is the first one that the session asks for.
    """
    spec = subject.spec
    if spec is None:
        return Problem("InvalidSpec", "spec: cannot be read")
    agent, origin = spec.agent, Origin(subject.generation)
    if agent is None:
        chosen = await context.revisions.find(context, subject, spec.agent_ref)
        if isinstance(chosen, Problem):
            return chosen
        agent, origin = chosen
    wanted, where = selectors_of(spec)[0]
    names = pool_names(context, subject, wanted.pool or spec.pool) if pool_name is None else [pool_name]
    pool = _pool(context, names, where)
    if isinstance(pool, Problem):
        return pool
    # The trust rules that need no Secret come first: a session that breaks one makes nobody read any.
    found = _judge(subject.namespace, spec, agent, pool, origin)
    if isinstance(found, Problem) and found.reason in ("SecretNotFound", "ConfigMapNotFound"):
        materials = await _read(context, subject.namespace, needs_of(agent, spec))
        found = make_plan(subject.namespace, spec, agent, pool, materials, origin)
    if isinstance(found, Plan):
        await context.revisions.store(context, subject.namespace, origin)
    return found


class _Judged:
    """What came of specs that were judged before, without any Secret: sessions of one template on one pool
    are all judged alike. Specs are told apart as `ByIdentity` does."""

    SIZE = 1024

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[tuple[object, ...], Plan | Problem]] = {}

    def __call__(
        self, namespace: str, spec: SessionSpec, agent: AgentSpec, pool: PoolView, origin: Origin
    ) -> Plan | Problem:
        judged = (spec, agent, pool.spec)
        key = (namespace, pool.namespace, pool.name, origin, *map(id, judged))
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        found = _unfurnished(namespace, spec, agent, pool, origin)
        # Holding them keeps their ids from being given to others.
        self._kept[key] = (judged, found)
        if len(self._kept) > self.SIZE:
            del self._kept[next(iter(self._kept))]
        return found


_judge = _Judged()


def _unfurnished(
    namespace: str, spec: SessionSpec, agent: AgentSpec, pool: PoolView, origin: Origin
) -> Plan | Problem:
    try:
        needs_of(agent, spec)
    except FieldError as error:
        return problem_of(error)
    return make_plan(namespace, spec, agent, pool, Materials(), origin)


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


def selectors_of(spec: SessionSpec) -> list[tuple[SelectorSpec, str]]:
    """What the session asks for in order, each with the field that says which pool."""
    if not spec.selectors:
        return [(SelectorSpec(), "spec.poolRef")]
    return [
        (selector, f"spec.selectors[{index}].pool" if selector.pool else "spec.poolRef")
        for index, selector in enumerate(spec.selectors)
    ]


def pool_names(context: Context, subject: Subject, reference: PoolRef) -> list[PoolName]:
    """The pools that a reference may mean, in the order in which they are looked for."""
    own = [subject.namespace, context.settings.default_pool_namespace]
    namespaces = [reference.namespace] if reference.namespace else list(dict.fromkeys(own))
    return [(namespace, reference.name) for namespace in namespaces]


def pools_of(context: Context, subject: Subject) -> list[PoolName]:
    """All pools that the session may mean."""
    spec = subject.spec
    if spec is None:
        return []
    references = [selector.pool or spec.pool for selector, _ in selectors_of(spec)]
    return [name for reference in references for name in pool_names(context, subject, reference)]


@dataclass(frozen=True, slots=True)
class Weighed:
    """Where a session may be placed, and as what in each pool."""

    choices: Choices
    plans: Mapping[PoolName, Plan]


async def weigh(context: Context, subject: Subject) -> Weighed | Problem:
    """Everything that the session asks for, less what it may not have. Raises `StoreError`.

    A problem when nothing is left: that of the first selector.
    """
    spec = subject.spec
    if spec is None:
        return Problem("InvalidSpec", "spec: cannot be read")
    choices: list[Choice] = []
    plans: dict[PoolName, Plan] = {}
    problems: list[Problem] = []
    for selector, where in selectors_of(spec):
        pool = _pool(context, pool_names(context, subject, selector.pool or spec.pool), where)
        if isinstance(pool, Problem):
            problems.append(pool)
            continue
        name = (pool.namespace, pool.name)
        if name not in plans:
            plan = await gather_plan(context, subject, name)
            if isinstance(plan, Problem):
                problems.append(plan)
                continue
            plans[name] = plan
        choices.append(Choice(name, Need(selector.labels, selector.zone)))
    return Weighed(tuple(choices), plans) if choices else problems[0]


def _pool(context: Context, names: Sequence[PoolName], where: str) -> PoolView | Problem:
    for namespace, name in names:
        body = context.cache.get(POOL, namespace, name)
        if body is None:
            continue
        try:
            return PoolView(namespace, name, _pool_spec(spec_of(body)))
        except FieldError as error:
            return problem_of(error, "PoolInvalid", f"{where}: VoiceWorkerPool {name}: ")
    places = " or ".join(namespace for namespace, _ in names)
    return Problem(
        "PoolNotFound",
        f"{where}: VoiceWorkerPool {names[0][1]} does not exist in namespace {places}; "
        f"create it or name another",
    )
