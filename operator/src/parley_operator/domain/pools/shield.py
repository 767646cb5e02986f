"""What keeps others from taking a busy pod away: its marks, and a budget for exactly the busy ones."""

from __future__ import annotations

from dataclasses import dataclass

from parley_operator.api.constants import (
    ANNOTATION_SAFE_TO_EVICT,
    BUDGET,
    LABEL_BUSY,
    LABEL_POOL,
    RESOURCES,
    Body,
)

from .pods import WorkerPod

# A pod whose last session ended stays marked as busy for so long: another may come, and marks cost writes.
IDLE_AFTER = 10.0
# More than a pool has workers: no busy pod may go, whatever the pool's scale says. A `maxUnavailable` of 0
# would be reckoned against the pool's `scale`, which counts other pods than the busy ones.
_ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class Marks:
    """`busy` as label and `evictable` as annotation."""

    busy: bool

    def patch(self) -> Body:
        busy, safe = ("true", "false") if self.busy else ("false", "true")
        return {"metadata": {"labels": {LABEL_BUSY: busy}, "annotations": {ANNOTATION_SAFE_TO_EVICT: safe}}}


IDLE = Marks(busy=False)


def marks_due(pod: WorkerPod, idle_for: float, now: float) -> Marks | None:
    """What to write on the pod; `None` when its marks are true, or nobody can tell.

    `idle_for` is for how many seconds it has been without sessions. `now` is unix seconds.
    """
    if pod.terminating or pod.over:
        return None
    busy = _busy(pod, idle_for, now)
    if busy is None or (pod.busy, pod.evictable) == (busy, not busy):
        return None
    return Marks(busy)


def _busy(pod: WorkerPod, idle_for: float, now: float) -> bool | None:
    if not pod.running or (pod.draining and 0 < pod.deadline <= now):
        return False
    if not pod.certain:
        return None
    if pod.sessions:
        return True
    return None if pod.busy and idle_for < IDLE_AFTER else False


def budget_name(pool: str) -> str:
    return f"parley-pool-{pool}-busy"


def build_budget(pool: str, namespace: str, owner: Body) -> Body:
    """The PodDisruptionBudget of a pool's busy pods."""
    return {
        "apiVersion": RESOURCES[BUDGET][0].removeprefix("apis/"),
        "kind": BUDGET,
        "metadata": {
            "name": budget_name(pool),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "parley-operator", LABEL_POOL: pool},
            "ownerReferences": [owner],
        },
        "spec": {
            "minAvailable": _ALL,
            "selector": {"matchLabels": {LABEL_POOL: pool, LABEL_BUSY: "true"}},
        },
    }
