"""Ids of events and items that a client gives by itself."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any


def event_id() -> str:
    return f"event_{uuid.uuid4().hex[:21]}"


def named(event: Mapping[str, Any]) -> dict[str, Any]:
    """With an id of its own, and one for the item that it makes: so that nothing is ever made twice."""
    made = dict(event)
    if made.get("event_id") is None:
        made["event_id"] = f"client_{uuid.uuid4().hex[:21]}"
    item = made.get("item")
    if made.get("type") == "conversation.item.create" and isinstance(item, Mapping) and not item.get("id"):
        made["item"] = {**item, "id": f"item_{uuid.uuid4().hex[:21]}"}
    return made
