"""VoiceAgents: their status says whether they can be used, and how many sessions run as which revision."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from parley_operator.api.constants import AGENT, SESSION, Body
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import AgentSpec, map_at, metadata_of, parse_agent_spec, spec_of, text_at
from parley_operator.domain.canary import revision_of
from parley_operator.domain.event_facts import condition_facts
from parley_operator.domain.phases import TERMINAL
from parley_operator.domain.status import condition, merge_conditions
from parley_operator.ports import Conflict

from .context import Context
from .queue import Key

log = logging.getLogger(__name__)
# Sessions come and go: their number is written this often at most.
COUNT_EVERY = 10.0
MAX_REVISIONS = 20
_OWN_CONDITIONS = ("Accepted", "CanaryReady")

Counts = dict[tuple[str, str], Counter[tuple[str, int]]]


class AgentReconciler:
    """Status of VoiceAgents, by server-side apply: the whole of what the operator says, each time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._counts: Counts = {}
        self._counted_at = float("-inf")

    async def reconcile(self, key: Key) -> float | None:
        body = self._context.cache.get(AGENT, key.namespace, key.name)
        if body is None:
            return None
        before = _own(map_at(body, "status"))
        wanted = self._status(key, body, before)
        if wanted == before:
            return None
        try:
            fresh = await self._context.store.apply_status(AGENT, body, wanted)
        except Conflict:
            return 1.0
        if fresh is not None:
            self._context.cache.put(AGENT, fresh)
            self._context.events.tell(AGENT, fresh, condition_facts(before, map_at(fresh, "status"), "Check"))
        return None

    def _status(self, key: Key, body: Body, before: dict[str, object]) -> dict[str, object]:
        generation = metadata_of(body).get("generation")
        number = generation if isinstance(generation, int) else 1
        try:
            spec = parse_agent_spec(spec_of(body))
        except FieldError as error:
            conditions = [condition("Accepted", False, "InvalidSpec", str(error), number)]
        else:
            conditions = [condition("Accepted", True, "Accepted", "", number)]
            conditions += self._canary(key, spec, number)
        kinds = {item["type"] for item in conditions}
        earlier = [item for item in _conditions(before) if item.get("type") in kinds]
        merged = merge_conditions(earlier, conditions, self._context.clock.now())
        counts = self._counts.get((key.namespace, key.name), Counter())
        revisions = [
            {"name": name, "generation": seen, "sessions": count}
            for (name, seen), count in sorted(counts.items(), key=lambda item: (-item[0][1], item[0][0]))
        ]
        return {
            "observedGeneration": number,
            "conditions": merged,
            "revision": revision_of(body).name,
            "sessions": sum(counts.values()),
            "revisions": revisions[:MAX_REVISIONS],
        }

    def _canary(self, key: Key, spec: AgentSpec, generation: int) -> list[dict[str, object]]:
        """A canary that cannot be used gets no session: said here, since no session will say it."""
        if spec.canary is None:
            return []
        name = spec.canary.agent
        other = self._context.cache.get(AGENT, key.namespace, name)
        problem = ""
        if name == key.name:
            problem = "is this agent itself; name another"
        elif other is None:
            problem = f"VoiceAgent {name} does not exist in namespace {key.namespace}; create it"
        else:
            try:
                parse_agent_spec(spec_of(other))
            except FieldError as error:
                problem = f"VoiceAgent {name}: {error}"
        if problem:
            words = f"spec.canary.agentRef.name: {problem}; until then every session gets {key.name}"
            return [condition("CanaryReady", False, "CanaryNotUsable", words, generation)]
        words = f"{spec.canary.weight} of 100 new sessions get {name}"
        return [condition("CanaryReady", True, "CanaryUsable", words, generation)]

    # -- now and then

    def count(self) -> None:
        """Count live sessions by agent, and have a look at the agents whose count changed."""
        context = self._context
        now = context.clock.monotonic()
        if now - self._counted_at < COUNT_EVERY:
            return
        self._counted_at = now
        counts: Counts = {}
        for key, body in context.cache.of_kind(SESSION):
            status = body.get("status")
            agent = map_at({"s": status}, "s", "agent")
            if agent and text_at(body, "status", "phase") not in TERMINAL:
                number = agent.get("generation")
                revision = (str(agent.get("revision", "")), number if isinstance(number, int) else 0)
                counts.setdefault((key.namespace, str(agent.get("name", ""))), Counter())[revision] += 1
        changed = [at for at in counts.keys() | self._counts.keys() if counts.get(at) != self._counts.get(at)]
        self._counts = counts
        for namespace, name in changed:
            context.queue.add(Key(AGENT, namespace, name))
        context.metrics.agent_sessions(
            {
                (namespace, name, number): count
                for (namespace, name), found in counts.items()
                for (_, number), count in found.items()
            }
        )


def _conditions(status: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = status.get("conditions")
    return [item for item in (found if isinstance(found, list) else []) if isinstance(item, Mapping)]


def _own(status: dict[str, object]) -> dict[str, object]:
    """The status without what others say in it."""
    return {**status, "conditions": [c for c in _conditions(status) if c.get("type") in _OWN_CONDITIONS]}
