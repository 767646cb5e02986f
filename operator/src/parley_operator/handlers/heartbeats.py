"""Asks after the nodes of silent workers, and has their workers count as unreachable when they are lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from parley_operator.api.constants import LEASE
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.pools.heartbeats import Heartbeats
from parley_operator.ports import StoreError

from .context import Context
from .placements import UNREACHABLE_SILENT

log = logging.getLogger(__name__)
LEASES = "kube-node-lease"
LOOK_EVERY = 1.0
# Leases that are read in one look; where more nodes are silent, the fault is likely ours.
_MOST = 32


class NodeHeartbeats:
    """`run` until cancelled; `changed` is told of each node whose fate changed."""

    def __init__(self, context: Context, changed: Callable[[str], None]) -> None:
        self._context = context
        self._changed = changed
        self._beats = Heartbeats()
        self._lost: frozenset[str] = frozenset()
        self._refused = False

    def lost(self, node: str) -> bool:
        """Whether its workers are silent and its Lease stands still."""
        return node in self._lost

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.look()
            except Exception:
                log.exception("cannot look after nodes")

    async def look(self) -> None:
        """Read the Leases of the nodes whose workers say nothing."""
        views = self._context.links.views()
        silent = {v.node for v in views if v.node and not v.connected and v.silent_for >= UNREACHABLE_SILENT}
        self._beats.only(silent)
        for node in sorted(silent)[:_MOST]:
            await self._ask(node)
        before, self._lost = self._lost, self._beats.stopped(self._context.clock.monotonic())
        for node in sorted(before ^ self._lost):
            if node in self._lost:
                log.warning("node %s: its workers are silent and its Lease stands still: it is lost", node)
            self._changed(node)

    async def _ask(self, node: str) -> None:
        try:
            body = await self._context.store.get(LEASE, LEASES, node)
        except StoreError as error:
            self._beats.unseen(node)
            if error.code == 403 and not self._refused:
                self._refused = True
                log.warning(
                    "Leases of nodes may not be read: lost nodes are noticed when the cluster says so"
                )
            return
        renewed = text_at(body, "spec", "renewTime") if body else ""
        if renewed:
            self._beats.saw(node, renewed, self._context.clock.monotonic())
        else:
            self._beats.unseen(node)
