"""What a scenario's process may do: set by itself, before any code of the user runs, and never undone.

Always: limits of memory and files, no core dumps, low priority, no capabilities, no looking into, signalling
or rescheduling other processes, no new processes, no change of the file system, no memory that outlives the
process. Code that came as text (and not with the image) may besides read only what Python needs, and may
open no network socket: its HTTP goes through the worker. Linux on x86-64 and arm64; elsewhere `apply`
returns what the kernel does not offer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Iterator, Sequence

from parley_scenario.system_calls import seccomp_filter

NICE = 15
MAX_FILES = 64
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SIGKILL = 9

SECCOMP_SET_MODE_FILTER = 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPABILITIES_VERSION = 0x20080522
_KEPT_CAPABILITY = 1 << 2
"""CAP_DAC_READ_SEARCH: where all runs as root, modules of other users are found."""

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_FS_RIGHTS = (1 << 13) - 1
"""All rights over files of the first version of Landlock."""


def apply(memory_bytes: int, *, strict: bool, hidden: Sequence[str] = ()) -> list[str]:
    """Confine this process. Returns what the kernel does not offer, in words.

    memory_bytes: address space beyond what the process has now. strict: see above. hidden: files and folders
    that nothing is read of, also when not strict.
    """
    missing = []
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        # Where memory runs out all the same, the kernel takes a scenario and not the worker.
        file.write("1000")
    limit = resource.setrlimit
    limit(resource.RLIMIT_CORE, (0, 0))
    limit(resource.RLIMIT_FSIZE, (0, 0))
    limit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    space = _address_space() + memory_bytes
    limit(resource.RLIMIT_AS, (space, space))
    hide_memory()
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return ["no_new_privs"]
    _drop_capabilities(libc)
    if not _landlock(libc, strict, hidden):
        missing.append("landlock")
    if not _seccomp(libc, network=not strict):
        missing.append("seccomp")
    return missing


def die_with_parent() -> None:
    """Let the kernel end this process with the one that started it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def hide_memory() -> None:
    """Let no process of the same user look into this one, nor dump it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _seccomp(libc: ctypes.CDLL, *, network: bool) -> bool:
    machine = platform.machine()
    program = seccomp_filter(machine, os.getpid(), network=network)
    if program is None:
        return False
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    done: int = libc.syscall(_SECCOMP[machine], SECCOMP_SET_MODE_FILTER, 0, ctypes.c_char_p(header))
    return done == 0


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root has no more rights than others; whoever has none anyway loses nothing."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES_VERSION, 0))
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data) == 0:
        kept = struct.unpack_from("I", data, 4)[0] & _KEPT_CAPABILITY
        libc.capset(header, ctypes.create_string_buffer(struct.pack("IIIIII", kept, kept, 0, 0, 0, 0)))


def _landlock(libc: ctypes.CDLL, strict: bool, hidden: Sequence[str]) -> bool:
    """Reading: below what Python needs and nothing else when strict, otherwise all but what is hidden."""
    concealed = [os.path.realpath(path) for path in hidden]
    if not strict and not concealed:
        return True
    rights = struct.pack("Q", _FS_RIGHTS if strict else _READ_FILE)
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(rights), len(rights), 0)
    if ruleset < 0:
        return False
    try:
        for path in _readable() if strict else _all_but(concealed, "/"):
            _allow(libc, ruleset, path, _READ_FILE | _READ_DIR if strict else _READ_FILE)
        done: int = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
        return done == 0
    finally:
        os.close(ruleset)


def _readable() -> list[str]:
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/usr/lib", "/lib", "/lib64"}
    paths |= {"/usr/share/zoneinfo", "/dev/null", "/dev/urandom", "/proc/self"}
    paths |= {entry for entry in sys.path if entry}
    return sorted(path for path in paths if os.path.exists(path))


def _all_but(concealed: Sequence[str], folder: str) -> Iterator[str]:
    """The fewest paths below the folder that hold everything but those."""
    with os.scandir(folder) as entries:
        for entry in entries:
            real = os.path.realpath(entry.path)
            within = [path for path in concealed if f"{path}/".startswith(f"{real}/")]
            if not within:
                yield entry.path
            elif real not in concealed and not entry.is_symlink():
                yield from _all_but(within, real)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, wanted: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = wanted if os.path.isdir(path) else _READ_FILE
        rule = struct.pack("=Qi", rights, handle)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), 0)
    finally:
        os.close(handle)
