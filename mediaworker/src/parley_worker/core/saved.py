"""What a session writes down beside its conversation, so that another worker can go on with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_worker.core.changes import Changes
from parley_worker.core.fields import int_of, object_of
from parley_worker.core.usage import Usage

MAX_TOKENS = 4
"""Resume tokens that are recognised after a takeover: the newest."""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class SavedState:
    """State as of a checkpoint. `expires_unix` is when the session must be over (Unix seconds; None: not
    ready yet), `resume_sha256` holds the digests of the resume tokens that are good, the newest first."""

    usage: Usage = field(default_factory=Usage)
    expires_unix: float | None = None
    greeted: bool = False
    resume_sha256: tuple[bytes, ...] = field(default=(), repr=False)

    def write(self) -> dict[str, Any]:
        """As a JSON object."""
        usage = self.usage
        return {
            "v": 1,
            "usage": [
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
                round(usage.input_audio_seconds, 3),
                round(usage.output_audio_seconds, 3),
            ],
            "expires": self.expires_unix,
            "greeted": self.greeted,
            "resume": [digest.hex() for digest in self.resume_sha256],
        }

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> SavedState:
        """What `write` made; ValueError for anything else."""
        usage, expires, resume = value.get("usage"), value.get("expires"), value.get("resume")
        numbers = isinstance(usage, list) and len(usage) == 5 and all(_is_number(n) for n in usage)
        if not numbers or not (expires is None or _is_number(expires)) or not isinstance(resume, list):
            raise ValueError("a checkpoint is of a form that this worker does not know")
        assert isinstance(usage, list)
        digests = [bytes.fromhex(str(digest)) for digest in resume[:MAX_TOKENS]]
        if any(len(digest) != _DIGEST_BYTES for digest in digests):
            raise ValueError("a checkpoint holds what is no digest")
        told, said, cached = (int(n) for n in usage[:3])
        return cls(
            Usage(told, said, cached, float(usage[3]), float(usage[4])),
            None if expires is None else float(expires),
            value.get("greeted") is True,
            tuple(digests),
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


@dataclass(frozen=True, slots=True)
class LateEvent:
    """A conversation event of an earlier attempt that the caller may have missed, as it was numbered."""

    attempt: int
    sequence: int
    type: str
    event_json: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HandOver:
    """A conversation as one worker gives it to the next. `items` are bodies as a client creates them, in
    order, `changes` what the session was changed to since its Admit.
    Not `whole`: the items are too many to be given by hand and are read from the journal."""

    attempt: int
    state: SavedState
    items: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    changes: Changes = field(default_factory=Changes)
    events: tuple[LateEvent, ...] = field(default=(), repr=False)
    last_event: int = 0
    whole: bool = True

    def write(self) -> str:
        """As JSON."""
        return json.dumps(
            {
                "v": 1,
                "attempt": self.attempt,
                "state": self.state.write(),
                "items": list(self.items),
                "session": dict(self.changes.session),
                "under": dict(self.changes.under),
                "events": [[e.attempt, e.sequence, e.type, e.event_json] for e in self.events],
                "last_event": self.last_event,
                "whole": self.whole,
            },
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @classmethod
    def read(cls, text: str) -> HandOver:
        """What `write` made; ValueError for anything else, and it never repeats what it was given."""
        try:
            value = json.loads(text)
            events = tuple(
                LateEvent(int(attempt), int(sequence), str(kind), str(body))
                for attempt, sequence, kind, body in value["events"]
            )
            items = value["items"]
            if value["v"] != 1 or not all(isinstance(item, dict) for item in items):
                raise ValueError
            return cls(
                attempt=int_of(value, "attempt"),
                state=SavedState.read(object_of(value, "state")),
                items=tuple(items),
                changes=Changes(object_of(value, "session"), object_of(value, "under")),
                events=events,
                last_event=int_of(value, "last_event"),
                whole=value.get("whole") is not False,
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError("state_json is of a form that this worker does not know") from None
