"""TCP connections of this process, whoever opened them, and what they use."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable


def congestion_control(sock: socket.socket) -> str:
    """Of a socket."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def congestion_of_accepted(port: int) -> list[str]:
    """Of the connections that came to that port."""
    return _congestion(port, socket.socket.getsockname)


def congestion_of_connections_to(port: int) -> list[str]:
    """Of the connections that were made to that port."""
    return _congestion(port, socket.socket.getpeername)


def _congestion(port: int, end: Callable[[socket.socket], tuple[object, ...]]) -> list[str]:
    found = []
    for entry in list(os.scandir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.stat(entry.path).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as sock:
                if sock.type == socket.SOCK_STREAM and sock.getpeername() and end(sock)[1:2] == (port,):
                    found.append(congestion_control(sock))
        except OSError:
            continue
    return found
