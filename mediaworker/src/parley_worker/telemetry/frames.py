"""Counts of audio frames: plain integers while frames pass, Prometheus series when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class FrameCounts(Collector):
    """What is counted for every frame of every session, without locks: written by one event loop only.

    `bounds` are those of the lateness histogram, in seconds.
    """

    def __init__(self, prefix: str, bounds: tuple[float, ...]) -> None:
        self._prefix = prefix
        self._bounds = bounds
        self._late = [0] * (len(bounds) + 1)
        self._late_sum = 0.0
        self.bytes_in = 0
        self.frames_in = 0
        self.bytes_out = 0
        self.frames_out = 0

    def late(self, seconds: float) -> None:
        """A frame left so late against its playout clock."""
        self._late[bisect_left(self._bounds, seconds)] += 1
        self._late_sum += seconds

    def collect(self) -> Iterator[Metric]:
        """The series as they are now."""
        p = self._prefix
        sizes = CounterMetricFamily(p + "audio_bytes", "Audio bytes by direction.", labels=["direction"])
        sizes.add_metric(["in"], self.bytes_in)
        sizes.add_metric(["out"], self.bytes_out)
        frames = CounterMetricFamily(p + "audio_frames", "Audio frames by direction.", labels=["direction"])
        frames.add_metric(["in"], self.frames_in)
        frames.add_metric(["out"], self.frames_out)
        late = HistogramMetricFamily(
            p + "frame_lateness_seconds",
            "How late agent frames left against the playout clock, as far as the worker is to blame.",
        )
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._late, strict=True):
            total += count
            buckets.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
        late.add_metric([], buckets, self._late_sum)
        yield from (sizes, frames, late)
