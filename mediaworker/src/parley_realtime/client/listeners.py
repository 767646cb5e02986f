"""Who listens to what, and how one event is dispatched.

Rules:
- A callback is called once per event however often it was registered for it.
- Callbacks of one event run in the order in which they were registered, the next one after an async one has
  ended; the next event is dispatched after the last callback of this one. So a callback that waits for
  another event of the same client waits in vain, until its time limit.
- One removed during a dispatch is not called any more, the one that runs goes on; one added during a
  dispatch, or removed and added again, is called from the next event on.
- A callback may call every method of the client. After `close()` it runs to its end, and nothing is
  dispatched any more. `wait_closed()` would wait for the callback itself and raises ClientStateError instead.
- A callback that is no function is kept, and is an error only when an event reaches it.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import inspect
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from parley_realtime.client.watchdog import WATCHDOG
from parley_realtime.errors import ScenarioError, UnknownEventError
from parley_realtime.protocol.shape import Shape

C = TypeVar("C")
D = TypeVar("D")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RealtimeEvent(Generic[C, D]):
    """What a listener gets: event name, client and data (`data["payload"]`: the raw server event).

    Types: that of the client and that of `data`, such as `payloads.ga.Data[payloads.ga.ResponseDone]`.
    """

    name: str
    client: C
    data: D


@dataclass(frozen=True, slots=True)
class HandlerRules:
    """What callbacks may do. Times in seconds.

    sync_timeout: how long a callback may keep the event loop. timeout: how long an async one may take in all;
    then it is cancelled. on_error: `log` lets the scenario go on after a callback that raised or took too
    long; what is no function ends it in any case. private: no text of an exception is repeated.
    """

    sync_timeout: float = 1.0
    timeout: float = 10.0
    on_error: Literal["end", "log"] = "end"
    private: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Registration:
    callback: object


class Listeners:
    """The table of listeners of one client."""

    def __init__(
        self,
        shape: Shape,
        rules: HandlerRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shape = shape
        self._rules = rules or HandlerRules()
        self._clock = clock
        self._table: dict[str, list[_Registration]] = {}

    def add(self, event: str, callback: object) -> None:
        """UnknownEventError when no event of that name is ever dispatched."""
        registered = self._table.setdefault(self._known(event), [])
        if not any(_same(kept.callback, callback) for kept in registered):
            registered.append(_Registration(callback))

    def remove(self, event: str, callback: object | None = None) -> None:
        """Without a callback: all listeners of the event. What was not registered is ignored."""
        name = self._known(event)
        if callback is None:
            self._table.pop(name, None)
        elif name in self._table:
            self._table[name] = [kept for kept in self._table[name] if not _same(kept.callback, callback)]

    def wants(self, name: str) -> bool:
        return bool(self._table.get(name))

    async def dispatch(self, event: RealtimeEvent[Any, Any]) -> None:
        """Call every listener of the event; ScenarioError: one broke the rules and `on_error` is `end`."""
        for registration in tuple(self._table.get(event.name, ())):
            if registration not in self._table.get(event.name, ()):
                continue
            callback = registration.callback
            if not callable(callback):
                raise ScenarioError(
                    f"the listener of {event.name} is a {type(callback).__name__}: register a function"
                )
            error = await self._call(callback, event)
            if error is None:
                continue
            if self._rules.on_error == "end":
                raise error
            logger.error("%s", error, exc_info=None if self._rules.private else error.__cause__)

    async def _call(
        self, callback: Callable[..., object], event: RealtimeEvent[Any, Any]
    ) -> ScenarioError | None:
        rules, who = self._rules, f"the listener {handler_name(callback)} of {event.name}"
        try:
            async with asyncio.timeout(rules.timeout) as limit:
                began = self._clock()
                with WATCHDOG.over(rules.sync_timeout, functools.partial(_still_blocks, who, rules)):
                    result = callback(event)
                took = self._clock() - began
                if inspect.isawaitable(result):
                    await result
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._error(f"{who} was cancelled by something it waited for", exc)
        except Exception as exc:  # noqa: BLE001 - user code: whatever it raises is judged by the rules
            if limit.expired():
                return self._error(f"{who} did not end within {rules.timeout:g} s", exc)
            said = "" if rules.private else f": {exc}"
            return self._error(f"{who} raised {type(exc).__name__}{said}", exc)
        if took > rules.sync_timeout:
            return ScenarioError(
                f"{who} kept the event loop for {took:.1f} s, more than sync_handler_timeout "
                f"{rules.sync_timeout:g} s: await what takes long, or do it in a thread"
            )
        return None

    def _error(self, text: str, cause: BaseException) -> ScenarioError:
        error = ScenarioError(text)
        if not self._rules.private:
            error.__cause__ = cause
        return error

    def _known(self, event: str) -> str:
        names = self._shape.event_names
        if event in names:
            return str(event)
        if (mapped := self._shape.names.get(str(event))) is not None:
            raise UnknownEventError(f"{event!r} is the provider's type of event: listen to {mapped!r}")
        raise UnknownEventError(f"event {event!r} does not exist{_nearest(str(event), names)}")


def handler_name(callback: object) -> str:
    """`module.qualname` of a function, of the function in a partial, or of the class of a callable object."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    named = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"


def _still_blocks(who: str, rules: HandlerRules, place: str) -> None:
    logger.warning(
        "%s has kept the event loop for %g s and still does, at %s: everything on this loop waits for it",
        who,
        rules.sync_timeout,
        place,
    )


def _same(one: object, other: object) -> bool:
    # Bound methods are made anew at each access, and equal.
    return one is other or (inspect.ismethod(one) and inspect.ismethod(other) and one == other)


def _nearest(event: str, names: Collection[str]) -> str:
    tails = {name.rsplit(".", 1)[1]: name for name in names}
    close = difflib.get_close_matches(event.rsplit(".", 1)[-1], tails, n=1, cutoff=0.4)
    return f": did you mean {tails[close[0]]!r}?" if close else ": see RealtimeAPIEvents and Events"
