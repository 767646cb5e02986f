"""WebSocket messages of the client, as far as they are the same for every event."""

from __future__ import annotations

import json
from typing import NoReturn

from . import checks
from .checks import Json
from .errors import InvalidRequest

MAX_DEPTH = 100


def parse(message: str | bytes) -> Json:
    """The JSON object of one WebSocket message; InvalidRequest for whatever is none."""
    if isinstance(message, bytes):
        raise InvalidRequest(
            "invalid_event", "Expected a text WebSocket message; binary frames are not supported."
        )
    try:
        event = json.loads(message, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("invalid_json", "The message is not valid JSON.") from error
    if _deep(event):
        raise InvalidRequest("invalid_json", f"The message is nested more than {MAX_DEPTH} levels deep.")
    if not isinstance(event, dict):
        raise InvalidRequest("invalid_json", "Expected a JSON object.")
    return event


def client_event_id(event: Json) -> str | None:
    """The id that the client gave its event, for an error about it."""
    value = event.get("event_id")
    return None if value is None else checks.string(value, "event_id", longest=512)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _deep(value: object) -> bool:
    """True when lists and objects lie more than MAX_DEPTH levels inside each other."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inside: list[object] = []
        for holder in level:
            if isinstance(holder, dict):
                inside.extend(v for v in holder.values() if isinstance(v, dict | list))
            elif isinstance(holder, list):
                inside.extend(v for v in holder if isinstance(v, dict | list))
        if not inside:
            return False
        level = inside
    return True
