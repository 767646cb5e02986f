"""Log lines: JSON or plain, to stderr. Secrets never show: they live in `Secret`, known shapes are masked."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from parley_worker.telemetry.log_queue import DroppingHandler

_PATTERNS = (
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]+"), r"\1 ***"),
    (
        re.compile(
            r"(?i)\b(api[-_]?key|authorization|password|ticket|token)([\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]+"
        ),
        r"\1\2***",
    ),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{6,}"), "sk-***"),
    (re.compile(r"(?<=://)[^/\s@]+@"), "***@"),
)


def redact(text: str) -> str:
    """The text with bearer tokens, keys, passwords and user parts of URLs masked."""
    for pattern, mask in _PATTERNS:
        text = pattern.sub(mask, text)
    return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, fields of `extra["fields"]`, traceback."""

    def __init__(self, common: Mapping[str, str]) -> None:
        super().__init__()
        self._common = dict(common)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **self._common,
        }
        for name, value in (getattr(record, "fields", None) or {}).items():
            line.setdefault(name, redact(value) if isinstance(value, str) else value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainFormatter(logging.Formatter):
    """For people: time, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up(style: str, level: str, common: Mapping[str, str]) -> None:
    """Send the process's logs to stderr, by a thread. Libraries speak from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter() if style == "plain" else JsonFormatter(common))
    root = logging.getLogger()
    root.handlers[:] = [DroppingHandler(handler)]
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    for name in ("parley_worker", "parley_realtime"):
        logging.getLogger(name).setLevel(level.upper())


def on_drop(told: Callable[[], None]) -> None:
    """Call `told` for every line that is dropped."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, DroppingHandler):
            handler.on_drop = told
