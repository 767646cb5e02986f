"""What people are told by Kubernetes Events: read off the difference between two statuses.

Only reasons, names and counts: no content and no secret is ever in a status, so none can be in an Event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parley_operator.api.v1alpha1 import map_at, text_at

from .phases import TERMINAL, Phase, phase_of
from .phases import end_reason as reason_of
from .placement.desk import WaitReason

MAX_NOTE = 1024
_WAITS = frozenset(WaitReason)
_Conditions = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to tell: `reason` is a CamelCase word, `warning` says that somebody should look."""

    reason: str
    note: str
    action: str
    warning: bool = False


def session_facts(
    before: Mapping[str, object], after: Mapping[str, object], *, private: bool = False
) -> list[Fact]:
    """What a written status of a VoiceSession tells: every warning, and of the rest the last word only.

    `private`: words that worker or provider chose are left out.
    """
    if text_at(after, "phase") in TERMINAL:
        return [] if text_at(before, "phase") in TERMINAL else [_ended(after, private)]
    old, new = _conditions(before), _conditions(after)
    found = _warnings(before, after, old, new, private)
    normal = _normal(before, after, old, new)
    return found if normal is None else [*found, normal]


def condition_facts(
    before: Mapping[str, object], after: Mapping[str, object], action: str = "Reconcile"
) -> list[Fact]:
    """Conditions of any object that changed, False ones as warnings: of pools and agents."""
    old, new = _conditions(before), _conditions(after)
    facts = []
    for kind, item in new.items():
        earlier = old.get(kind, {})
        if _key(item) == _key(earlier) or item.get("status") == "Unknown":
            continue
        good = item.get("status") == "True"
        if good and not earlier:
            continue
        words = text_at(item, "message") or f"condition {kind} is {text_at(item, 'status')}"
        facts.append(Fact(text_at(item, "reason") or kind, words, action, warning=not good))
    return facts


def _warnings(
    before: Mapping[str, object],
    after: Mapping[str, object],
    old: _Conditions,
    new: _Conditions,
    private: bool,
) -> list[Fact]:
    found = []
    for kind, reason, action in (
        ("Accepted", "NotAccepted", "Place"),
        ("Updated", "NotUpdated", "Update"),
    ):
        item = new.get(kind, {})
        if item.get("status") == "False" and _key(item) != _key(old.get(kind, {})):
            words = text_at(item, "reason") if private and kind == "Updated" else _words(item)
            found.append(Fact(reason, words, action, warning=True))
    degraded = new.get("RecoveryDegraded", {})
    if degraded.get("status") == "True" and old.get("RecoveryDegraded", {}).get("status") != "True":
        found.append(Fact("RecoveryDegraded", _words(degraded), "Record", warning=True))
    if text_at(after, "phase") == Phase.RECOVERING and text_at(before, "phase") != Phase.RECOVERING:
        worker = text_at(before, "worker", "name")
        words = f"worker {worker} was lost; another one is looked for"
        found.append(Fact("Recovering", words, "Recover", warning=True))
    return found


def _normal(
    before: Mapping[str, object], after: Mapping[str, object], old: _Conditions, new: _Conditions
) -> Fact | None:
    worker = text_at(after, "worker", "name")
    moved = _attempt(before) > 0 and _attempt(after) > _attempt(before) and _is(new, "Placed")
    recovered = text_at(before, "phase") == Phase.RECOVERING and text_at(after, "phase") == Phase.ACTIVE
    if recovered:
        return Fact("Resumed", f"goes on on worker {worker}, attempt {_attempt(after)}", "Recover")
    if moved and text_at(after, "phase") != Phase.RECOVERING:
        earlier = text_at(before, "worker", "name")
        return Fact("Moved", f"from worker {earlier} to {worker}, attempt {_attempt(after)}", "Move")
    if _is(new, "Draining") and not _is(old, "Draining"):
        return Fact("Draining", _words(new["Draining"]), "Drain")
    if _is(new, "Ready") and not _is(old, "Ready"):
        node = text_at(after, "worker", "node")
        where = f"on worker {worker}, node {node}" if node else f"on worker {worker}"
        return Fact("Ready", f"{where}; the provider is connected", "Place")
    if _is(new, "Placed") and not _is(old, "Placed"):
        return Fact("Placed", f"on worker {worker}", "Place")
    if _is(new, "Updated") and _key(new["Updated"]) != _key(old.get("Updated", {})):
        return Fact("Updated", f"runs generation {new['Updated'].get('observedGeneration')}", "Update")
    queued = new.get("Placed", {})
    if queued.get("reason") in _WAITS and old.get("Placed", {}).get("reason") not in _WAITS:
        return Fact("Queued", _words(queued), "Place")
    return None


def _ended(after: Mapping[str, object], private: bool) -> Fact:
    reason = text_at(after, "endReason")
    words = "" if private else text_at(after, "endMessage")
    failed = phase_of(reason_of(reason)) is Phase.FAILED
    return Fact("Ended", f"{reason}: {words}" if words else reason, "End", warning=failed)


def _conditions(status: Mapping[str, object]) -> _Conditions:
    found = status.get("conditions")
    items = found if isinstance(found, list) else []
    return {str(c.get("type")): map_at({"c": c}, "c") for c in items if isinstance(c, Mapping)}


def _is(conditions: Mapping[str, Mapping[str, object]], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"


def _key(item: Mapping[str, object]) -> tuple[object, object, object]:
    generation = item.get("observedGeneration") if item.get("type") == "Updated" else None
    return item.get("status"), item.get("reason"), generation


def _words(item: Mapping[str, object]) -> str:
    reason, message = text_at(item, "reason"), text_at(item, "message")
    return f"{reason}: {message}" if message else reason


def _attempt(status: Mapping[str, object]) -> int:
    found = status.get("attempt")
    return found if isinstance(found, int) else 0
