"""Who gives way to a shard's event loop: gRPC's threads beside it, and the supervisor.

gRPC reads sockets on threads of its own. On the shard's core each of them, awake for some microseconds, would
take the event loop's place for every message: four of five changes of threads, and a sixteenth of a shard's
time (docs/design/2026-11-27-grpc-threads.md). Under Linux's SCHED_BATCH they wait until the loop sleeps or
its slice is over. Linux lets every process choose this, and choose otherwise again.

As they interrupt nobody, they do not interrupt the supervisor either, where it shares the core: while it
refuses callers, writes metrics or answers a probe, audio would wait. So its threads have a nice value with
which everything else goes first (docs/design/2026-11-28-supervisor-nice.md).
"""

from __future__ import annotations

import contextlib
import os

_chosen = False


def batch() -> None:
    """What this thread starts from now on interrupts nobody when it wakes; nor does this thread.

    A process that was given another policy than the usual one keeps it, and one that may not choose stays as
    it is.
    """
    global _chosen
    if not hasattr(os, "sched_setscheduler"):
        return
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            _chosen = True


def normal() -> None:
    """This thread is as it was before `batch`, if that was called; what it started is not."""
    if _chosen:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def give_way(nice: int) -> None:
    """This thread, and what it starts from now on, has at least this nice value (0 to 19) from now on.

    Without privileges there is no way back.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
