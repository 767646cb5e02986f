"""Why a pod is to be replaced by a new one."""

from __future__ import annotations

from parley_operator.api.fleet import RecycleSpec

from .pods import WorkerPod

REVISION, NODE = "Revision", "Node"
MAX_AGE, MAX_SESSIONS, MAX_MEMORY = "MaxAge", "MaxSessions", "MaxMemory"


def why_replace(pod: WorkerPod, revision: str, recycle: RecycleSpec, node_leaves: bool, now: float) -> str:
    """The reason, the most pressing first; empty for a pod that may stay. `now` is unix seconds."""
    if node_leaves:
        return NODE
    if pod.revision != revision:
        return REVISION
    if recycle.max_age and pod.started and now - pod.started >= recycle.max_age:
        return MAX_AGE
    if recycle.max_sessions and pod.sessions_total >= recycle.max_sessions:
        return MAX_SESSIONS
    # A worker that never ran a session would be no smaller the next time.
    if recycle.max_memory and pod.memory >= recycle.max_memory and pod.sessions_total:
        return MAX_MEMORY
    return ""
