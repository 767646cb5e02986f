"""Revisions of VoiceAgents: each state that a session runs as is kept as a ControllerRevision.

A session keeps the state it started with: whoever places it again asks here by the name in its status.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from parley_operator.api.constants import AGENT, LABEL_AGENT, REVISION, SESSION, Body
from parley_operator.api.fields import FieldError
from parley_operator.api.memo import ByIdentity
from parley_operator.api.v1alpha1 import AgentSpec, parse_agent_spec, spec_of, text_at
from parley_operator.domain.canary import chosen_agent, kept_spec, revision_object, superfluous
from parley_operator.domain.canary import revision_of as revision_of
from parley_operator.domain.checks import Problem, problem_of
from parley_operator.domain.model import Origin
from parley_operator.domain.observation import Subject
from parley_operator.domain.phases import TERMINAL
from parley_operator.ports import Conflict, Refused

if TYPE_CHECKING:
    from .context import Context

log = logging.getLogger(__name__)
# Specs of older states, read from the API server and kept in memory; the least recently used go first.
_KEPT = 256
_STORED = 4096

_agent_spec = ByIdentity(parse_agent_spec, 256)
_revision = ByIdentity(revision_of, 256)


class Revisions:
    """Remembers which revisions are stored, and the specs of older ones."""

    def __init__(self) -> None:
        self._stored: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._storing = asyncio.Lock()
        self._specs: OrderedDict[tuple[str, str], AgentSpec] = OrderedDict()

    async def find(self, context: Context, subject: Subject, name: str) -> tuple[AgentSpec, Origin] | Problem:
        """The agent that the session runs as: the state it started with, else the one that is due to it now.

        Raises `StoreError`.
        """
        kept = text_at(subject.status, "agent", "revision")
        if kept:
            spec = await self._older(context, subject.namespace, kept)
            if spec is not None:
                generation = subject.status["agent"].get("generation")  # type: ignore[attr-defined]
                number = generation if isinstance(generation, int) else 0
                agent = text_at(subject.status, "agent", "name") or name
                return spec, Origin(subject.generation, agent, kept, number)
            log.warning("%s/%s: revision %s is gone; the agent's present state is taken",
                        subject.namespace, subject.name, kept)  # fmt: skip
        return self._present(context, subject, name)

    def _present(self, context: Context, subject: Subject, name: str) -> tuple[AgentSpec, Origin] | Problem:
        found = _read(context, subject.namespace, name)
        if isinstance(found, Problem):
            return found
        body, spec = found
        other = chosen_agent(name, spec, subject.uid)
        if other != name:
            canary = _read(context, subject.namespace, other)
            # A canary that cannot be had costs no call: the agent's own status says what is wrong with it.
            if not isinstance(canary, Problem):
                body, spec = canary
        revision = _revision(body)
        return spec, Origin(subject.generation, revision.agent, revision.name, revision.generation)

    async def _older(self, context: Context, namespace: str, name: str) -> AgentSpec | None:
        key = (namespace, name)
        if key not in self._specs:
            body = await context.store.get(REVISION, namespace, name)
            if body is None:
                return None
            try:
                self._remember(key, parse_agent_spec(kept_spec(body)))
            except FieldError as error:
                log.warning("ControllerRevision %s/%s: %s", namespace, name, error)
                return None
        self._specs.move_to_end(key)
        return self._specs[key]

    def _remember(self, key: tuple[str, str], spec: AgentSpec) -> None:
        self._specs[key] = spec
        while len(self._specs) > _KEPT:
            self._specs.popitem(last=False)

    async def store(self, context: Context, namespace: str, origin: Origin) -> None:
        """Have the revision kept before a session runs as it; once a process. Raises `StoreError`."""
        if origin.agent_revision and (namespace, origin.agent_revision) not in self._stored:
            # Sessions of one agent come together: the first of them keeps its state for all.
            async with self._storing:
                await self._store(context, namespace, origin)

    async def _store(self, context: Context, namespace: str, origin: Origin) -> None:
        key = (namespace, origin.agent_revision)
        if key in self._stored:
            return
        body = context.cache.get(AGENT, namespace, origin.agent)
        if body is None or _revision(body).name != origin.agent_revision:
            return
        try:
            await context.store.create(REVISION, revision_object(body, _revision(body)))
        except Conflict:
            pass
        except Refused as error:
            # Without the right to keep it the call goes on: only its recovery takes the newest state.
            log.error("cannot keep a revision of VoiceAgent %s/%s: %s", namespace, origin.agent, error)
        else:
            await self.prune(context, body)
        self._stored[key] = None
        while len(self._stored) > _STORED:
            self._stored.popitem(last=False)

    async def prune(self, context: Context, agent: Body) -> None:
        """Let the oldest revisions beyond the agent's limit go, but those in use. Raises `StoreError`."""
        try:
            limit = parse_agent_spec(spec_of(agent)).revision_history
        except FieldError:
            return
        uid, current = text_at(agent, "metadata", "uid"), revision_of(agent)
        found = await context.store.list(REVISION, f"{LABEL_AGENT}={uid}")
        own = [body for body in found if text_at(body, "metadata", "labels", LABEL_AGENT) == uid]
        for body in superfluous(own, limit, current.name, used_revisions(context, current.namespace)):
            name = text_at(body, "metadata", "name")
            await context.store.delete(REVISION, current.namespace, name, text_at(body, "metadata", "uid"))
            self._stored.pop((current.namespace, name), None)


def used_revisions(context: Context, namespace: str) -> set[str]:
    """Revisions that sessions of the namespace run as, by their status or by what a worker reports."""
    used = {
        text_at(body, "status", "agent", "revision")
        for key, body in context.cache.of_kind(SESSION)
        if key.namespace == namespace and text_at(body, "status", "phase") not in TERMINAL
    }
    for view in context.links.views():
        used |= {r.origin.agent_revision for r in view.sessions.values() if r.live}
    return used - {""}


def _read(context: Context, namespace: str, name: str) -> tuple[Mapping[str, object], AgentSpec] | Problem:
    body = context.cache.get(AGENT, namespace, name)
    if body is None:
        return Problem(
            "AgentNotFound",
            f"spec.agentRef.name: VoiceAgent {name} does not exist in namespace {namespace}; "
            "create it or name another",
        )
    try:
        return body, _agent_spec(spec_of(body))
    except FieldError as error:
        return problem_of(error, "AgentInvalid", f"spec.agentRef: VoiceAgent {name}: ")
