"""What of a VoiceSession's spec can be changed later. The CRD's transition rules say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

CHANGEABLE: Final = frozenset({"session", "limits", "ttlSecondsAfterFinished"})
CHANGEABLE_IN_AGENT: Final = frozenset({"instructions", "tools", "session"})


def fixed_change(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The first field (such as `agent.voice`) that differs and cannot be changed; empty when there is
    none."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if key in CHANGEABLE or old == new:
            continue
        if key == "agent" and isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = _fixed(cast("Mapping[str, object]", old), cast("Mapping[str, object]", new))
            if inner:
                return f"agent.{inner}"
            continue
        return key
    return ""


def _fixed(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    fields = sorted((before.keys() | after.keys()) - CHANGEABLE_IN_AGENT)
    return next((name for name in fields if before.get(name) != after.get(name)), "")
