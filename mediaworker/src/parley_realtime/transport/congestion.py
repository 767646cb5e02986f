"""TCP congestion control of one socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection


def ask(fileno: int, names: Collection[str]) -> str:
    """Have the socket use the first of `names` that the kernel gives; its name, "" where none was given."""
    option = getattr(socket, "TCP_CONGESTION", None)  # Linux and FreeBSD
    if option is None or not names:
        return ""
    # Of what an event loop calls a socket not all take options: this one is, and shares theirs.
    with socket.socket(fileno=os.dup(fileno)) as same:
        for name in names:
            try:
                same.setsockopt(socket.IPPROTO_TCP, option, name.encode())
            except OSError:
                continue
            return name
    return ""
