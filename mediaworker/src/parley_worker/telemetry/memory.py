"""How much memory processes have for themselves."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_memory(*others: int) -> int:
    """Bytes of this process and the others (0: none): resident, shared with no file. Dead ones have none."""
    return sum(_private(pid) for pid in (os.getpid(), *others) if pid)


def _private(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return max(0, int(resident) - int(shared)) * _PAGE
