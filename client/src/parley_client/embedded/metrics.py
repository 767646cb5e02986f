"""The few numbers of a worker's /metrics that a person wants to see after a call. Pure."""

from __future__ import annotations

import re
from typing import Final

_LINE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")

PREFIX: Final = "parley_worker_"
SHOWN: Final = (
    "admissions_total",
    "sessions_ended_total",
    "provider_connects_total",
    "audio_frames_total",
    "audio_bytes_total",
    "events_published_total",
    "events_dropped_total",
)
MEANS: Final = (
    "first_audio_seconds",
    "barge_in_seconds",
    "frame_lateness_seconds",
    "provider_connect_seconds",
)


def parse_samples(text: str) -> dict[str, float]:
    """Read the text exposition: series (name with labels) to value; what is no sample is passed over."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#") or not (match := _LINE.match(line)):
            continue
        try:
            samples[match[1] + (match[2] or "")] = float(match[3])
        except ValueError:
            continue
    return samples


def highlights(text: str) -> dict[str, float]:
    """Return the numbers worth a line: counters that moved, and means of the histograms."""
    samples = parse_samples(text)
    found: dict[str, float] = {}
    for series, value in samples.items():
        name = series.partition("{")[0].removeprefix(PREFIX)
        if name in SHOWN and value:
            found[series.removeprefix(PREFIX)] = value
    for name in MEANS:
        count = samples.get(f"{PREFIX}{name}_count", 0)
        if count:
            found[f"{name} (mean of {count:g})"] = round(samples.get(f"{PREFIX}{name}_sum", 0) / count, 4)
    return found
