"""Where a shard keeps what it has in memory: the C library's heap, on huge pages where the kernel gives them.

A shard goes through what every session has each 20 ms. On pages of 4 KiB the processor looks up more of them
than it can remember, which is a tenth of a shard's time (docs/design/2026-11-26-memory.md).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ALLOCATOR: Final = "PYTHONMALLOC"
TUNABLES: Final = "GLIBC_TUNABLES"
HUGE_PAGES: Final = "glibc.malloc.hugetlb=1"
GLIBC_KNOWS: Final = (2, 35)
"""The first release that has this tunable."""
MODES: Final = "sys/kernel/mm/transparent_hugepage/enabled"


def environment(root: Path = Path("/")) -> dict[str, str]:
    """This process's, for a child whose heap is to lie on huge pages; as it is where there are none."""
    try:
        modes = (root / MODES).read_text()
    except OSError:
        modes = ""
    library, release = platform.libc_ver()
    return on_huge_pages(os.environ, modes, _numbers(release) if library == "glibc" else None)


def on_huge_pages(environ: Mapping[str, str], modes: str, glibc: tuple[int, ...] | None) -> dict[str, str]:
    """Pure. `modes` is the kernel's list with the one that is on in brackets, `glibc` the C library's
    release, None for another library. Whoever chose an allocator keeps it."""
    env = dict(environ)
    gives = "[madvise]" in modes or "[always]" in modes
    if not gives or glibc is None or glibc < GLIBC_KNOWS or ALLOCATOR in env:
        return env
    chosen = env.get(TUNABLES, "")
    if "glibc.malloc.hugetlb" not in chosen:
        env[TUNABLES] = f"{chosen}:{HUGE_PAGES}" if chosen else HUGE_PAGES
    return env | {ALLOCATOR: "malloc"}


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())
