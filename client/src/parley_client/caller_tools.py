"""The functions that a caller answers itself: each call runs as a task of its own while the audio goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from .errors import ParleyError, UsageError
from .events import ConversationEvent, Started
from .tool_handlers import Handler, ToolCall, ToolError, error_output, parse_arguments, run_handler

log = logging.getLogger(__name__)

MAX_RUNNING: Final = 64
MAX_SEEN: Final = 1024
STOP_SECONDS: Final = 2.0

Send = Callable[[str, str], Awaitable[None]]
"""Gives the result of a call (by its id) to the worker."""


class CallerTools:
    """The handlers of one call, and the calls that run."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._handlers: dict[str, Handler] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, None] = {}

    def register(self, name: str, handler: Handler) -> None:
        """Raises UsageError when the name has a handler already."""
        if not name or not callable(handler):
            raise UsageError(f"on_tool({name!r}, ...): give the function's name and a callable")
        if name in self._handlers:
            raise UsageError(f"on_tool({name!r}, ...): the function has a handler already")
        self._handlers[name] = handler

    def follow(self, event: ConversationEvent, started: Started | None) -> None:
        """A conversation event: start what the model calls, end what was given up."""
        item = event.data.get("item")
        if event.type == "parley.tool_cancelled":
            if (task := self._tasks.get(str(event.data.get("call_id")))) is not None:
                task.cancel()
        elif event.type == "response.output_item.done" and isinstance(item, dict):
            name, call_id = str(item.get("name", "")), str(item.get("call_id", ""))
            if item.get("type") != "function_call" or item.get("status") == "incomplete":
                return
            if name in self._handlers and call_id not in self._seen:
                self._start(name, call_id, str(item.get("arguments", "")), started)

    def _start(self, name: str, call_id: str, arguments: str, started: Started | None) -> None:
        self._seen[call_id] = None
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        uid, attempt = (started.session_uid, started.attempt) if started else ("", 0)
        work = self._run(name, call_id, arguments, uid, attempt)
        task = asyncio.create_task(work, name=f"parley-tool-{name}")
        self._tasks[call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call_id, None))

    async def _run(self, name: str, call_id: str, arguments: str, uid: str, attempt: int) -> None:
        try:
            if len(self._tasks) > MAX_RUNNING:
                raise ToolError(f"{name!r} is called too often at once")
            call = ToolCall(
                name,
                call_id,
                parse_arguments(name, arguments),
                key=f"{uid}.{attempt}.{call_id}",
                session_uid=uid,
                attempt=attempt,
            )
            output = await run_handler(self._handlers[name], call)
        except ToolError as error:
            output = error_output("failed", str(error))
        try:
            await self._send(call_id, output)
        except ParleyError as error:
            log.warning("the result of tool %s could not be given: %s", name, error)

    def stop(self) -> None:
        """Cancel every call that runs. One whose handler is no `async` function goes on in its thread."""
        for task in self._tasks.values():
            task.cancel()

    async def wait(self) -> None:
        """Until all tasks have ended, for two seconds at most: a handler may not want to end."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=STOP_SECONDS)
