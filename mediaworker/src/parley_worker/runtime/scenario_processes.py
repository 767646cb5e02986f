"""The processes that scenarios run in: one zygote per worker, one child of it per scenario.

The zygote is a program of its own, started with an environment that holds nothing of the worker's: no
provider key, ticket or certificate is ever in its memory. It starts with the first scenario; should it be
lost, its scenarios are lost with it, and the next one starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from parley_scenario.wire import HEADER_BYTES, MAX_ASKED_BYTES, WireError, body_length, encode

from parley_worker import cores

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""For the zygote to import everything and say that it is ready."""
FORK_SECONDS = 5.0
KILL_SECONDS = 2.0
MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""What a scenario has not read of what it was told; more, and it is not keeping up."""
MAX_CRASH_BYTES = 8192
INHERITED = (
    *("PATH", "PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""Variables that a scenario sees of the worker's surroundings."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class ScenarioLost(Exception):
    """There is no scenario process, or no more. The text says why."""


class ScenarioProcess:
    """One scenario's process and the connection to it."""

    def __init__(
        self, name: str, connection: socket.socket, crashes: int, signal: Callable[[str], None]
    ) -> None:
        self.name = name
        self.pid = 0
        self._signal = signal
        self._connection = connection
        self._crashes = crashes
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Take the connection into the event loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)

    def send(self, frame: Mapping[str, Any]) -> bool:
        """Send a frame without waiting; False when the process does not keep up."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return True
        writer.write(encode(frame))
        return writer.transport.get_write_buffer_size() <= MAX_UNREAD_BYTES

    async def receive(self) -> bytes | None:
        """The next frame's body; None when the process has closed its end. WireError: it is too long."""
        assert self._reader is not None
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            return await self._reader.readexactly(body_length(header, MAX_ASKED_BYTES))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def kill(self) -> None:
        """End it at once."""
        self._signal(f"kill {self.name}")

    def ask_where(self) -> None:
        """Let it write down where it is, whatever it does; `crash_words` has it then."""
        self._signal(f"dump {self.name}")

    def threads(self) -> int:
        """How many threads it runs; 0 when that cannot be told."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return int(file.read().rpartition(b")")[2].split()[17])
        except (OSError, ValueError, IndexError):
            return 0

    def crash_words(self) -> str:
        """What the interpreter said when it crashed or was asked where it is."""
        with contextlib.suppress(OSError):
            return os.read(self._crashes, MAX_CRASH_BYTES).decode(errors="replace")
        return ""

    async def close(self) -> None:
        """Kill it when it lives still, and let go of everything; bounded."""
        if not self.exited.done():
            self.kill()
            await asyncio.wait({self.exited}, timeout=KILL_SECONDS)
        self.exited.cancel()
        self.started.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._connection.close()
        if self._crashes >= 0:
            os.close(self._crashes)
            self._crashes = -1


class ScenarioProcesses:
    """Starts scenarios. `close()` ends all that are left, the zygote included."""

    def __init__(self, paths: tuple[str, ...] = ()) -> None:
        """`paths` are put before the module path of scenarios."""
        self._paths = paths
        self._starting = asyncio.Lock()
        self._zygote: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._live: dict[str, ScenarioProcess] = {}
        self._numbers = 0

    @property
    def zygote_pid(self) -> int:
        """Of the zygote; 0 before the first scenario."""
        return self._zygote.pid if self._zygote is not None else 0

    async def start(self, boot: Mapping[str, Any]) -> ScenarioProcess:
        """A process that has been told what to run. ScenarioLost when there can be none."""
        async with self._starting:
            if self._control is None:
                await self._start_zygote()
        self._numbers += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        crashes, said = os.pipe()
        os.set_blocking(crashes, False)
        process = ScenarioProcess(f"s{self._numbers}", ours, crashes, self._request)
        self._live[process.name] = process
        try:
            self._request(f"fork {process.name}", theirs.fileno(), said)
            async with asyncio.timeout(FORK_SECONDS):
                process.pid = await process.started
            await process.open()
            process.send(boot)
        except (TimeoutError, OSError, WireError) as error:
            await self.end(process)
            raise ScenarioLost(f"the scenario's process did not start: {error or 'no answer'}") from None
        except BaseException:
            await self.end(process)
            raise
        finally:
            theirs.close()
            os.close(said)
        return process

    async def end(self, process: ScenarioProcess) -> None:
        """Nothing is left of it afterwards."""
        try:
            await process.close()
        finally:
            self._live.pop(process.name, None)

    async def close(self) -> None:
        """End every scenario and the zygote."""
        for process in list(self._live.values()):
            await self.end(process)
        self._lost()
        if self._zygote is not None:
            with contextlib.suppress(ProcessLookupError):
                self._zygote.kill()
            await self._zygote.wait()
            self._zygote = None

    async def _start_zygote(self) -> None:
        if self._zygote is not None:
            await self._zygote.wait()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        env = {name: os.environ[name] for name in INHERITED if name in os.environ} | ONE_THREAD
        paths = [*self._paths, *env.get("PYTHONPATH", "").split(os.pathsep)]
        env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        loop = asyncio.get_running_loop()
        try:
            self._zygote = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "parley_scenario.zygote", str(theirs.fileno())),
                env=env,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            # A shard that is bound to a core keeps it for calls.
            cores.release(self._zygote.pid)
            theirs.close()
            async with asyncio.timeout(START_SECONDS):
                ready = await loop.sock_recv(ours, 64)
            if ready != b"ready":
                raise OSError("it ended at once")
        except (TimeoutError, OSError) as error:
            ours.close()
            raise ScenarioLost(f"scenarios cannot be started: {error or 'no answer'}") from None
        finally:
            theirs.close()
        self._control = ours
        loop.add_reader(ours.fileno(), self._hear)

    def _request(self, text: str, *files: int) -> None:
        if self._control is None:
            return
        try:
            socket.send_fds(self._control, [text.encode()], files)
        except BlockingIOError:
            raise
        except OSError:
            self._lost()

    def _hear(self) -> None:
        """What the zygote says."""
        control = self._control
        while control is not None and control is self._control:
            try:
                text = control.recv(256).decode()
            except BlockingIOError:
                return
            except OSError:
                text = ""
            if not text:
                self._lost()
                return
            verb, name, number = text.split(" ")
            process = self._live.get(name)
            future = None if process is None else process.started if verb == "started" else process.exited
            if future is not None and not future.done():
                future.set_result(int(number))

    def _lost(self) -> None:
        """The zygote is gone, and every scenario with it."""
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        for process in self._live.values():
            if not process.started.done():
                process.started.set_exception(OSError("the zygote is gone"))
            if not process.exited.done():
                process.exited.set_result(-9)
