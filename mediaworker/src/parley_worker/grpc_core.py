"""How gRPC's core is to work in a worker's processes. It reads the environment once, when it is imported."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

FORKS: Final = "GRPC_ENABLE_FORK_SUPPORT"
EXPERIMENTS: Final = "GRPC_EXPERIMENTS"
ONE_THREAD: Final = "-event_engine_client,-event_engine_listener"
"""Sockets are watched, read and written by the thread that hands what is complete to Python, not by a pool of
threads: their pool sleeps for up to a second now and then while sockets wait, and each of them is one more
change of threads for a message (docs/design/2026-11-27-grpc-threads.md)."""


def prepare(environ: MutableMapping[str, str]) -> None:
    """Call before grpc is imported; what somebody chose stays."""
    # Processes are started by exec alone: gRPC need not prepare for a fork, and say that it cannot.
    environ.setdefault(FORKS, "0")
    environ.setdefault(EXPERIMENTS, ONE_THREAD)
