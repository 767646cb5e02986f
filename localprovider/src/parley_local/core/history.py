"""What a brain reads of the conversation, and what its parts cost in tokens (estimates)."""

from __future__ import annotations

from collections.abc import Iterable

from .checks import Json
from .effects import ToolResult, Utterance
from .items import Item, Part
from .responses import TOKEN_MS_IN, count_text_tokens


def history(items: Iterable[Item]) -> list[Utterance | ToolResult]:
    """Messages and tool results, oldest first; function calls only give their results a name."""
    names: dict[str, str] = {}
    entries: list[Utterance | ToolResult] = []
    for item in items:
        if item.kind == "message":
            entries.append(Utterance(item.role or "user", item.words))
        elif item.kind == "function_call":
            names[str(item.fields.get("call_id"))] = str(item.fields.get("name"))
        elif item.kind == "function_call_output":
            name = names.get(str(item.fields.get("call_id")), "")
            entries.append(ToolResult(name, str(item.fields.get("output"))))
    return entries


def input_tokens(instructions: str, items: Iterable[Item]) -> tuple[int, int]:
    """Text and audio tokens a response reads."""
    text = count_text_tokens(instructions)
    audio = 0
    for item in items:
        audio += int(sum(part.duration_ms for part in item.content)) // TOKEN_MS_IN
        text += sum(count_text_tokens(part.text or "") for part in item.content)
    return text, audio


def transcription_usage(transcription: Json | None, part: Part, text: str) -> Json:
    """Usage of one transcription: tokens for the gpt-4o models, seconds for all others."""
    model = str((transcription or {}).get("model", ""))
    if not model.startswith("gpt-4o"):
        return {"type": "duration", "seconds": round(part.duration_ms / 1000, 2)}
    spoken, written = int(part.duration_ms // TOKEN_MS_IN), count_text_tokens(text)
    return {
        "type": "tokens",
        "total_tokens": spoken + written,
        "input_tokens": spoken,
        "output_tokens": written,
        "input_token_details": {"text_tokens": 0, "audio_tokens": spoken},
    }
