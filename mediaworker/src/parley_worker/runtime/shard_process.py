"""One process of a shard: started by exec, told what it is over its link, ended with it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

from parley_worker.codec.shard_frames import Boot, Kind, Ready
from parley_worker.config import PREFIX
from parley_worker.core.shards import LossCause
from parley_worker.runtime.starter import Starter
from parley_worker.transport.shard_link import ShardLink

log = logging.getLogger(__name__)

DEATH_SECONDS = 2.0
"""For a killed process to be gone; the kernel may hold it longer."""
GLANCE_SECONDS = 0.01
"""Between looks at a process that is ending: its link told already that it is."""


class ShardProcess:
    """One life of a shard, begun by `starter` with `environment`. Every frame counts as a sign of life."""

    def __init__(
        self,
        boot: Boot,
        starter: Starter,
        environment: Mapping[str, str],
        hear: Callable[[Kind, bytes], None],
        alive: Callable[[], None],
    ) -> None:
        self._boot, self._starter, self._environment = boot, starter, environment
        self._hear, self._alive = hear, alive
        ours, self._theirs = socket.socketpair()
        self.link = ShardLink(ours, self._heard)
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._silent = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start it; `ready` tells when it serves, or why it does not. OSError: it cannot be started."""
        # Nothing of the worker's settings is left in the environment: they may hold secrets.
        env = {name: value for name, value in self._environment.items() if not name.startswith(PREFIX)}
        try:
            number = self._theirs.fileno()
            command = [sys.executable, "-m", "parley_worker.shard", str(number)]
            self._process = await self._starter.start(command, env, [number])
        except BaseException:
            self.link.close()
            raise
        finally:
            self._theirs.close()
        await self.link.open()
        self.link.send(Kind.BOOT, self._boot.encode())

    def _heard(self, kind: Kind, body: bytes) -> None:
        self._alive()
        if kind is Kind.READY and not self.ready.done():
            self.ready.set_result(Ready.decode(body))
        elif kind is Kind.FAILED and not self.ready.done():
            self.ready.set_exception(OSError(body.decode()))
            self.ready.exception()
        else:
            self._hear(kind, body)

    def kill_silent(self) -> None:
        """End it at once, for its silence."""
        self._silent = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def end(self, grace: float) -> tuple[LossCause, str]:
        """Let it finish within `grace` seconds, then kill it; how it ended, for machines and for people."""
        self.link.close()
        if self._process is None:
            return LossCause.START, "could not be started"
        if not await self._gone(grace):
            self._kill()
            if not await self._gone(DEATH_SECONDS):
                log.error("shard %d, process %d, does not die: it is left behind", self._boot.shard, self.pid)
        return self._words()

    async def _gone(self, seconds: float) -> bool:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._process.poll() is None:
            if loop.time() >= until:
                return False
            await asyncio.sleep(GLANCE_SECONDS)
        return True

    def _words(self) -> tuple[LossCause, str]:
        code = self._process.returncode if self._process is not None else None
        if self._silent:
            return LossCause.SILENT, "gave no sign of life and was killed"
        if code is None:
            return LossCause.SIGNAL, "was killed"
        if code < 0:
            return LossCause.SIGNAL, f"was killed by {_signal_name(-code)}"
        return LossCause.EXIT, f"ended with code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
