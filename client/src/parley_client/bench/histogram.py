"""Counts of latencies by bucket: what windows are merged by. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Histogram:
    """Milliseconds.

    Attributes:
        buckets: (upper bound, count), bounds rising; a value counts in the first bucket that holds it.
        maximum: the largest value; 0 when there is none.
    """

    buckets: tuple[tuple[float, int], ...] = ()
    maximum: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of single values, to a hundredth of a millisecond, upwards."""
        counts: dict[float, int] = {}
        largest = 0.0
        for value in values:
            bound = math.ceil(value * 100) / 100
            counts[bound] = counts.get(bound, 0) + 1
            largest = max(largest, value)
        return cls(tuple(sorted(counts.items())), largest)

    @classmethod
    def read(cls, report: Mapping[str, Any] | None) -> Self:
        """Of a report of the load program: `{"buckets": [[upper, count], ...], "max": ms}`."""
        if not report:
            return cls()
        buckets = ((float(upper), int(count)) for upper, count in report.get("buckets") or ())
        return cls(tuple(sorted(b for b in buckets if b[1])), float(report.get("max") or 0.0))

    @classmethod
    def merge(cls, parts: Iterable[Histogram]) -> Self:
        counts: dict[float, int] = {}
        largest = 0.0
        for part in parts:
            for upper, count in part.buckets:
                counts[upper] = counts.get(upper, 0) + count
            largest = max(largest, part.maximum)
        return cls(tuple(sorted(counts.items())), largest)

    @property
    def count(self) -> int:
        return sum(count for _, count in self.buckets)

    def quantile(self, share: float) -> float | None:
        """The bound that `share` (0 to 1) of the values do not pass; None without values."""
        total = self.count
        wanted = max(1, math.ceil(share * total))
        seen = 0
        for upper, count in self.buckets:
            seen += count
            if seen >= wanted:
                # The last bucket's bound may lie past every value.
                return min(upper, self.maximum) if self.maximum and upper > 0 else upper
        return None

    def above(self, bound: float) -> int:
        """How many lie in buckets that begin past `bound`, to the precision of the buckets."""
        return sum(count for upper, count in self.buckets if upper > bound)

    def shown(self) -> dict[str, float | int | None]:
        """p50, p99, p99.9, largest and count, as the results hold it."""
        points = {name: _rounded(self.quantile(share)) for name, share in QUANTILES.items()}
        return {**points, "max": _rounded(self.maximum), "count": self.count}


QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
