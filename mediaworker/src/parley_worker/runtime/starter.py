"""Starts processes at the priority that this process had before it gave way to them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor


class Starter:
    """A thread that starts processes: a child has the nice value of the thread that starts it.

    Make it before `scheduling.give_way`: without privileges nobody gets a better value back.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "starter")
        self._thread.submit(os.getpid).result()

    async def start(
        self, command: Sequence[str], environment: Mapping[str, str], keep: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """A process without input and output that has the descriptors in `keep`; OSError: it cannot be
        started."""

        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                env=environment,
                pass_fds=keep,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

        return await asyncio.get_running_loop().run_in_executor(self._thread, popen)

    def close(self) -> None:
        """End the thread. What it started with `die_with_parent` and still runs, ends too."""
        self._thread.shutdown()
