"""Whether nodes still live, by the Leases that their kubelets renew every 10 seconds.

The control plane takes 40 to 50 seconds to call a node lost. A node whose workers are silent and whose Lease
stands still is lost earlier: a network cut between us and the worker leaves the Lease going, and an API
server that cannot be reached shows no Lease at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STANDS_STILL = 13.0
"""Seconds without a renewal: one was due within 10, and the kubelet tries again at once when it fails."""


@dataclass(frozen=True, slots=True)
class _Beat:
    renewed: str
    since: float


class Heartbeats:
    """Of the nodes that are asked about. Times are monotonic seconds of ours; of what a node's clock says
    only that it changes counts."""

    def __init__(self) -> None:
        self._beats: dict[str, _Beat] = {}

    def saw(self, node: str, renewed: str, now: float) -> None:
        """The Lease says that it was renewed at `renewed`."""
        known = self._beats.get(node)
        if known is None or known.renewed != renewed:
            self._beats[node] = _Beat(renewed, now)

    def unseen(self, node: str) -> None:
        """The Lease could not be had: nobody knows whether it was renewed meanwhile."""
        self._beats.pop(node, None)

    def only(self, nodes: Iterable[str]) -> None:
        """The others are asked about no more."""
        wanted = set(nodes)
        self._beats = {node: beat for node, beat in self._beats.items() if node in wanted}

    def stopped(self, now: float) -> frozenset[str]:
        """The nodes whose Lease stands still."""
        return frozenset(node for node, beat in self._beats.items() if now - beat.since >= STANDS_STILL)
