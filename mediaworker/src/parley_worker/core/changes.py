"""What a session was changed to while it ran, and what its specification said in the same place then. Pure.

A worker that takes a session over is given its specification as it stands. A change that an earlier worker
made holds on only where the specification still says what it said when the change was made: of the two, the
later word counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from parley_realtime.protocol.history import merged

from parley_worker.core.fields import without_tool_credentials

Payload = Mapping[str, Any]
_PARTLY = ("audio", "input", "output")
"""Objects of which providers change one field; others are replaced whole."""
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Changes:
    """`session` is a partial session object without credentials; `under` has, in its shape, digests of what
    the specification said. A field without one is of a worker that wrote none, and holds on."""

    session: Payload = field(default_factory=dict, repr=False)
    under: Payload = field(default_factory=dict, repr=False)

    def then(self, later: Changes) -> Changes:
        """Both, in one."""
        return Changes(merged(self.session, later.session), merged(self.under, later.under))

    def still(self, spec: Payload) -> Changes:
        """Those that hold on under this specification."""
        return Changes(_still(self.session, self.under, without_tool_credentials(spec)), self.under)


def changed(update: Payload, spec: Payload) -> Changes:
    """An update that was made while the specification was this."""
    return Changes(update, _digests(update, without_tool_credentials(spec)))


def _still(session: Payload, under: Payload, spec: Payload) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in session.items():
        then, now = under.get(name), spec.get(name)
        if isinstance(value, Mapping) and isinstance(then, Mapping):
            inner = _still(value, then, now if isinstance(now, Mapping) else {})
            if inner or not value:
                found[name] = inner
        elif not isinstance(then, str) or then == _digest(spec, name):
            found[name] = value
    return found


def _digests(update: Payload, spec: Payload) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in update.items():
        said = spec.get(name)
        if name in _PARTLY and isinstance(value, Mapping):
            found[name] = _digests(value, said if isinstance(said, Mapping) else {})
        else:
            found[name] = _digest(spec, name)
    return found


def _digest(spec: Payload, name: str) -> str:
    """Of one field; taken back and empty are the same."""
    said = spec.get(name)
    if name not in spec or said in ("", []):
        return ""
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_DIGITS]
