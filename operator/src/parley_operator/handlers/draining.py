"""Draining: a pod that is to go is marked first, which outlives the operator, then its worker is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from parley_operator.api.constants import (
    ANNOTATION_DRAIN_DEADLINE,
    ANNOTATION_DRAIN_REASON,
    LABEL_DRAINING,
    POD,
)
from parley_operator.domain.model import worker_id
from parley_operator.domain.pools.ending import time_left
from parley_operator.domain.pools.pods import WorkerPod
from parley_operator.domain.status import timestamp
from parley_operator.domain.subjects import PoolView

from .context import Context
from .pool_pods import PoolPods

log = logging.getLogger(__name__)


class Drainer:
    """Marks pods, and has their workers know the deadline."""

    def __init__(self, context: Context, pods: PoolPods) -> None:
        self._context = context
        self._pods = pods
        # When pods were seen to be deleted (monotonic), by pool and uid.
        self._ending: dict[tuple[str, str], dict[str, float]] = {}

    async def mark(self, pool: PoolView, name: str, reason: str) -> None:
        """From now on the pod takes no session, and goes when it is empty or the time is over."""
        # The timestamp has whole seconds: none is taken away.
        deadline = self._context.clock.now() + pool.spec.drain_timeout + 1
        patch = {
            "metadata": {
                "labels": {LABEL_DRAINING: "true"},
                "annotations": {
                    ANNOTATION_DRAIN_DEADLINE: timestamp(deadline),
                    ANNOTATION_DRAIN_REASON: reason,
                },
            }
        }
        body = await self._context.store.patch(POD, pool.namespace, name, patch)
        if body is None:
            return
        log.info("pool %s/%s: worker %s drains (%s)", pool.namespace, pool.name, name, reason)
        self._context.metrics.drain_begun(reason)
        self._context.cache.put(POD, body)
        # At once, and not when the watch tells: nothing may be placed there any more.
        self._pods.pod_seen(body, deleted=False)

    async def keep_told(self, pool: PoolView, pods: Sequence[WorkerPod]) -> None:
        """Workers that do not know yet, such as those that started anew, or that know another deadline."""
        now, monotonic = self._context.clock.now(), self._context.clock.monotonic()
        most = pool.spec.drain_timeout
        ending = self._ending.get((pool.namespace, pool.name), {})
        seen = {pod.uid: ending.get(pod.uid, monotonic) for pod in pods if pod.terminating}
        self._ending[pool.namespace, pool.name] = seen
        asks = []
        for pod in pods:
            worker = worker_id(pool.namespace, pod.name)
            left = time_left(pod, most, monotonic - seen.get(pod.uid, monotonic), now)
            if left is not None:
                asks.append(self._context.links.drain(worker, left, exactly=True))
            elif pod.marked and pod.certain and not pod.told and not pod.terminating:
                # Whatever the clock says: who has not heard of it yet is not ended at once.
                left = pod.deadline - now
                asks.append(self._context.links.drain(worker, left if 0 < left < most else most))
        await asyncio.gather(*asks)

    def forget(self, namespace: str, pool: str) -> None:
        self._ending.pop((namespace, pool), None)
