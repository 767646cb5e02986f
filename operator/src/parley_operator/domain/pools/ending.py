"""How long the sessions of a pod may go on that somebody deletes: as long as its kubelet lets them."""

from __future__ import annotations

from .pods import WorkerPod

# Between the last session's end and SIGKILL: end hooks and the last records.
LAST_WORK = 13.0
# A worker's word may differ by so much, for clocks and roundings.
NEAR = 3.0


def time_left(pod: WorkerPod, drain_timeout: float, seen_for: float, now: float) -> float | None:
    """Seconds that the worker of a terminating pod is to be told; `None` when it knows.

    Its pod says when it is killed, which the worker cannot see: it guessed when SIGTERM came. `seen_for` is
    how many seconds ago the deletion was noticed, `now` unix seconds. Of the API server's clock only
    differences are used where it cannot be right by ours: a clock that leaps ends no session.
    """
    if not (pod.terminating and pod.certain and pod.killed_at):
        return None
    passed = now - (pod.killed_at - pod.grace)
    if not -NEAR <= passed <= pod.grace + NEAR:
        passed = 0.0
    passed = max(passed, seen_for)
    left = max(0.0, pod.grace - LAST_WORK - passed)
    known = pod.reported_deadline - now if pod.reported_deadline else None
    if pod.marked:
        # What was promised before holds as far as there is time.
        return left if known is None or known > left + NEAR else None
    left = max(0.0, min(left, drain_timeout - passed))
    return left if known is None or abs(known - left) > NEAR else None
