"""Log lines written by a thread: whoever logs never waits for whoever reads the logs."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

MAX_LINES = 10_000
CLOSE_SECONDS = 2.0


class DroppingHandler(logging.Handler):
    """Hands records to `target` in a thread of its own. More than `most` that wait are dropped, counted, and
    told of as soon as a line goes through again."""

    def __init__(self, target: logging.Handler, most: int = MAX_LINES) -> None:
        super().__init__()
        self._target = target
        self._most = most
        self._waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._untold = 0
        self.dropped = 0
        self.on_drop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it; its words are made now, while what they speak of is as it was."""
        if self._waiting.qsize() >= self._most:
            self.dropped += 1
            self._untold += 1
            self.on_drop()
            return
        record.msg, record.args = record.getMessage(), None
        self._waiting.put(record)

    def close(self) -> None:
        """Write what waits, within CLOSE_SECONDS."""
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._pass_on(record)
            if self._untold:
                untold, self._untold = self._untold, 0
                self._pass_on(_notice(untold))

    def _pass_on(self, record: logging.LogRecord) -> None:
        try:
            self._target.handle(record)
        except Exception:  # noqa: BLE001 - a line that cannot be written costs that line and not all that follow
            self.dropped += 1


def _notice(dropped: int) -> logging.LogRecord:
    text = "%d log lines were dropped: they came faster than they are read"
    return logging.LogRecord("parley_worker.telemetry", logging.WARNING, "", 0, text, (dropped,), None)
