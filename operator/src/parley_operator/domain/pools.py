"""What to do about the pods of one pool: which to make, which to let go, what to say in its status.

Replacement goes one pod at a time: first a new one, then, when it is ready, an old one drains and goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .status import condition, difference, merge_conditions
from .subjects import PoolView

SURGE = 1


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """A pod as the API server shows it, with what its worker reports. `over` is a pod that will never run
    again, `trouble` why it does not get going."""

    name: str
    uid: str
    hash: str
    ready: bool = False
    terminating: bool = False
    over: bool = False
    sessions: int = 0
    capacity: int = 0
    host_ports: tuple[int, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """`create` new pods; `retire` lets running ones drain and go; `remove` are over already."""

    create: int = 0
    retire: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def decide_pool(replicas: int, wanted_hash: str, pods: Sequence[WorkerPod]) -> PoolDecision:
    remove = tuple(pod.name for pod in pods if pod.over and not pod.terminating)
    alive = [pod for pod in pods if not pod.over and not pod.terminating]
    current = [pod for pod in alive if pod.hash == wanted_hash]
    old = sorted(
        (pod for pod in alive if pod.hash != wanted_hash), key=lambda pod: (pod.ready, pod.sessions, pod.name)
    )
    surplus = sorted(current, key=lambda pod: (pod.ready, pod.sessions, pod.name))
    retire = surplus[: max(0, len(current) - replicas)]
    room = replicas + (SURGE if old else 0) - len(alive)
    create = max(0, min(replicas - len(current), room))
    # Old pods go as far as the ready new ones make up for them, unready old ones as far as there are others.
    ready = sum(pod.ready for pod in alive) - sum(pod.ready for pod in retire)
    for pod in old:
        spare = ready > replicas if pod.ready else len(alive) - len(retire) > replicas
        if spare or replicas == 0:
            retire.append(pod)
            ready -= pod.ready
    return PoolDecision(create, tuple(pod.name for pod in retire), remove)


def pool_status(
    pool: PoolView,
    generation: int,
    previous: Mapping[str, object],
    pods: Sequence[WorkerPod],
    now: float,
    trouble: str = "",
) -> dict[str, object]:
    """The merge patch of the pool's status; empty when nothing changed."""
    alive = [pod for pod in pods if not pod.over and not pod.terminating]
    ready = sum(pod.ready for pod in alive)
    enough = ready >= pool.spec.replicas
    if trouble:
        available = condition("Available", ready > 0, "PodsRefused", trouble, generation)
    else:
        words = f"{ready} of {pool.spec.replicas} workers are ready"
        reasons = sorted({pod.trouble for pod in alive if pod.trouble and not pod.ready})
        if reasons:
            words += f"; pods wait: {', '.join(reasons)}"
        available = condition("Available", enough, "Ready" if enough else "WorkersMissing", words, generation)
    wanted = {
        "observedGeneration": generation,
        "replicas": len(alive),
        "readyReplicas": ready,
        "sessions": sum(pod.sessions for pod in pods),
        "capacity": sum(pod.capacity for pod in alive if pod.ready),
        "selector": f"parley.dev/pool={pool.name}",
        "conditions": merge_conditions(previous.get("conditions"), [available], now),
    }
    return difference(previous, wanted)
