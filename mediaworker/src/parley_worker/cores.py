"""How many cores this process may use: its affinity, and what its control groups (v1 or v2) leave it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def affinity() -> list[int]:
    """Numbers of the cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


_before: set[int] = set()


def pin(core: int) -> None:
    """Bind this process to one core; its threads and children too, unless they are released."""
    _before.update(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})


def release(pid: int) -> None:
    """Let a child of a bound process run wherever this one might before."""
    if _before:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, _before)


def usable(cores: int, quota: float | None) -> int:
    """Whole cores to be kept busy of `cores`, when a quota of that many is set; 1 at least.

    A part of a core is left to what runs beside the shards: a shard that gets half a core lags.
    """
    return max(1, cores if quota is None else min(cores, int(quota)))


def quota(root: Path = ROOT) -> float | None:
    """The smallest quota, in cores, of this process's control groups and those above; None for no limit."""
    found = [value for folder in _groups(root) if (value := _limit(folder)) is not None]
    return min(found, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders that may hold a limit. A container sees its own group at the root, or below the host's path."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [controllers, "cpu", "cpu,cpuacct"] if controllers else ["", "unified"]
        for mount in dict.fromkeys(root / "sys/fs/cgroup" / name for name in names):
            group = Path(path.lstrip("/"))
            yield mount / group
            yield from (mount / parent for parent in group.parents)


def _limit(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        limit = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
