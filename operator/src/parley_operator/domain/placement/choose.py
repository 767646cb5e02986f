"""Which of the workers with room is the best one for a session."""

from __future__ import annotations

from collections.abc import Iterable

from .demand import PoolRules
from .ledger import Row

PACKED = "Packed"


def best(rows: Iterable[Row], rules: PoolRules) -> Row | None:
    """The newest revision, on a node that stays, since others go soon; then the zone; then the policy.

    Packed fills the fullest worker, so that others become empty and can go. Spread takes the one with the
    smallest share in use, so that the loss of a worker ends the fewest calls. The name decides between
    equals.
    """
    zones = {zone: rank for rank, zone in enumerate(rules.placement.zones)}
    packed = rules.placement.policy == PACKED

    def rank(row: Row) -> tuple[bool, int, float, str]:
        load = row.free if packed else row.used / row.capacity
        old = row.parting or (bool(rules.revision) and row.revision != rules.revision)
        return old, zones.get(row.zone, len(zones)), load, row.worker

    return min(rows, key=rank, default=None)
