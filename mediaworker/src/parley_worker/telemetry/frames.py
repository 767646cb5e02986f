"""Counts of audio frames: plain integers while frames pass, Prometheus series when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class FrameCounts:
    """What is counted for every frame of every session, without locks: written by one event loop only.

    `bounds` are those of the lateness histogram, in seconds.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.late_counts = [0] * (len(bounds) + 1)
        self.late_sum = 0.0
        self._usual = bounds[0]
        self.bytes_in = 0
        self.frames_in = 0
        self.bytes_out = 0
        self.frames_out = 0
        self.frames_gathered = 0

    def late(self, seconds: float) -> None:
        """A frame left so late against its playout clock."""
        self.late_counts[0 if seconds <= self._usual else bisect_left(self.bounds, seconds)] += 1
        self.late_sum += seconds


class FrameSeries(Collector):
    """The series of these counts."""

    def __init__(self, prefix: str, counts: FrameCounts) -> None:
        self._prefix, self._counts = prefix, counts

    def collect(self) -> Iterator[Metric]:
        """The series as they are now."""
        p, counts = self._prefix, self._counts
        sizes = CounterMetricFamily(p + "audio_bytes", "Audio bytes by direction.", labels=["direction"])
        sizes.add_metric(["in"], counts.bytes_in)
        sizes.add_metric(["out"], counts.bytes_out)
        frames = CounterMetricFamily(p + "audio_frames", "Audio frames by direction.", labels=["direction"])
        frames.add_metric(["in"], counts.frames_in)
        frames.add_metric(["out"], counts.frames_out)
        gathered = CounterMetricFamily(
            p + "audio_frames_gathered",
            "Callers' frames that waited for the next ones on their way to the provider, as they were late.",
        )
        gathered.add_metric([], counts.frames_gathered)
        late = HistogramMetricFamily(
            p + "frame_lateness_seconds",
            "How late agent frames left against the playout clock, as far as the worker is to blame.",
        )
        buckets, total = [], 0
        for bound, count in zip((*counts.bounds, float("inf")), counts.late_counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
        late.add_metric([], buckets, counts.late_sum)
        yield from (sizes, frames, gathered, late)
