"""What a brain is, and what brains have in common."""

from __future__ import annotations

import json
import re
from typing import Protocol

from parley_local.core.effects import BrainFailure, BrainRequest, Reply, ToolResult, ToolUse, Utterance

_EXACTLY = re.compile(r'\s*Say exactly this, word for word:\s*"(?P<text>.*)"\s*', re.DOTALL)


class Brain(Protocol):
    """Answers conversations. One brain serves every connection: all it may know of one is in the request.

    A brain may wait (for a chat service, say): the server sets the deadline and cancels the call when the
    caller interrupts. A method `async close()`, where there is one, is called when the server ends.
    """

    async def reply(self, request: BrainRequest) -> Reply:
        """What to say and which functions to call, in order. Raises BrainError where it cannot."""
        ...


class BrainError(Exception):
    """There is no reply. The response ends as `failed` with this message and code; keep secrets out."""

    def __init__(self, message: str, code: str = "server_error", kind: str = "server_error") -> None:
        super().__init__(message)
        self.failure = BrainFailure(message, code, kind)


def word_for_word(request: BrainRequest) -> str | None:
    """The line that the instructions ask to be said exactly, or None.

    The form is `Say exactly this, word for word: "<text>"`, and nothing before or after it; the text is
    read as a JSON string where it is one.
    """
    found = _EXACTLY.fullmatch(request.instructions)
    if found is None:
        return None
    try:
        return str(json.loads(f'"{found["text"]}"', strict=False))
    except ValueError:
        return found["text"]


def caller_turns(request: BrainRequest) -> list[Utterance | ToolResult]:
    """What the caller said and what tools returned, oldest first."""
    heard = [entry for entry in request.history if not isinstance(entry, ToolUse)]
    return [entry for entry in heard if isinstance(entry, ToolResult) or entry.role == "user"]
