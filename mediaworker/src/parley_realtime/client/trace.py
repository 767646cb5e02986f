"""Every frame of a client for diagnostics, without secrets and audio: to a file, or to a function."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parley_realtime.events import AUDIO_DELTA_TYPES
from parley_realtime.redaction import redact

MAX_TRACE_BYTES = 64 * 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One frame. `at`: monotonic seconds; `frame`: plain JSON, to be kept or changed as one likes.

    Base64 audio is its size in words, secrets are `***`. A frame that could not be understood is its size and
    the reason: `{"type": "malformed", "bytes": ..., "reason": ...}`.
    """

    at: float
    direction: Literal["sent", "received"]
    frame: dict[str, Any]


TraceSink = Callable[[TraceEntry], None]


class Trace:
    """Redacts and hands on. A sink that raises is told nothing more, and the log says so once."""

    def __init__(self, target: Path | TraceSink, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self._file = TraceFile(target) if isinstance(target, Path) else None
        self._sink: TraceSink | None = self._file.write if self._file is not None else target  # type: ignore[assignment]

    def sent(self, at: float, event: Mapping[str, Any]) -> None:
        """A client event that has left."""
        self._write(at, "sent", event)

    def received(self, at: float, event: Mapping[str, Any]) -> None:
        """A server event, audio deltas with their `delta` left out or replaced."""
        self._write(at, "received", event)

    def audio(self, at: float, response_id: str, item_id: str, content_index: int, size: int) -> None:
        """An audio delta of `size` decoded bytes."""
        self._write(
            at,
            "received",
            {
                "type": "audio delta",
                "response_id": response_id,
                "item_id": item_id,
                "content_index": content_index,
                "bytes": size,
            },
        )

    def malformed(self, at: float, size: int, reason: str) -> None:
        """A frame of `size` bytes that could not be understood."""
        self._write(at, "received", {"type": "malformed", "bytes": size, "reason": reason})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, at: float, direction: Literal["sent", "received"], event: Mapping[str, Any]) -> None:
        if self._sink is None:
            return
        frame = redact(event, self._secrets)
        if frame.get("type") in AUDIO_DELTA_TYPES and "delta" in frame:
            frame["delta"] = f"<{len(frame['delta'])} characters of audio>"
        try:
            self._sink(TraceEntry(at, direction, frame))
        except Exception as exc:  # noqa: BLE001 - another party's code, or a full disk: the call goes on
            self._sink = None
            logger.error("the trace ends here: its target raised %s", type(exc).__name__)


class TraceFile:
    """Appends JSON lines until 64 MiB are written, then says so. Only the owner may read the file."""

    def __init__(self, path: Path) -> None:
        self._left = MAX_TRACE_BYTES
        self._file = os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8"
        )

    def write(self, entry: TraceEntry) -> None:
        """One line: `{"t": seconds, "sent" or "received": frame}`."""
        if self._left <= 0:
            return
        line = json.dumps({"t": round(entry.at, 3), entry.direction: entry.frame}) + "\n"
        self._left -= len(line)
        self._file.write(line if self._left > 0 else '{"trace": "full, nothing more is written"}\n')

    def close(self) -> None:
        self._file.close()
