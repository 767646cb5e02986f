"""Where sessions may be placed and by which rules. Parsers raise `FieldError`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .fields import FieldError, Fields
from .references import PoolRef, parse_pool_ref

POLICIES = ("Packed", "Spread")
MAX_SELECTORS = 8
MAX_LABELS = 16
MAX_ZONES = 16
MAX_QUOTAS = 256
MAX_WEIGHT = 100
MAX_SESSIONS = 1_000_000
_NAMESPACE = re.compile(r"\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class SelectorSpec:
    """Workers that a session may run on. Without `pool` those of `poolRef`."""

    pool: PoolRef | None = None
    labels: tuple[tuple[str, str], ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True)
class PlacementSpec:
    """How a pool chooses among its workers; `zones` are preferred in that order."""

    policy: str = "Packed"
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaSpec:
    """A namespace's part of a pool; "*" speaks of each namespace not named. `most` is `None` without a limit.

    `refuse`: a session beyond it is refused at once instead of waiting.
    """

    namespace: str
    most: int | None = None
    weight: int = 1
    refuse: bool = False


def parse_selectors(parent: Fields) -> tuple[SelectorSpec, ...]:
    """The list under `selectors`, in order of preference."""
    items = parent.items("selectors", most=MAX_SELECTORS)
    if parent.has("selectors") and not items:
        raise FieldError(parent.at("selectors"), "is empty: give at least one, or leave it out")
    return tuple(
        _selector(Fields(item, f"{parent.at('selectors')}[{index}]")) for index, item in enumerate(items)
    )


def _selector(fields: Fields) -> SelectorSpec:
    pool = parse_pool_ref(fields, "pool") if fields.has("pool") else None
    found = fields.mapping("matchLabels")
    where = fields.at("matchLabels")
    if len(found) > MAX_LABELS:
        raise FieldError(where, f"has {len(found)} labels; at most {MAX_LABELS} are allowed")
    labels = []
    for key, value in sorted(found.items()):
        if not _KEY.fullmatch(key):
            raise FieldError(where, f"{key!r} is not the key of a label; write for example example.com/tier")
        if not isinstance(value, str) or len(value) > 63 or not _VALUE.fullmatch(value):
            raise FieldError(f"{where}.{key}", f"{value!r} is not the value of a label; at most 63 letters")
        labels.append((key, value))
    zone = _zone(fields.text("zone", longest=63), fields.at("zone"))
    fields.finish()
    return SelectorSpec(pool, tuple(labels), zone)


def parse_placement(fields: Fields) -> PlacementSpec:
    zones = fields.texts("zones", most=MAX_ZONES)
    for index, zone in enumerate(zones):
        _zone(zone, f"{fields.at('zones')}[{index}]")
    if len(set(zones)) < len(zones):
        raise FieldError(fields.at("zones"), "names a zone twice; name each once")
    found = PlacementSpec(fields.choice("policy", POLICIES, "Packed"), zones)
    fields.finish()
    return found


def _zone(text: str, where: str) -> str:
    if not _VALUE.fullmatch(text) or len(text) > 63:
        raise FieldError(where, f"{text!r} is not a zone; write it as the node's label does")
    return text


def parse_quotas(parent: Fields) -> tuple[QuotaSpec, ...]:
    """The list under `quotas`, each namespace at most once."""
    found = tuple(
        _quota(Fields(item, f"{parent.at('quotas')}[{index}]"))
        for index, item in enumerate(parent.items("quotas", most=MAX_QUOTAS))
    )
    names = [quota.namespace for quota in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise FieldError(
                f"{parent.at('quotas')}[{index}].namespace", f"{name!r} is named twice; name it once"
            )
    return found


def _quota(fields: Fields) -> QuotaSpec:
    namespace = fields.required("namespace", longest=63)
    if not _NAMESPACE.fullmatch(namespace):
        raise FieldError(
            fields.at("namespace"), f"{namespace!r} is no namespace; name one, or * for all others"
        )
    most = fields.number("maxSessions", -1, least=0, most=MAX_SESSIONS)
    found = QuotaSpec(
        namespace,
        None if most < 0 else most,
        fields.number("weight", 1, least=1, most=MAX_WEIGHT),
        fields.choice("whenExceeded", ("Wait", "Refuse"), "Wait") == "Refuse",
    )
    fields.finish()
    return found
