"""Scenario files: workload, points, windows, pins and thresholds. Pure.

A file holds what differs from the built-in scenario (`scenarios/full.yaml`, or `quick.yaml` with --quick),
by the names of the classes below; a name that is not known, or a value of another kind, is refused.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

from parley_client.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a call does: a frame of 20 ms each 20 ms, and an answer of `answer_s` each `cycle_s`."""

    cycle_s: float = 4.0
    answer_s: float = 3.0
    chunk_ms: int = 150
    speed: float = 2.5
    format: str = "pcm24"
    calls_per_s: float = 40.0
    """Calls begin at this rate while a point is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How a point is measured, and when a window is left out as the machine's fault."""

    seconds: float = 5.0
    wanted: int = 2
    """Windows that count, for a point."""
    bound: int = 5
    """Windows that are measured at most, for a point."""
    settle_s: float = 5.0
    steal: float = 0.01
    """Share of a CPU in use that the hypervisor took."""
    steal_ms: float = 30.0
    """What the hypervisor took at once: it is heard, however little it is of the window."""
    stall_ms: float = 10.0
    """For how long a CPU of the worker stood still, as a real-time thread on it saw."""
    others: float = 0.06
    """Share of a CPU in use that other processes took."""
    lag_ms: float = 5.0
    """p99 of the load program's own lateness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Thresholds; each way, beyond the frame's own 20 ms."""

    added_p99_ms: float = 10.0
    underruns: int = 0
    drops: int = 0
    frame_ms: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinning:
    """CPUs of the worker (each system's alike) and of all else; empty lists leave processes alone."""

    worker: tuple[int, ...] = (0,)
    others: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """Search for the most sessions that a system carries before audio starves."""

    points: int = 7
    """Points at most, the common one included."""
    slo_points: int = 3
    """Points more at most, to find the most sessions that meet the SLO."""
    resolution: float = 0.08
    target_cores: float = 1.05
    """Share of its CPUs that the next point is meant to take: more than there is, as a session costs less the
    more there are, and only what starves ends the search."""
    starved_share: float = 0.01
    """A point starves when more of the answers' pieces than this come `starved_ms` late, or never, or more of
    the callers' frames need longer than `starved_up_ms`."""
    starved_ms: float = 60.0
    starved_up_ms: float = 500.0
    ceiling: int = 2000
    """Sessions at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Sessions of the common point, by system; WebSocket libraries of the floor."""

    flavours: tuple[str, ...] = ("picows", "websockets")
    common: Mapping[str, int] = field(
        default_factory=lambda: {"parley": 40, "floor": 40, "pipecat": 25, "livekit": 4}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """Of the capacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    minutes: float = 30.0
    share: float = 0.75
    """Of the capacity."""
    call_s: float = 90.0
    """Mean length of a call; calls last half to one and a half times as long."""
    rss_mib_per_hour: float = 16.0
    """Slope of memory at most, beyond its own noise."""
    fds_slack: int = 12
    tasks_slack: int = 12
    """Descriptors and tasks that may differ from base + sessions x each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    share: float = 0.6
    """Of the capacity: sessions that talk already."""
    arrivals_per_s: float = 100.0
    arrivals: int = 100
    overload: float = 1.5
    """Of the worker's places: sessions offered in all."""
    rounds: int = 5
    """How many storms that nothing disturbed; more are made for them, up to `rounds_bound` in all."""
    rounds_bound: int = 8
    window_s: float = 10.0
    p99_ratio: float = 1.2
    """p99 of those admitted before against calm of the same round, in the middle one of the rounds, at most;
    differences below `floor_ms` do not count."""
    floor_ms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    records: int = 20_000
    sessions: int = 100
    journal_share: float = 0.5
    subscribers: tuple[int, ...] = (0, 1, 10, 100)
    raw_messages: int = 20_000
    awaited_messages: int = 3_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole file."""

    workload: Workload = field(default_factory=Workload)
    windows: Windows = field(default_factory=Windows)
    slo: Slo = field(default_factory=Slo)
    pinning: Pinning = field(default_factory=Pinning)
    knee: Knee = field(default_factory=Knee)
    density: Density = field(default_factory=Density)
    latency: Latency = field(default_factory=Latency)
    soak: Soak = field(default_factory=Soak)
    storm: Storm = field(default_factory=Storm)
    events: Events = field(default_factory=Events)
    worker_env: Mapping[str, str] = field(default_factory=dict)
    """Settings (PARLEY_WORKER_...) of the worker that the bench starts."""


FORMATS = ("pcm24", "ulaw8")


def read_scenario(*layers: tuple[str, Any]) -> Scenario:
    """The scenario of (name, parsed YAML) layers, later ones on top.

    Raises:
        UsageError: names the layer's file, the field and the value.
    """
    merged: dict[str, Any] = {}
    for name, data in layers:
        if data is None:
            continue
        if not isinstance(data, dict):
            raise UsageError(f"{name}: a scenario is a mapping with keys {_names(Scenario)}")
        _build(Scenario, data, name, "")
        merged = _merged(merged, data)
    scenario = _build(Scenario, merged, layers[-1][0] if layers else "scenario", "")
    if scenario.workload.format not in FORMATS:
        raise UsageError(f"workload.format is {scenario.workload.format!r}: give one of {', '.join(FORMATS)}")
    return scenario


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        mine = both.get(key)
        both[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _build(kind: type[T], data: Any, source: str, path: str) -> T:
    if not isinstance(data, dict):
        raise UsageError(f"{source}: {path} is {data!r}: give a mapping with keys {_names(kind)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise UsageError(f"{source}: {where} is not known; the keys are {_names(kind)}")
        values[key] = _value(hints[key], value, source, where)
    return kind(**values)


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, source, where)
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{source}: {where} is {value!r}: give a list")
        return tuple(_value(get_args(hint)[0], part, source, where) for part in value)
    if origin is not None and not isinstance(origin, types.UnionType):
        if not isinstance(value, dict):
            raise UsageError(f"{source}: {where} is {value!r}: give a mapping")
        inner = get_args(hint)[1]
        return {str(k): _value(inner, v, source, f"{where}.{k}") for k, v in value.items()}
    return _scalar(hint, value, source, where)


def _scalar(kind: type, value: Any, source: str, where: str) -> Any:
    if kind is str:
        if isinstance(value, (dict, list)) or value is None:
            raise UsageError(f"{source}: {where} is {value!r}: give a text")
        return str(value).lower() if isinstance(value, bool) else str(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value < 0 or (kind is int and value != int(value)):
        word = "a whole number" if kind is int else "a number"
        raise UsageError(f"{source}: {where} is {value!r}: give {word}, 0 or more")
    return kind(value)


def _names(kind: Any) -> str:
    return ", ".join(f.name for f in fields(kind))
