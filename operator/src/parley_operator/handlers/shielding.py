"""Keeps the marks of pods and the disruption budgets of pools true."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from parley_operator.api.constants import BUDGET, POD
from parley_operator.domain.manifests import owner_reference
from parley_operator.domain.pools.pods import WorkerPod
from parley_operator.domain.pools.shield import IDLE_AFTER, build_budget, marks_due
from parley_operator.domain.subjects import PoolView
from parley_operator.ports import Refused

from .context import Context
from .queue import Key

log = logging.getLogger(__name__)
BUDGET_EVERY = 600.0


class Shield:
    """Writes only what differs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._idle_since: dict[Key, dict[str, float]] = {}
        self._budgets: dict[Key, tuple[str, float]] = {}

    def forget(self, key: Key) -> None:
        self._idle_since.pop(key, None)
        self._budgets.pop(key, None)

    async def keep(self, key: Key, pool: PoolView, uid: str, pods: Sequence[WorkerPod]) -> float | None:
        """Returns after how many seconds to look again, where time alone will change a mark."""
        await self._keep_budget(key, pool, uid)
        now, wall = self._context.clock.monotonic(), self._context.clock.now()
        before = self._idle_since.get(key, {})
        idle = {pod.uid: before.get(pod.uid, now) for pod in pods if not pod.sessions}
        self._idle_since[key] = idle
        for pod in pods:
            marks = marks_due(pod, now - idle.get(pod.uid, now), wall)
            if marks is None:
                continue
            body = await self._context.store.patch(POD, key.namespace, pod.name, marks.patch())
            if body is not None:
                self._context.cache.put(POD, body)
        waits = [since + IDLE_AFTER - now for uid_, since in idle.items() if _busy(pods, uid_)]
        return max(0.1, min(waits)) if waits else None

    async def _keep_budget(self, key: Key, pool: PoolView, uid: str) -> None:
        now = self._context.clock.monotonic()
        known, until = self._budgets.get(key, ("", 0.0))
        if known == uid and now < until:
            return
        try:
            budget = build_budget(pool.name, pool.namespace, owner_reference(pool, uid))
            await self._context.store.apply(BUDGET, budget)
        except Refused as error:
            # Without it nodes are drained less gently; the pool works all the same.
            log.warning("pool %s/%s: no disruption budget: %s", key.namespace, key.name, error)
        self._budgets[key] = (uid, now + BUDGET_EVERY)


def _busy(pods: Sequence[WorkerPod], uid: str) -> bool:
    return any(pod.uid == uid and pod.busy and not pod.terminating for pod in pods)
