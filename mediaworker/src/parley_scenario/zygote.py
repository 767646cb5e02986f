"""The process that scenarios are forked from: everything is imported once, and shared by all of them.

`python -m parley_scenario.zygote FD` serves one worker over a SEQPACKET socket. Requests: `fork ID` (with the
scenario's end of its connection and a file for what the interpreter says when it crashes), `kill ID`,
`dump ID`. Answers: `started ID PID`, `exited ID STATUS`. When the worker is gone, so is everything.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from parley_scenario import host, sandbox
from parley_scenario.wire import HEADER_BYTES, body_length, decode

BOOT_SECONDS = 10.0
MAX_REQUEST_BYTES = 4096
DUMP_SIGNAL = signal.SIGUSR1


class Zygote:
    """Forks scenarios and buries them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[str, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            # The worker decides: it may be draining.
            signal.signal(number, signal.SIG_IGN)

    def serve(self) -> None:
        """Until the worker is gone."""
        try:
            while True:
                ready, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
                if self._wake_read in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                self._bury()
                if self._control.fileno() in ready and not self._request():
                    return
        finally:
            for name in list(self._pids):
                self._signal(name, signal.SIGKILL)

    def _request(self) -> bool:
        data, files, _, _ = socket.recv_fds(self._control, MAX_REQUEST_BYTES, 2)
        if not data:
            return False
        verb, _, name = data.decode().partition(" ")
        if verb == "fork" and len(files) == 2:
            self._fork(name, *files)
        elif verb == "kill":
            self._signal(name, signal.SIGKILL)
        elif verb == "dump":
            self._signal(name, DUMP_SIGNAL)
        for file in files:
            os.close(file)
        return True

    def _fork(self, name: str, connection: int, crashes: int) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._tell(f"exited {name} -1")
            return
        if pid == 0:
            self._become_scenario(zygote, connection, crashes)
        self._pids[name] = pid
        self._tell(f"started {name} {pid}")

    def _become_scenario(self, zygote: int, connection: int, crashes: int) -> NoReturn:
        status = 1
        try:
            sandbox.die_with_parent()
            if os.getppid() != zygote:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            _keep_only(connection, crashes)
            scenario(socket.socket(fileno=connection), crashes)
            status = 0
        finally:
            os._exit(status)

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self._pids.get(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                # A pid of ours is not used again before it is buried.
                os.kill(pid, number)

    def _bury(self) -> None:
        for name, pid in list(self._pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._pids[name]
                self._tell(f"exited {name} {os.waitstatus_to_exitcode(status)}")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._control.send(text.encode())


def _keep_only(*files: int) -> None:
    """Close every other file but the three standard ones, which lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    first = 3
    for kept in sorted(files):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def scenario(connection: socket.socket, crashes: int) -> None:
    """Be a scenario: read what it is, confine this process, run it."""
    faulthandler.enable(crashes, all_threads=False)
    faulthandler.register(DUMP_SIGNAL, crashes, all_threads=False)
    connection.settimeout(BOOT_SECONDS)
    header = _read(connection, HEADER_BYTES)
    boot = decode(_read(connection, body_length(header)))
    boot["unconfined"] = sandbox.apply(
        int(boot["memory_bytes"]), strict=bool(boot["strict"]), hidden=boot.get("hidden", ())
    )
    host.run(connection, boot)


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError("the worker is gone")
        data += more
    return data


def main() -> None:
    sandbox.die_with_parent()
    sandbox.hide_memory()
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    Zygote(control).serve()


if __name__ == "__main__":
    main()
