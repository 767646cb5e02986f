"""Who listens to what, and how one event is dispatched.

Rules: a callback is called once per event however often it was registered; callbacks run in the order in
which they were registered, the next one after an async one has ended; one removed during a dispatch is not
called any more, one added during a dispatch is called from the next event on. A callback that is no function
is kept, and is an error only when an event reaches it.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from parley_realtime.errors import ScenarioError, UnknownEventError
from parley_realtime.protocol.shape import Shape

C = TypeVar("C")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class RealtimeEvent(Generic[C, D]):
    """What a listener gets: event name, client and data (`data["payload"]`: the raw server event).

    Types: that of the client and that of `data`, such as `payloads.ga.Data[payloads.ga.ResponseDone]`.
    """

    name: str
    client: C
    data: D


class Listeners:
    """The table of listeners of one client."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._table: dict[str, list[object]] = {}

    def add(self, event: str, callback: object) -> None:
        """UnknownEventError when no event of that name is ever dispatched."""
        registered = self._table.setdefault(self._known(event), [])
        if not any(_same(kept, callback) for kept in registered):
            registered.append(callback)

    def remove(self, event: str, callback: object | None = None) -> None:
        """Without a callback: all listeners of the event. What was not registered is ignored."""
        name = self._known(event)
        if callback is None:
            self._table.pop(name, None)
        elif name in self._table:
            self._table[name] = [kept for kept in self._table[name] if not _same(kept, callback)]

    def wants(self, name: str) -> bool:
        return bool(self._table.get(name))

    async def dispatch(self, event: RealtimeEvent[Any, Any], timeout: float) -> None:
        """Call every listener of the event; ScenarioError when one is no function, raises or does not end."""
        for callback in tuple(self._table.get(event.name, ())):
            if any(kept is callback for kept in self._table.get(event.name, ())):
                await _call(callback, event, timeout)

    def _known(self, event: str) -> str:
        names = self._shape.event_names
        if event in names:
            return str(event)
        if (mapped := self._shape.names.get(str(event))) is not None:
            raise UnknownEventError(f"{event!r} is the provider's type of event: listen to {mapped!r}")
        raise UnknownEventError(f"event {event!r} does not exist{_nearest(str(event), names)}")


async def _call(callback: object, event: RealtimeEvent[Any, Any], timeout: float) -> None:
    if not callable(callback):
        raise ScenarioError(
            f"the listener of {event.name} is a {type(callback).__name__}: register a function"
        )
    try:
        async with asyncio.timeout(timeout) as limit:
            result = callback(event)
            if inspect.isawaitable(result):
                await result
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ScenarioError(f"a listener of {event.name} was cancelled by something it waited for") from exc
    except Exception as exc:
        if limit.expired():
            raise ScenarioError(f"a listener of {event.name} did not end within {timeout:g} s") from exc
        raise ScenarioError(f"a listener of {event.name} raised {type(exc).__name__}: {exc}") from exc


def _same(one: object, other: object) -> bool:
    # Bound methods are made anew at each access, and equal.
    return one is other or (inspect.ismethod(one) and inspect.ismethod(other) and one == other)


def _nearest(event: str, names: Collection[str]) -> str:
    tails = {name.rsplit(".", 1)[1]: name for name in names}
    close = difflib.get_close_matches(event.rsplit(".", 1)[-1], tails, n=1, cutoff=0.4)
    return f": did you mean {tails[close[0]]!r}?" if close else ": see RealtimeAPIEvents and Events"
