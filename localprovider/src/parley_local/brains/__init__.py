"""Where the words of a reply come from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from parley_local.core.effects import BrainRequest, Reply

from .echo import EchoBrain
from .script import ScriptBrain


class Brain(Protocol):
    """Answers a conversation. May wait (a chat service, say); the server sets the deadline."""

    async def reply(self, request: BrainRequest) -> Reply:
        """What to say and which functions to call, in order. Raises nothing but programming errors."""
        ...


def load_brain(name: str) -> Brain:
    """`echo` or `script:FILE`. Raises ValueError naming the fault and, in a script, its place."""
    if name == "echo":
        return EchoBrain()
    kind, _, path = name.partition(":")
    if kind == "script" and path:
        return ScriptBrain.load(Path(path))
    raise ValueError(f"brain {name!r} is unknown: use 'echo' or 'script:FILE'")
