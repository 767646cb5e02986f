"""Logging when nobody reads the logs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from parley_worker.telemetry import logging as log_setup
from parley_worker.telemetry.log_queue import DroppingHandler


class Blocked(logging.Handler):
    """Takes a line and nothing more until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.began = threading.Event()
        self.go = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.began.set()
        assert self.go.wait(10)
        self.lines.append(record.getMessage())


@pytest.fixture
def blocked() -> Blocked:
    return Blocked()


@pytest.fixture
def logger(blocked: Blocked) -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    handler = DroppingHandler(blocked, most=10)
    logger.addHandler(handler)
    yield logger
    blocked.go.set()
    handler.close()


def handler_of(logger: logging.Logger) -> DroppingHandler:
    (handler,) = logger.handlers
    assert isinstance(handler, DroppingHandler)
    return handler


def test_a_reader_that_stands_still_holds_up_nobody_and_costs_lines(
    logger: logging.Logger, blocked: Blocked
) -> None:
    told: list[int] = []
    handler = handler_of(logger)
    handler.on_drop = lambda: told.append(1)
    logger.warning("first")
    assert blocked.began.wait(10)
    for number in range(100):
        logger.warning("line %d", number)
    assert handler.dropped == 90 == len(told)
    blocked.go.set()
    handler.close()
    notice = "90 log lines were dropped: they came faster than they are read"
    assert blocked.lines == ["first", notice, *(f"line {number}" for number in range(10))]


def test_words_are_those_of_the_moment(logger: logging.Logger, blocked: Blocked) -> None:
    state = {"calls": 1}
    logger.warning("state %s", state)
    state["calls"] = 2
    blocked.go.set()
    handler_of(logger).close()
    assert blocked.lines == ["state {'calls': 1}"]


def test_the_process_logs_by_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log_setup.set_up("json", "info", {"worker": "w"})
        logging.getLogger("parley_worker.test").info("said sk-secret-key")
        (handler,) = root.handlers
        handler.close()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for name in ("parley_worker", "parley_realtime"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    line = capsys.readouterr().err
    assert '"message": "said sk-***"' in line
