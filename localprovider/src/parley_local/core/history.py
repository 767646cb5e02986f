"""What a brain reads of the conversation, and what its parts cost in tokens (estimates)."""

from __future__ import annotations

from collections.abc import Iterable

from .effects import Entry, ToolResult, ToolUse, Utterance
from .items import Item
from .responses import TOKEN_MS_IN, count_text_tokens


def history(items: Iterable[Item]) -> list[Entry]:
    """Messages, function calls and their results, oldest first."""
    names: dict[str, str] = {}
    entries: list[Entry] = []
    for item in items:
        if item.kind == "message":
            entries.append(Utterance(item.role or "user", item.words))
        elif item.kind == "function_call":
            call_id, name = str(item.fields.get("call_id")), str(item.fields.get("name"))
            names[call_id] = name
            entries.append(ToolUse(call_id, name, str(item.fields.get("arguments") or "")))
        elif item.kind == "function_call_output":
            call_id = str(item.fields.get("call_id"))
            entries.append(ToolResult(names.get(call_id, ""), str(item.fields.get("output")), call_id))
    return entries


def input_tokens(instructions: str, items: Iterable[Item]) -> tuple[int, int]:
    """Text and audio tokens a response reads."""
    text = count_text_tokens(instructions)
    audio = 0
    for item in items:
        audio += int(sum(part.duration_ms for part in item.content)) // TOKEN_MS_IN
        text += sum(count_text_tokens(part.text or "") for part in item.content)
    return text, audio
