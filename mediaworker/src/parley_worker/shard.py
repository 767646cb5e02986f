"""`python -m parley_worker.shard FD`: one shard of a worker, started by its supervisor and by nobody else.

FD is its end of a private link, over which it is told what it is; arguments and environment hold nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parley_worker.codec.shard_frames import Boot

BOOT_SECONDS = 10.0


def read_boot(connection: socket.socket) -> Boot:
    """What the supervisor says first; OSError when it does not."""
    from parley_worker.codec.shard_frames import HEADER_BYTES, Boot, Kind, parse_header

    connection.settimeout(BOOT_SECONDS)
    try:
        length, kind, _ = parse_header(_exactly(connection, HEADER_BYTES))
        if kind is not Kind.BOOT:
            raise OSError(f"the supervisor began with {kind.name}")
        return Boot.decode(_exactly(connection, length))
    except (ValueError, TypeError) as error:
        raise OSError(f"the supervisor's first words are not understood: {error}") from error


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the supervisor is gone")
        data += part
    return data


def main() -> None:
    """Started with anything but an open link it ends with 2."""
    try:
        connection = socket.socket(fileno=int(sys.argv[1]))
    except (IndexError, ValueError, OSError):
        sys.stderr.write("parley_worker.shard: started by a worker only; run `python -m parley_worker`\n")
        sys.exit(2)
    # The supervisor alone is told to end, and lets go when it is time: so it is before the long imports.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    from parley_scenario.sandbox import die_with_parent

    from parley_worker import grpc_core

    os.set_inheritable(connection.fileno(), False)
    die_with_parent()
    grpc_core.prepare(os.environ)
    boot = read_boot(connection)
    if os.getppid() != boot.supervisor_pid:
        sys.exit(1)
    from parley_worker import cores, process, scheduling
    from parley_worker.config import Settings
    from parley_worker.shard_server import serve

    if boot.core is not None:
        with contextlib.suppress(OSError):
            cores.pin(boot.core)
    settings = Settings.from_environ(boot.settings)
    if settings.batch_threads:
        scheduling.batch()
    sys.exit(process.run(settings, serve(boot, settings, connection), shard=str(boot.shard)))


if __name__ == "__main__":
    main()
