"""Which pods of a pool to make, which to drain and which to delete.

New pods come first: an old one drains when a ready one makes up for it. A pod is deleted only when nothing
runs in it, when its sessions are over, or when its drain's deadline has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .pods import WorkerPod

SCALE_DOWN = "ScaleDown"
# Beyond the deadline, for the ends of sessions to be told before the pod goes.
AFTER_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """`create` new pods; `drain` these, each with the reason; `delete` these, which are empty or out of time;
    `remove` are over already."""

    create: int = 0
    drain: tuple[tuple[str, str], ...] = ()
    delete: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def decide_pool(wanted: int, surge: int, pods: Sequence[WorkerPod], now: float) -> PoolDecision:
    """`wanted` workers are to serve; while some are replaced there may be `surge` more pods.

    Pods that drain count against the surge. `now` is unix seconds.
    """
    serving = [pod for pod in pods if pod.serves]
    draining = [pod for pod in pods if pod.draining and not pod.over and not pod.terminating]
    current = [pod for pod in serving if not pod.outdated]
    old = sorted((pod for pod in serving if pod.outdated), key=_emptiest)
    going = [(pod, SCALE_DOWN) for pod in sorted(current, key=_emptiest)[: max(0, len(current) - wanted)]]
    ready = sum(pod.ready for pod in serving) - sum(pod.ready for pod, _ in going)
    left = len(serving) - len(going)
    for pod in old:
        # Old pods go as far as ready ones make up for them, unready ones as far as there are others.
        spare = ready > wanted if pod.ready else left > wanted
        if spare or wanted == 0:
            going.append((pod, pod.outdated if wanted else SCALE_DOWN))
            ready -= pod.ready
            left -= 1
    return PoolDecision(
        create=_to_create(wanted, surge, len(serving), len(current), len(draining)),
        drain=tuple((pod.name, reason) for pod, reason in going if not surely_empty(pod)),
        delete=(
            *(pod.name for pod, _ in going if surely_empty(pod)),
            *(pod.name for pod in draining if drained(pod, now)),
        ),
        remove=tuple(pod.name for pod in pods if pod.over and not pod.terminating),
    )


def _to_create(wanted: int, surge: int, serving: int, current: int, draining: int) -> int:
    """What is missing at once, and for old pods as many as the surge has room for."""
    missing = max(0, wanted - serving)
    replacing = max(0, wanted - current - missing)
    room = max(0, wanted + surge - max(serving, wanted) - draining)
    return missing + min(replacing, room)


def surely_empty(pod: WorkerPod) -> bool:
    """Nothing runs in it, so nothing has to drain."""
    return not pod.running


def drained(pod: WorkerPod, now: float) -> bool:
    """A draining pod has nothing left to lose, or no time left."""
    if surely_empty(pod) or (pod.certain and pod.told and pod.sessions == 0):
        return True
    return pod.deadline > 0 and now >= pod.deadline + AFTER_DEADLINE


def _emptiest(pod: WorkerPod) -> tuple[bool, bool, int, bool, str]:
    """Those that go first come first: unready ones, then those that are known to have the fewest sessions."""
    return (pod.ready, not pod.certain, pod.sessions, not pod.parting, pod.name)
