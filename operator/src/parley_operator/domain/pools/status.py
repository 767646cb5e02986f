"""What a pool's status says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parley_operator.api.constants import LABEL_DRAINING, LABEL_POOL
from parley_operator.domain.status import condition, difference, merge_conditions
from parley_operator.domain.subjects import PoolView

from .pauses import Hold
from .pods import WorkerPod

# A change of these alone can wait a little: they follow every call.
COUNTS = frozenset({"sessions", "queued"})


@dataclass(frozen=True, slots=True)
class Fleet:
    """A pool as it is: `wanted` workers, `queued` sessions that wait for one."""

    pool: PoolView
    revision: str
    wanted: int
    pods: Sequence[WorkerPod]
    queued: int = 0
    hold: Hold = field(default_factory=Hold)

    @property
    def serving(self) -> list[WorkerPod]:
        return [pod for pod in self.pods if pod.serves]

    @property
    def ready(self) -> int:
        return sum(pod.ready for pod in self.serving)

    @property
    def updated(self) -> int:
        return sum(pod.revision == self.revision for pod in self.serving)

    @property
    def outdated(self) -> int:
        return sum(bool(pod.outdated) for pod in self.serving)

    @property
    def draining(self) -> int:
        return sum(pod.draining and not pod.over for pod in self.pods)


def pool_status(
    fleet: Fleet, generation: int, previous: Mapping[str, object], now: float
) -> dict[str, object]:
    """The merge patch of the pool's status; empty when nothing changed."""
    conditions = [
        _available(fleet, generation),
        _progressing(fleet, generation),
        _degraded(fleet, generation),
    ]
    wanted = {
        "observedGeneration": generation,
        "desiredReplicas": fleet.wanted,
        "replicas": len(fleet.serving),
        "readyReplicas": fleet.ready,
        "updatedReplicas": fleet.updated,
        "drainingReplicas": fleet.draining,
        "sessions": sum(pod.sessions for pod in fleet.pods),
        "capacity": sum(pod.capacity for pod in fleet.serving if pod.ready),
        "queued": fleet.queued,
        "revision": fleet.revision,
        "selector": f"{LABEL_POOL}={fleet.pool.name},{LABEL_DRAINING} notin (true)",
        "conditions": merge_conditions(previous.get("conditions"), conditions, now),
    }
    return difference(previous, wanted)


def invalid_status(
    message: str, generation: int, previous: Mapping[str, object], now: float
) -> dict[str, object]:
    """The patch for a pool whose spec cannot be used."""
    conditions = [
        condition("Available", False, "InvalidSpec", message, generation),
        condition("Degraded", True, "InvalidSpec", message, generation),
    ]
    merged = merge_conditions(previous.get("conditions"), conditions, now)
    return difference(previous, {"conditions": merged, "observedGeneration": generation})


def _available(fleet: Fleet, generation: int) -> dict[str, object]:
    enough = fleet.ready >= fleet.wanted
    words = f"{fleet.ready} of {fleet.wanted} workers are ready"
    scaling = fleet.pool.spec.autoscaling
    if scaling is not None and fleet.queued and fleet.wanted >= scaling.most:
        words += "; sessions wait and spec.autoscaling.max is reached"
    return condition("Available", enough, "Ready" if enough else "WorkersMissing", words, generation)


def _progressing(fleet: Fleet, generation: int) -> dict[str, object]:
    serving = len(fleet.serving)
    if fleet.outdated:
        words = f"{serving - fleet.outdated} of {serving} workers are up to date; {fleet.draining} drain"
        return condition("Progressing", True, "Replacing", words, generation)
    if fleet.ready < fleet.wanted or serving < fleet.wanted:
        words = f"{fleet.ready} of {fleet.wanted} workers are ready"
        return condition("Progressing", True, "Starting", words, generation)
    if fleet.draining:
        return condition("Progressing", True, "Draining", f"{fleet.draining} workers drain", generation)
    return condition("Progressing", False, "Settled", f"{serving} workers are as wanted", generation)


def _degraded(fleet: Fleet, generation: int) -> dict[str, object]:
    """The commonest trouble names the condition; the others are told with it."""
    if fleet.hold.refused:
        return condition("Degraded", True, "PodsRefused", fleet.hold.refused, generation)
    troubles = [pod.trouble for pod in fleet.serving if pod.trouble and not pod.ready]
    if troubles:
        counted = Counter(trouble.reason for trouble in troubles)
        first = min(counted, key=lambda reason: (-counted[reason], reason))
        words = sorted({f"{trouble.reason}: {trouble.words}" for trouble in troubles})
        return condition("Degraded", True, first, "; ".join(words[:3]), generation)
    if fleet.hold.failures and fleet.hold.failed:
        return condition("Degraded", True, "PodsFail", f"pods failed: {fleet.hold.failed}", generation)
    return condition("Degraded", False, "AsExpected", "no worker is in trouble", generation)
