"""Which threads of a shard may interrupt its event loop when they wake: none.

gRPC reads sockets on threads of its own. On the shard's core each of them, awake for some microseconds, would
take the event loop's place for every message: four of five changes of threads, and a sixteenth of a shard's
time (docs/design/2026-11-27-grpc-threads.md). Under Linux's SCHED_BATCH they wait until the loop sleeps or
its slice is over. Linux lets every process choose this, and choose otherwise again.
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
