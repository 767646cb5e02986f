"""Finds the brain a setting names."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import cast

from .base import Brain
from .chat import ChatBrain, ChatSettings
from .echo import EchoBrain
from .script import ScriptBrain

_PLUG_IN = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def load_brain(name: str, chat: ChatSettings | None = None) -> Brain:
    """`echo`, `script:FILE`, `chat` or `module:Class`. Raises ValueError naming the fault and its place."""
    if name == "echo":
        return EchoBrain()
    if name == "chat":
        if chat is None:
            raise ValueError("brain 'chat' needs the address of a service: set chat_url")
        return ChatBrain(chat)
    kind, _, rest = name.partition(":")
    if kind == "script" and rest:
        return ScriptBrain.load(Path(rest))
    if kind not in ("script", "chat") and (found := _PLUG_IN.fullmatch(name)) is not None:
        return _plug_in(name, found["module"], found["name"])
    raise ValueError(
        f"brain {name!r} is unknown: use 'echo', 'script:FILE', 'chat' or 'module:Class' of your own"
    )


def _plug_in(brain: str, module: str, name: str) -> Brain:
    try:
        made = getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise ValueError(f"brain {brain!r}: {error}; is it on PYTHONPATH?") from error
    except AttributeError as error:
        raise ValueError(f"brain {brain!r}: {error}") from error
    except Exception as error:  # a stranger's constructor: whatever it raises ends the start with its name
        raise ValueError(f"brain {brain!r}: {name}() raised {type(error).__name__}: {error}") from error
    if not inspect.iscoroutinefunction(getattr(made, "reply", None)):
        raise ValueError(f"brain {brain!r}: {name} needs a method 'async def reply(self, request)'")
    return cast(Brain, made)
