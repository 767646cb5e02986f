"""How many shards the workers of a pool have, and which ports they get."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from parley_operator.api.constants import MAX_SHARDS
from parley_operator.api.v1alpha1 import PoolSpec

CONTAINER = "worker"
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(m?)")


def shard_count(spec: PoolSpec) -> int:
    """What the pool says, or one shard for each whole core of the worker container's CPU limit, or request.

    Without either it is one: a worker does not take a node's cores because nobody said how many are its own.
    """
    if spec.shards:
        return spec.shards
    cores = int(_cores(spec.pod_template))
    return max(1, min(cores, spec.sessions_per_worker, MAX_SHARDS))


def free_ports(least: int, most: int, taken: Sequence[int], count: int) -> int | None:
    """The first of the lowest `count` ports in a row that no pod has."""
    used = set(taken)
    starts = range(least, most - count + 2)
    return next((port for port in starts if used.isdisjoint(range(port, port + count))), None)


def _cores(template: Mapping[str, object]) -> float:
    """The container's CPU limit, or request; 0 for none, or for one that cannot be read."""
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    for container in containers if isinstance(containers, list) else []:
        if isinstance(container, Mapping) and container.get("name") == CONTAINER:
            resources = container.get("resources")
            known = resources if isinstance(resources, Mapping) else {}
            for part in (known.get("limits"), known.get("requests")):
                if isinstance(part, Mapping) and "cpu" in part:
                    return _quantity(part["cpu"])
    return 0.0


def _quantity(value: object) -> float:
    """Cores of a Kubernetes quantity such as 2, "1500m" or "0.5"."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        return 0.0
    return float(found[1]) / (1000 if found[2] else 1)
