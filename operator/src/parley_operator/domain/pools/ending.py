"""When the sessions of a pod must be over that somebody deletes: as late as its kubelet lets them."""

from __future__ import annotations

from .pods import WorkerPod

# Between the last session's end and SIGKILL: end hooks and the last records.
LAST_WORK = 13.0
# A worker's word may differ by so much, for clocks and roundings.
NEAR = 3.0


def deadline_due(pod: WorkerPod, drain_timeout: float) -> float:
    """The deadline (unix seconds) that the worker of a terminating pod is to be told; 0 when it knows it.

    Its pod says when it is killed, which the worker cannot see: it guessed when SIGTERM came.
    """
    if not (pod.terminating and pod.certain and pod.killed_at):
        return 0.0
    asked = pod.killed_at - pod.grace
    wanted = pod.deadline if pod.marked else asked + drain_timeout
    wanted = max(asked, min(wanted, pod.killed_at - LAST_WORK))
    known = pod.reported_deadline
    return 0.0 if known and abs(known - wanted) <= NEAR else wanted
