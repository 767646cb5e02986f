"""A file with every frame of a client, for diagnostics: JSON lines, audio and secrets left out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parley_realtime.redaction import redact

MAX_TRACE_BYTES = 64 * 1024 * 1024


class TraceFile:
    """Appends until 64 MiB are written, then stops and says so. Only the owner may read the file."""

    def __init__(self, path: Path, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self._left = MAX_TRACE_BYTES
        self._file = os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8"
        )

    def write(self, direction: str, now: float, event: Mapping[str, Any]) -> None:
        """One frame. `direction`: `sent` or `received`; `now`: monotonic seconds."""
        if self._left <= 0:
            return
        line = json.dumps({"t": round(now, 3), direction: redact(event, self._secrets)}) + "\n"
        self._left -= len(line)
        self._file.write(line if self._left > 0 else '{"trace": "full, nothing more is written"}\n')

    def close(self) -> None:
        self._file.close()
