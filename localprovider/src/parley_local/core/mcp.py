"""Tools of MCP servers: what a session is told of them. The servers are scripted: nothing is connected to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .checks import Json
from .emitter import Emitter
from .items import Conversation, Item
from .settings import Settings


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server's tools as `{name, description, input_schema}`, or the error that listing them gives."""

    tools: tuple[Json, ...] = ()
    error: str | None = None


def list_tools(
    emitter: Emitter,
    conversation: Conversation,
    before: Settings,
    after: Settings,
    servers: Mapping[str, McpServer],
) -> None:
    """Import the tools of the servers that an update brought in; an unknown server fails."""
    known = {_label(tool) for tool in before.tools if tool["type"] == "mcp"}
    for tool in after.tools:
        if tool["type"] != "mcp" or _label(tool) in known:
            continue
        known.add(_label(tool))
        _import(emitter, conversation, tool, servers.get(_label(tool)))


def _import(emitter: Emitter, conversation: Conversation, tool: Json, server: McpServer | None) -> None:
    fields: Json = {"server_label": _label(tool), "tools": []}
    item = Item(emitter.new_id("item_"), "mcp_list_tools", status="in_progress", fields=fields)
    previous = conversation.insert(item)
    emitter.item_added(item, previous)
    emitter.emit("mcp_list_tools.in_progress", item_id=item.id)
    if server is None or server.error is not None:
        item.status = "incomplete"
        emitter.emit("mcp_list_tools.failed", item_id=item.id)
        return
    allowed = tool.get("allowed_tools")
    names = allowed.get("tool_names") if isinstance(allowed, dict) else allowed
    fields["tools"] = [
        entry for entry in server.tools if not isinstance(names, list) or entry["name"] in names
    ]
    item.status = "completed"
    emitter.emit("mcp_list_tools.completed", item_id=item.id)
    emitter.item_done(item, previous)


def _label(tool: Json) -> str:
    return str(tool.get("server_label", ""))
