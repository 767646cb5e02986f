"""How much of the time a thread had something to do."""

from __future__ import annotations

import os
from time import thread_time


def wanted_seconds() -> float:
    """For how long this thread ran or was ready to and had to wait for a CPU, since it began.

    Where only Linux's scheduler could tell the wait, and does not, it is the time that it ran.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        return thread_time()
    try:
        ran, waited, _ = os.read(file, 128).split()
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return thread_time()
    finally:
        os.close(file)
