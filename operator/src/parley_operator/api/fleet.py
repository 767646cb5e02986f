"""How the fleet of a pool is replaced, scaled and renewed.

Durations are seconds. Parsers raise `FieldError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil

from .fields import FieldError, Fields

DEFAULT_DRAIN_TIMEOUT = 300.0
DEFAULT_STABILIZATION = 300.0
LEAST_AGE = 60.0
MOST_WORKERS = 1000
_PERCENT = re.compile(r"([0-9]{1,5})%")
_SIZE = re.compile(r"([1-9][0-9]{0,14})(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Portion:
    """A whole number, or a percentage of something."""

    number: int
    percent: bool = False

    def of(self, total: int) -> int:
        """Rounded up."""
        return ceil(self.number * total / 100) if self.percent else self.number


@dataclass(frozen=True, slots=True)
class AutoscalingSpec:
    """Workers for the sessions that there are, and `buffer` more sessions.

    Fewer workers are wanted only after `stabilization`. `most_added` workers a minute at most; 0: no limit.
    """

    least: int
    most: int
    buffer: Portion = Portion(20, percent=True)
    stabilization: float = DEFAULT_STABILIZATION
    most_added: int = 0


@dataclass(frozen=True, slots=True)
class RecycleSpec:
    """A worker beyond one of these is replaced; 0: no such limit."""

    max_age: float = 0.0
    max_sessions: int = 0
    max_memory: int = 0


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """How workers are replaced.

    `surge` more than wanted may there be meanwhile. `machine_grace` is what machines give between SIGTERM and
    SIGKILL where they do not heed the pod's own grace; 0: they do.
    """

    surge: Portion = Portion(25, percent=True)
    machine_grace: float = 0.0


def parse_strategy(fields: Fields) -> StrategySpec:
    """The fields of `updateStrategy` besides `drainTimeout`."""
    surge = parse_portion(fields, "maxSurge", Portion(25, percent=True), least=1)
    return StrategySpec(surge, fields.duration("machineGrace", 0.0))


def parse_autoscaling(parent: Fields) -> AutoscalingSpec | None:
    if not parent.has("autoscaling"):
        return None
    fields = parent.child("autoscaling")
    least = fields.number("min", 1, least=0, most=MOST_WORKERS)
    if not fields.has("max"):
        raise FieldError(fields.at("max"), "is required")
    most = fields.number("max", 1, least=1, most=MOST_WORKERS)
    if least > most:
        raise FieldError(fields.at("min"), f"is {least}; it must not be greater than max, {most}")
    found = AutoscalingSpec(
        least,
        most,
        parse_portion(fields, "bufferSessions", Portion(20, percent=True)),
        fields.duration("stabilization", DEFAULT_STABILIZATION),
        fields.number("maxScaleUpRate", 0, least=1, most=MOST_WORKERS),
    )
    fields.finish()
    return found


def parse_recycle(fields: Fields) -> RecycleSpec:
    age = fields.duration("maxAge", 0.0)
    if fields.has("maxAge") and age < LEAST_AGE:
        raise FieldError(fields.at("maxAge"), f"is {age:g} s; give at least {LEAST_AGE:g}s")
    found = RecycleSpec(
        age,
        fields.number("maxSessions", 0, least=1, most=1_000_000_000),
        parse_size(fields, "maxMemory"),
    )
    fields.finish()
    return found


def parse_portion(fields: Fields, key: str, default: Portion, *, least: int = 0) -> Portion:
    value = fields.raw(key)
    if value is None:
        return default
    found: Portion | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = Portion(value)
    elif isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        found = Portion(int(match[1]), percent=True)
    if found is None or not least <= found.number <= 100_000:
        raise FieldError(
            fields.at(key), f"is {value!r}; give a whole number or a percentage such as 25%, from {least} on"
        )
    return found


def parse_size(fields: Fields, key: str) -> int:
    """Bytes of a size such as 512Mi; 0 when it is missing."""
    text = fields.text(key, longest=20)
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise FieldError(fields.at(key), f"{text!r} is not a size; write for example 512Mi or 2Gi")
    return int(match[1]) * _UNITS[match[2] or ""]
