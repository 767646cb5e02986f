"""Which TCP congestion control carries audio.

BBR looks for the shortest round trip every ten seconds, for 200 ms and with four packets on their way. Speech
and events are small packets, so some of them then wait for an acknowledgement, which the other side may delay
for 40 ms: the caller hears a gap (docs/design/2026-11-27-congestion-control.md).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from parley_realtime.transport.congestion import ask

log = logging.getLogger(__name__)

AUTO: Final = "auto"
SYSTEM: Final = "system"
STEADY: Final = ("cubic", "reno")
"""What `auto` asks for, in this order: the kernel gives reno to everybody, cubic where it is allowed."""
_NAME = re.compile(r"[a-z0-9_-]{1,15}")
_SYSTEMS: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_DESCRIPTORS: Final = Path("/proc/self/fd")


def check(name: str) -> str:
    """The name as it is. ValueError when no congestion control can have it."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"give {AUTO}, {SYSTEM}, or a name as in net.ipv4.tcp_available_congestion_control")
    return name


def wanted(asked: str, own: str) -> tuple[str, ...]:
    """What to ask the kernel for, the best first; nothing where the system's `own` is right."""
    if asked == AUTO:
        return STEADY if own.startswith("bbr") else ()
    return () if asked in (SYSTEM, own) else (asked,)


def systems() -> str:
    """What connections use that ask for nothing; "" where that cannot be told."""
    try:
        return _SYSTEMS.read_text().strip()
    except OSError:
        return ""


def instead(asked: str) -> tuple[str, ...]:
    """What to ask the kernel for, for connections of this process."""
    known = systems()
    return wanted(asked, known) if known else ()


def settle(names: Collection[str], ports: Collection[int]) -> str:
    """Let connections that come to these TCP ports from now on use the first of `names` that the
    kernel gives.

    Gives what they use then; "" where that cannot be told. What the kernel refuses is logged and leaves the
    system's.
    """
    known = systems()
    if not names:
        return known
    used = {_have(listener, names) or known for listener in _listeners(ports)}
    if used <= {known}:
        log.warning(
            "connections keep %s: the kernel gives no %s here, see net.ipv4.tcp_allowed_congestion_control",
            known,
            " or ".join(names),
        )
        return known
    chosen = ", ".join(sorted(used))
    log.info("connections with callers and providers use %s; the system's is %s", chosen, known)
    return chosen


def _have(listener: socket.socket, names: Collection[str]) -> str:
    with listener:
        return ask(listener.fileno(), names)


def _listeners(ports: Collection[int]) -> Iterator[socket.socket]:
    """Duplicates of what listens on these ports: gRPC does not tell its sockets."""
    for entry in list(os.scandir(_DESCRIPTORS)):
        try:
            if not stat.S_ISSOCK(os.stat(entry.path).st_mode):
                continue
            found = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        if _listens(found, ports):
            yield found
        else:
            found.close()


def _listens(found: socket.socket, ports: Collection[int]) -> bool:
    if found.type != socket.SOCK_STREAM or found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return bool(listening) and found.getsockname()[1] in ports
