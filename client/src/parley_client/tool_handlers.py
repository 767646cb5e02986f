"""What a function of an agent is given, what it may return, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import ParleyError

log = logging.getLogger(__name__)

MAX_MESSAGE: Final = 300


class ToolError(ParleyError):
    """Raise it in a handler: the agent is told the message, and can speak about it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function by the model.

    Attributes:
        name: the function.
        call_id: the model's name for the call.
        arguments: as the model gave them, a JSON object.
        key: the same at every try of this call, and for no other; for what must not be done twice.
        session_uid, namespace, session, attempt: whose call it is; empty and 0 where that is not known.
        deadline_unix: when nobody waits for the result any more (Unix seconds), None where it is not known.
    """

    name: str
    call_id: str
    arguments: Mapping[str, Any] = field(repr=False)
    key: str = ""
    session_uid: str = ""
    namespace: str = ""
    session: str = ""
    attempt: int = 0
    deadline_unix: float | None = None


Handler = Callable[[ToolCall], Any | Awaitable[Any]]
"""Returns text for the model, or what JSON can hold. A function without `async` runs in a thread: it may
block."""


def parse_arguments(name: str, text: str) -> dict[str, Any]:
    """The model's arguments; ToolError when they are not a JSON object. No text is an empty object."""
    try:
        parsed = json.loads(text or "{}")
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ToolError(f"the arguments of {name!r} are not a JSON object")
    return parsed


async def run_handler(handler: Handler, call: ToolCall) -> str:
    """The result as text. ToolError when there is none; other errors are logged and told without their
    text."""
    try:
        if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        ):
            value = await handler(call)
        else:
            value = await asyncio.to_thread(handler, call)
            if inspect.isawaitable(value):
                value = await value
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except ToolError:
        raise
    except Exception as error:  # the border of user code: the call goes on
        log.exception("tool %s failed in call %s", call.name, call.call_id)
        raise ToolError(f"{call.name!r} failed") from error


def error_output(code: str, message: str) -> str:
    """What the model is given in place of a result."""
    return json.dumps({"error": {"code": code, "message": message[:MAX_MESSAGE]}}, ensure_ascii=False)
