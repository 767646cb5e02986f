"""A brain for the local provider that calls functions in parallel and says what came of them."""

from __future__ import annotations

import re

from parley_local.core.effects import BrainRequest, Call, McpCall, Part, Reply, Say, ToolResult, ToolUse

_WISH = re.compile(r"(\w+)\((\w*)\)")


class ToolBrain:
    """`use a(1) b() mcp(x)` calls the functions `a` with `{"n": "1"}` and `b`, and the MCP tool `x`.

    Once results came that it has not spoken about yet, it says `results: a=<result> b=<result>`; to anything
    else it says what it was told.
    """

    async def reply(self, request: BrainRequest) -> Reply:
        spoken = max(
            (i for i, e in enumerate(request.history) if getattr(e, "role", "") == "assistant"), default=-1
        )
        fresh = [e for e in request.history[spoken + 1 :] if not isinstance(e, ToolUse)]
        results = [e for e in fresh if isinstance(e, ToolResult)]
        said = [e.text for e in fresh if not isinstance(e, ToolResult) and e.role == "user"]
        if results:
            return (Say("results: " + " ".join(f"{r.name}={r.output}" for r in results)),)
        words = said[-1] if said else ""
        if not words.startswith("use "):
            return (Say(f"you said: {words}"),)
        return tuple(_part(name, argument) for name, argument in _WISH.findall(words))


def _part(name: str, argument: str) -> Part:
    if name == "mcp":
        return McpCall("archive", argument, {"q": "x"}, output=f"found by {argument}")
    return Call(name, {"n": argument})
