"""Gives a session's core what happens, one event after the other, and looks at its deadlines. No waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import thread_time

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.session import Session
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.session_guard import SessionGuard
from parley_worker.runtime.unravel import unheard

LOOK_SLOTS = 2
"""Of the pacer: up to 10 ms later than its time a deadline may be met. None is shorter than 200 ms."""


class SessionDriver:
    """See the module. `clock` counts seconds.

    `on_crash` is told an error of ours, of the core or of an effect: it ends the session. `on_deadline` is
    called when a deadline of the core has come.
    """

    def __init__(
        self,
        session: Session,
        clock: Callable[[], float],
        pacer: Pacer,
        on_crash: Callable[[Exception], None],
        on_deadline: Callable[[], None],
    ) -> None:
        self.handle: Callable[[ev.Event, float], list[fx.Effect]] = session.handle
        self._guard: SessionGuard | None = None
        self._next_deadline: Callable[[], float | None] = session.next_deadline
        self._clock = clock
        self._pacer = pacer
        self._do: Callable[[fx.Effect], None] = unheard
        self._on_crash = on_crash
        self._on_deadline = on_deadline
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._looking = False
        self._over = False

    def open(self, guard: SessionGuard, do: Callable[[fx.Effect], None]) -> None:
        """Before anything is fed: `guard` is told what each event took, `do` does one effect."""
        self._guard, self._do = guard, do

    def feed(self, event: ev.Event, look: bool = True) -> None:
        """Handle an event and do its effects; events that effects cause wait their turn. `look`: it may have
        brought a deadline nearer, or made something wait."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        began, now = thread_time(), 0.0
        try:
            while self._events:
                now = self._clock()
                self.do(self.handle(self._events.popleft(), now))
        except Exception as exc:  # noqa: BLE001 - the border of a session: it ends, the others go on
            self._on_crash(exc)
        finally:
            self._handling = False
        if look:
            self.arm()
        if self._guard is not None:
            self._guard.handled(thread_time() - began, now, small=not look)

    def last(self, event: ev.Event) -> None:
        """Handle this one after a crash, and nothing of what waits."""
        self._events.clear()
        self.do(self.handle(event, self._clock()))

    def do(self, effects: list[fx.Effect]) -> None:
        """Do all of them; the first error is raised after the last one."""
        failed: Exception | None = None
        for effect in effects:
            try:
                self._do(effect)
            except Exception as exc:  # noqa: BLE001 - raised below: a record is not lost for another's error
                failed = failed or exc
        if failed is not None:
            raise failed

    def arm(self) -> None:
        """Look at the deadlines soon: events come in groups, and looking costs more than an event."""
        if not self._looking and not self._over:
            self._looking = True
            self._pacer.soon(self._look, LOOK_SLOTS)

    def _look(self) -> None:
        self._looking = False
        if self._over:
            return
        due = self._next_deadline()
        if self._timer is not None:
            if due is not None and self._timer_due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = asyncio.get_running_loop().call_at(due, self._fired)

    def _fired(self) -> None:
        self._timer = None
        self._on_deadline()

    def stop(self) -> None:
        """The session has ended: no deadline of it is looked at any more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def let_go(self) -> None:
        """What is over is freed without a collection; see `unravel`. What still comes changes nothing."""
        self._guard = None
        self.handle, self._next_deadline = _nothing, _never
        self._do, self._on_crash, self._on_deadline = unheard, unheard, _no_one


def _nothing(event: ev.Event, now: float) -> list[fx.Effect]:
    return []


def _never() -> float | None:
    return None


def _no_one() -> None:
    return None
