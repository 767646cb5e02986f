"""Buries processes that lost their parent with a shard: what its scenarios ran in comes to the supervisor."""

from __future__ import annotations

import ctypes
import os

PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on descendants whose parents are gone are children of this process, as they are of an init."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury() -> int:
    """Take the exits of adopted children; how many there were.

    They are in sessions of their own: what this process started itself is left to whoever waits for it.
    """
    buried = 0
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or os.getsid(ended.si_pid) == os.getsid(0):
                return buried
            os.waitpid(ended.si_pid, os.WNOHANG)
        except (ChildProcessError, ProcessLookupError):
            return buried
        buried += 1
