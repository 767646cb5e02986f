"""What a result says of where it was measured: machine and versions, never a host's name or a user's path."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from parley_client import __version__

OURS = ("grpcio", "protobuf", "uvloop", "websockets", "picows", "nats-py", "cryptography")

BBR: Final = (
    "TCP connections of this machine use BBR, which holds audio up for some 40 ms every ten seconds: those of"
    " Parley's workers ask for another, all other connections of the bench do not"
    " (`sysctl -w net.ipv4.tcp_congestion_control=cubic` before gives all the kernel's usual one)."
)


def machine() -> dict[str, object]:
    """CPU model and count, memory, kernel, TCP congestion control, hypervisor."""
    text = _read("/proc/cpuinfo")
    facts = dict(_pairs(text))
    memory = dict(_pairs(_read("/proc/meminfo"))).get("MemTotal", "0 kB").split()[0]
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cpus": os.cpu_count() or 1,
        "mhz": facts.get("cpu MHz", ""),
        "memory_gib": round(int(memory) / (1 << 20), 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "tcp": congestion_control(),
        "virtual": "hypervisor" in facts.get("flags", "").split(),
    }


def one_line(facts: dict[str, object]) -> str:
    """The machine for a row."""
    where = " (virtual)" if facts["virtual"] else ""
    tcp = f", tcp {facts['tcp']}" if facts["tcp"] else ""
    return f"{facts['cpus']} x {facts['cpu']}{where}, {facts['memory_gib']} GiB, {facts['kernel']}{tcp}"


def congestion_control() -> str:
    """What TCP connections of this machine use unless they ask for another; "" where that cannot be read."""
    return _read("/proc/sys/net/ipv4/tcp_congestion_control").strip()


def is_bbr(name: str) -> bool:
    """Any version of it."""
    return name.startswith("bbr")


def versions(packages: Iterable[str] = OURS) -> dict[str, str]:
    """Parley's, Python's and those of installed packages."""
    found = {"parley": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
