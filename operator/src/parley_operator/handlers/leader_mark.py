"""The label on the leader's pod, by which Services find it. Only a leader writes it, on its own pod and on
others."""

from __future__ import annotations

import asyncio
import logging

from parley_operator.api.constants import LABEL_LEADER, POD
from parley_operator.api.v1alpha1 import text_at
from parley_operator.ports import Store, StoreError

log = logging.getLogger(__name__)
_RETRY = 2.0


class LeaderMark:
    """Of one pod; without a name (outside of a cluster) nothing is written."""

    def __init__(self, store: Store, namespace: str, pod: str) -> None:
        self._store = store
        self._namespace = namespace
        self._pod = pod

    async def take(self) -> None:
        """Put the label on this pod and take it from every other, until that is done."""
        while self._pod:
            try:
                await self._label(self._pod, "true")
                for body in await self._store.list(POD, LABEL_LEADER):
                    name = text_at(body, "metadata", "name")
                    if text_at(body, "metadata", "namespace") == self._namespace and name != self._pod:
                        await self._label(name, None)
            except StoreError as error:
                log.warning("pod %s: the label %s cannot be written: %s", self._pod, LABEL_LEADER, error)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def drop(self) -> None:
        """Before the lease is given up. What fails here is mended by the next leader."""
        if not self._pod:
            return
        try:
            async with asyncio.timeout(_RETRY):
                await self._label(self._pod, None)
        except (StoreError, TimeoutError) as error:
            log.info("pod %s keeps the label %s: %s", self._pod, LABEL_LEADER, error)

    async def _label(self, pod: str, value: str | None) -> None:
        patch = {"metadata": {"labels": {LABEL_LEADER: value}}}
        await self._store.patch(POD, self._namespace, pod, patch)
