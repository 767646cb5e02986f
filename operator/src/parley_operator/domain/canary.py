"""Agents in several states: their revisions, and which of two agents a session gets.

The choice depends on the uid alone. So it is the same however often it is taken, and a session that the
canary got at a low weight it gets at every higher one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from parley_operator.api.constants import AGENT, API_VERSION, LABEL_AGENT, REVISION, REVISION_API, Body
from parley_operator.api.v1alpha1 import AgentSpec, map_at, metadata_of, spec_of, text_at

# What a name may have, less "-" and the digest.
_LONGEST = 253
_DIGEST = 10


def canary_gets(uid: str, weight: int) -> bool:
    """Whether the session is one of the `weight` in a hundred."""
    number = int.from_bytes(sha256(f"canary/{uid}".encode()).digest()[:4], "big")
    return number % 100 < weight


def chosen_agent(name: str, spec: AgentSpec, uid: str) -> str:
    """The agent itself, or its canary."""
    canary = spec.canary
    return canary.agent if canary is not None and canary_gets(uid, canary.weight) else name


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of an agent: the name of its ControllerRevision and the generation that it was first seen
    as."""

    namespace: str
    agent: str
    name: str
    generation: int


def revision_of(body: Mapping[str, object]) -> Revision:
    """Equal specs of one agent object have one revision, whatever came between. Canary and history are no
    part of it: they do not change what a session runs."""
    metadata = metadata_of(body)
    name = text_at(body, "metadata", "name")
    text = json.dumps([text_at(body, "metadata", "uid"), what_runs(body)], sort_keys=True, default=str)
    digest = sha256(text.encode()).hexdigest()[:_DIGEST]
    generation = metadata.get("generation")
    return Revision(
        text_at(body, "metadata", "namespace") or "default",
        name,
        f"{name[: _LONGEST - _DIGEST - 1].rstrip('.-')}-{digest}",
        generation if isinstance(generation, int) else 1,
    )


def what_runs(body: Mapping[str, object]) -> dict[str, object]:
    """The spec without what concerns the choice between agents."""
    spec = spec_of(body)
    spec = spec if isinstance(spec, Mapping) else {}
    return {key: value for key, value in spec.items() if key not in ("canary", "revisionHistoryLimit")}


def revision_object(body: Mapping[str, object], revision: Revision) -> Body:
    """The ControllerRevision that keeps this state; it goes with the agent."""
    uid = text_at(body, "metadata", "uid")
    return {
        "apiVersion": REVISION_API,
        "kind": REVISION,
        "metadata": {
            "name": revision.name,
            "namespace": revision.namespace,
            "labels": {LABEL_AGENT: uid, "app.kubernetes.io/managed-by": "parley-operator"},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": AGENT,
                    "name": revision.agent,
                    "uid": uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "revision": revision.generation,
        "data": {"spec": what_runs(body)},
    }


def kept_spec(revision: Mapping[str, object]) -> dict[str, object]:
    """The spec that a ControllerRevision keeps."""
    return map_at(revision, "data", "spec")


def superfluous(found: Iterable[Body], limit: int, current: str, used: Iterable[str]) -> list[Body]:
    """The revisions that may go: the oldest beyond `limit`; never the current one or one in use."""
    kept = {current, *used}
    idle = [body for body in found if text_at(body, "metadata", "name") not in kept]
    idle.sort(key=_number, reverse=True)
    return idle[limit:]


def _number(body: Body) -> tuple[int, str]:
    number = body.get("revision")
    return (number if isinstance(number, int) else 0, text_at(body, "metadata", "creationTimestamp"))
