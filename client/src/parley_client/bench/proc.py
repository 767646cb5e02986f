"""What /proc says of a machine and of a tree of processes (Linux).

A worker that keeps its memory private (it is not dumpable) shows its PSS and its descriptors to root alone:
what cannot be read is None.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Stat:
    """Of one process: parent, CPU seconds of itself and of its children that were waited for, threads."""

    parent: int
    user: float
    system: float
    threads: int
    began: int


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since boot of one CPU."""

    busy: float
    """In user and kernel mode; interrupts and the hypervisor are not in it."""
    interrupts: float
    steal: float


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of processes at one moment. Seconds, MiB; None where this user may not look."""

    user: float
    system: float
    run_delay: float
    """Seconds that its threads were ready and waited for a CPU."""
    rss_mib: float
    pss_mib: float | None
    fds: int | None
    threads: int
    processes: int

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def memory_mib(self) -> float:
        """PSS, or RSS where PSS cannot be read."""
        return self.rss_mib if self.pss_mib is None else self.pss_mib


def parse_stat(text: str, hertz: float) -> Stat:
    """Of the text of /proc/PID/stat; the name in it may hold spaces and brackets."""
    words = text[text.rindex(")") + 2 :].split()
    ticks = [int(word) for word in words[11:15]]
    return Stat(
        parent=int(words[1]),
        user=(ticks[0] + ticks[2]) / hertz,
        system=(ticks[1] + ticks[3]) / hertz,
        threads=int(words[17]),
        began=int(words[19]),
    )


def parse_cpus(text: str, hertz: float) -> dict[int, CpuTimes]:
    """Of the text of /proc/stat, by number of the CPU."""
    found = {}
    for line in text.splitlines():
        name, *words = line.split() or [""]
        if not (name.startswith("cpu") and name[3:].isdigit()):
            continue
        user, nice, system, _, _, irq, softirq, steal = (int(word) / hertz for word in words[:8])
        found[int(name[3:])] = CpuTimes(user + nice + system, irq + softirq, steal)
    return found


def parse_rollup(text: str) -> float:
    """MiB of PSS in the text of /proc/PID/smaps_rollup."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) / 1024
    return 0.0


def parse_run_delay(text: str) -> float:
    """Seconds of waiting in the text of /proc/PID/task/TID/schedstat."""
    return int(text.split()[1]) / 1e9


def tree_of(parents: Mapping[int, int], roots: Iterable[int]) -> list[int]:
    """The processes below `roots`, these included. `parents`: by process, its parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    left = [root for root in roots if root in parents]
    while left:
        pid = left.pop()
        if pid not in found:
            found.append(pid)
            left += children.get(pid, [])
    return found


HERTZ = float(os.sysconf("SC_CLK_TCK"))
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def read_cpus() -> dict[int, CpuTimes]:
    return parse_cpus((PROC / "stat").read_text(), HERTZ)


def read_stats() -> dict[int, Stat]:
    """Every process of the machine."""
    found = {}
    for entry in os.listdir(PROC):
        if entry.isdigit():
            text = _text(PROC / entry / "stat")
            if text:
                found[int(entry)] = parse_stat(text, HERTZ)
    return found


def read_cpu(roots: Iterable[int]) -> float:
    """CPU seconds of trees: of the living and of those that they waited for."""
    stats = read_stats()
    pids = tree_of({pid: stat.parent for pid, stat in stats.items()}, roots)
    return sum(stats[pid].user + stats[pid].system for pid in pids)


def read_tree(roots: Iterable[int]) -> Tree:
    """Trees as they are now."""
    stats = read_stats()
    pids = tree_of({pid: stat.parent for pid, stat in stats.items()}, roots)
    folders = [PROC / str(pid) for pid in pids]
    memory = [_text(folder / "smaps_rollup") for folder in folders]
    counts = [_count(folder / "fd") for folder in folders]
    return Tree(
        user=sum(stats[pid].user for pid in pids),
        system=sum(stats[pid].system for pid in pids),
        run_delay=sum(_run_delay(folder) for folder in folders),
        rss_mib=sum(_rss(folder) for folder in folders),
        pss_mib=None if None in memory else sum(parse_rollup(text or "") for text in memory),
        fds=None if None in counts else sum(count or 0 for count in counts),
        threads=sum(stats[pid].threads for pid in pids),
        processes=len(pids),
    )


def _rss(folder: Path) -> float:
    text = _text(folder / "statm")
    return int(text.split()[1]) * _PAGE_MIB if text else 0.0


def _run_delay(folder: Path) -> float:
    try:
        threads = os.listdir(folder / "task")
    except OSError:
        return 0.0
    texts = (_text(folder / "task" / thread / "schedstat") for thread in threads)
    return sum(parse_run_delay(text) for text in texts if text)


def _count(folder: Path) -> int | None:
    """Entries; None where this user may not look, 0 where the process is gone."""
    try:
        return len(os.listdir(folder))
    except PermissionError:
        return None
    except OSError:
        return 0


def _text(path: Path) -> str | None:
    """Its text; None where this user may not read it, empty where the process is gone."""
    try:
        return path.read_text()
    except PermissionError:
        return None
    except OSError:
        return ""
