"""Fields of what others send, read without trust: what is of another type counts as missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_INTEGER = 2**31 - 1
_TOOL_CREDENTIALS = frozenset({"authorization", "headers"})


def object_of(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; empty when there is none."""
    value = fields.get(name)
    return value if value.__class__ is dict or isinstance(value, Mapping) else {}


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A text; empty when there is none."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def int_of(fields: Mapping[str, Any], name: str) -> int:
    """0 to MAX_INTEGER: what a provider sends must fit the fields of our messages."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), MAX_INTEGER)


def without_tool_credentials(session: Mapping[str, Any]) -> Mapping[str, Any]:
    """A session object whose tools do not say how they are reached."""
    tools = session.get("tools")
    if not isinstance(tools, list):
        return session
    kept = [
        {k: v for k, v in tool.items() if k not in _TOOL_CREDENTIALS} if isinstance(tool, dict) else tool
        for tool in tools
    ]
    return {**session, "tools": kept}
