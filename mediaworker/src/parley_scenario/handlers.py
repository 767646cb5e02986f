"""Who listens to what, and how one event is dispatched.

Rules: handlers run in the order in which they were registered, the next one after an async one has ended; a
handler that was registered twice runs once; one removed during a dispatch is not called any more, one added
is called from the next event on. What is no function is an error when an event reaches it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection
from typing import Any

from parley_scenario.events import ScenarioMistake, check_event

Handler = Callable[[Any], object]


class Handlers:
    """The handlers of one thing. `changed` is called when the events listened to may have changed."""

    def __init__(self, owner: str, known: Collection[str], changed: Callable[[], None] | None = None) -> None:
        self._owner, self._known = owner, known
        self._changed = changed or (lambda: None)
        self._table: dict[str, list[object]] = {}

    def add(self, event: str, handler: object) -> None:
        """UnknownEvent when no such event is ever dispatched."""
        kept = self._table.setdefault(check_event(event, self._known, self._owner), [])
        if handler not in kept:
            kept.append(handler)
        self._changed()

    def remove(self, event: str, handler: object | None = None) -> None:
        """Without a handler: all of that event."""
        name = check_event(event, self._known, self._owner)
        if handler is None:
            self._table.pop(name, None)
        else:
            self._table[name] = [kept for kept in self._table.get(name, ()) if kept != handler]
        self._changed()

    @property
    def names(self) -> list[str]:
        """Events that somebody listens to."""
        return sorted(name for name, handlers in self._table.items() if handlers)

    async def dispatch(self, name: str, event: object, timeout: float) -> None:
        """Call the handlers of the event one by one; their errors go through."""
        for handler in tuple(self._table.get(name, ())):
            if handler in self._table.get(name, ()):
                await call(handler, (event,), timeout, f"a handler of {name}")


async def call(handler: object, arguments: tuple[object, ...], timeout: float, what: str) -> Any:
    """Call a function of the user, sync or async, `timeout` seconds at most.

    A task or a future that a sync one returns (`lambda event: ctx.say("Hello.")`) is not waited for.
    """
    if not callable(handler):
        raise ScenarioMistake(f"{what} is a {type(handler).__name__}: register a function")
    result = handler(*arguments)
    if not inspect.iscoroutine(result):
        return result
    try:
        async with asyncio.timeout(timeout) as limit:
            return await result
    except TimeoutError:
        if not limit.expired():
            raise
        name = getattr(handler, "__qualname__", repr(handler))
        raise ScenarioMistake(
            f"{what}, {name}, did not end within {timeout:g} s: start long work with ctx.spawn(...)"
        ) from None
