"""What a session asks for, and what it is given: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parley_operator.api.placement import PlacementSpec, QuotaSpec

PoolName = tuple[str, str]
EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker must be like: every label as given, in that zone where one is named."""

    labels: tuple[tuple[str, str], ...] = ()
    zone: str = ""

    def met_by(self, labels: Mapping[str, str], zone: str) -> bool:
        fits = not self.zone or self.zone == zone
        return fits and all(labels.get(key) == value for key, value in self.labels)


@dataclass(frozen=True, slots=True)
class Choice:
    """A selector with its pool found."""

    pool: PoolName
    need: Need = Need()


Choices = tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A session that wants a place. `choices` are tried in order.

    `created` (unix seconds) is when it began to wait. `urgent` ones had a place before and lost it: they come
    first, and quotas do not count them anew.
    """

    uid: str
    namespace: str
    name: str
    created: float
    choices: Choices
    urgent: bool = False

    @property
    def pools(self) -> tuple[PoolName, ...]:
        return tuple(dict.fromkeys(choice.pool for choice in self.choices))


@dataclass(frozen=True, slots=True)
class Grant:
    """A place that is reserved for a session."""

    uid: str
    worker: str
    instance_id: str
    pool: PoolName


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What a pool says about placing; quotas by namespace.

    `revision` is the one that its workers are to have, "" while unknown.
    """

    placement: PlacementSpec = field(default_factory=PlacementSpec)
    quotas: Mapping[str, QuotaSpec] = field(default_factory=dict)
    revision: str = ""

    def quota(self, namespace: str) -> QuotaSpec:
        """The entry of the namespace itself, else that for all others, else none that limits."""
        return self.quotas.get(namespace) or self.quotas.get(EVERYBODY) or QuotaSpec(namespace)
