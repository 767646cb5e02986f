"""Tells by name which function blocks the event loop, while it still does.

One thread serves all clients of a process; it is started by the first call that is watched and ends when
none was for a while.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IDLE_SECONDS = 5.0

Report = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Call:
    deadline: float
    thread: int
    report: Report
    reported: bool = False


class Watchdog:
    """`with watchdog.over(limit, report):` calls `report(place)` once when the block takes over `limit` s.

    `report` runs in the watching thread; `place` is `file.py:123, in name`, where the block stands.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._calls: set[_Call] = set()
        self._thread: threading.Thread | None = None
        self._next_look = 0.0

    @contextmanager
    def over(self, limit: float, report: Report) -> Iterator[None]:
        call = _Call(time.monotonic() + limit, threading.get_ident(), report)
        self._begin(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)

    def _begin(self, call: _Call) -> None:
        with self._lock:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="realtime-watchdog", daemon=True)
                self._thread.start()
            elif call.deadline < self._next_look:
                self._wake.set()

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            with self._lock:
                late = [call for call in self._calls if not call.reported and call.deadline <= now]
                for call in late:
                    call.reported = True
                waiting = [call.deadline for call in self._calls if not call.reported]
                self._next_look = min(waiting, default=now + IDLE_SECONDS)
                self._wake.clear()
            for call in late:
                call.report(_place(call.thread))
            woken = self._wake.wait(max(0.0, self._next_look - time.monotonic()))
            with self._lock:
                if not woken and not self._calls and not waiting:
                    self._thread = None
                    return


def _place(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "place unknown"
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_qualname}"


WATCHDOG = Watchdog()
