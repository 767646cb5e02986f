"""What a scenario's process may do: set by itself, before any code of the user runs, and never undone.

Always: limits of memory, files and processes, no core dumps, low priority, no looking into or signalling
other processes, no new processes. Code that came as text (and not with the image) may besides read only what
Python needs, and may open no network socket: its HTTP goes through the worker. Linux on x86-64 and arm64;
elsewhere `apply` returns without what the kernel does not offer.
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

NICE = 15
MAX_FILES = 64
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SIGKILL = 9

# Numbers of system calls: x86-64, arm64.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_EPERM_CALLS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "setpriority": (141, 140),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "unshare": (272, 97),
    "mount": (165, 40),
}
_SOCKET = (41, 198)
_PRLIMIT = (302, 261)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x00010000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
SECCOMP_SET_MODE_FILTER = 1
_SECCOMP = (317, 277)

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_FS_RIGHTS = (1 << 13) - 1
"""All rights over files of the first version of Landlock."""


def apply(memory_bytes: int, *, strict: bool) -> list[str]:
    """Confine this process. Returns what the kernel does not offer, in words.

    memory_bytes: address space beyond what the process has now. strict: see above.
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
    if strict and not _landlock(libc):
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
    found = _ARCHITECTURES.get(platform.machine())
    if found is None:
        return False
    audit, column = found
    refused = [numbers[column] for numbers in _EPERM_CALLS.values() if numbers[column] is not None]
    if not network:
        refused.append(_SOCKET[column])
    program = [
        _op(_LOAD, 4),
        _op(_JUMP_EQUAL, audit, 1, 0),
        _op(_RETURN, _ERRNO | _EPERM),
        _op(_LOAD, 0),
    ]
    for number in refused:
        program += [_op(_JUMP_EQUAL, number or 0, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    # Limits of its own only.
    program += [_op(_JUMP_EQUAL, _PRLIMIT[column], 0, 4), _op(_LOAD, 16), _op(_JUMP_EQUAL, 0, 1, 0)]
    program += [_op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)]
    # Threads may be made, processes not; the C library falls back from clone3, whose flags cannot be seen.
    program += [_op(_JUMP_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    program += [
        _op(_JUMP_EQUAL, _CLONE[column], 0, 3),
        _op(_LOAD, 16),
        _op(_JUMP_SET, _CLONE_THREAD, 1, 0),
        _op(_RETURN, _ERRNO | _EPERM),
        _op(_RETURN, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    done: int = libc.syscall(_SECCOMP[column], SECCOMP_SET_MODE_FILTER, 0, ctypes.c_char_p(header))
    return done == 0


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)


def _landlock(libc: ctypes.CDLL) -> bool:
    """Reading below what Python needs; nothing else of the file system."""
    rights = struct.pack("Q", _FS_RIGHTS)
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(rights), len(rights), 0)
    if ruleset < 0:
        return False
    try:
        for path in _readable():
            _allow(libc, ruleset, path)
        done: int = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
        return done == 0
    finally:
        os.close(ruleset)


def _readable() -> list[str]:
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/usr/lib", "/lib", "/lib64"}
    paths |= {"/usr/share/zoneinfo", "/dev/null", "/dev/urandom", "/proc/self"}
    paths |= {entry for entry in sys.path if entry}
    return sorted(path for path in paths if os.path.exists(path))


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, handle)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), 0)
    finally:
        os.close(handle)
