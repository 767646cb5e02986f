"""What a scenario may ask of the kernel, as a seccomp filter: all but what is listed. Pure.

Refused is what reaches beyond the process itself: other processes (signals in all their disguises, tracing,
scheduling), the file system but for reading, memory that outlives the process, new processes and programs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Name of the machine: its number in audits, and the column of the tables."""

# Numbers of system calls: x86-64, arm64.
_PROCESSES = {
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "perf_event_open": (298, 241),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "userfaultfd": (323, 282),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
}  # fmt: skip
_FILES = {
    "creat": (85, None), "truncate": (76, 45), "fallocate": (285, 47), "open_by_handle_at": (304, 265),
    "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None), "mkdir": (83, None),
    "mkdirat": (258, 34), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_SHARED_MEMORY = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219),
}  # fmt: skip
_SOCKET = (41, 198)
_CLONE, _CLONE3, _OPENAT2 = (56, 220), (435, 435), (437, 437)
_PRLIMIT, _TGKILL = (302, 261), (234, 131)
_FIRST_OF_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE."""

# Calls of which some values of an argument are refused: numbers, index of the argument, values.
_VALUES = (
    # F_SETOWN, F_SETSIG, F_SETOWN_EX: a file's signals sent to another process; F_SETLEASE: opening held up.
    ((72, 25), 1, (8, 10, 15, 1024)),
    # FIOSETOWN, SIOCSPGRP: the same for sockets; TIOCSTI, TIOCLINUX: typing at a terminal.
    ((16, 29), 1, (0x8901, 0x8902, 0x5412, 0x541C)),
    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_PTRACER: what `sandbox` has set stays.
    ((157, 167), 0, (1, 4, 0x59616D61)),
)
# Calls that open files: numbers, index of the flags.
_OPENING = (((2, None), 1), ((257, 56), 2))

_LOAD, _JUMP_EQUAL, _JUMP_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def calls_of(machine: str) -> dict[str, int] | None:
    """Every system call that is refused whatever its arguments, by name; None for an unknown machine."""
    if machine not in _ARCHITECTURES:
        return None
    column = _ARCHITECTURES[machine][1]
    listed = (_PROCESSES | _FILES | _SHARED_MEMORY).items()
    return {name: number for name, numbers in listed if (number := numbers[column]) is not None}


def seccomp_filter(machine: str, pid: int, *, network: bool) -> list[bytes] | None:
    """The filter's instructions for the process `pid`; None for a machine that is not known."""
    refused = calls_of(machine)
    if refused is None:
        return None
    audit, column = _ARCHITECTURES[machine]
    program = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_JUMP_EQUAL, audit, 1, 0),
        _op(_RETURN, _ERRNO | _EPERM),
        _op(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_op(_JUMP_LEAST, _FIRST_OF_X32, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    for number in (*refused.values(), *(() if network else (_SOCKET[column],))):
        program += _when(number, [_op(_RETURN, _ERRNO | _EPERM)])
    # The C library falls back from these, whose arguments a filter cannot see.
    for numbers in (_CLONE3, _OPENAT2):
        program += _when(numbers[column], [_op(_RETURN, _ERRNO | _ENOSYS)])
    # Threads may be made, processes not.
    program += _when(_CLONE[column], _unless([_op(_JUMP_SET, _CLONE_THREAD, 1, 0)], 0))
    # Limits and signals of its own only.
    program += _when(_PRLIMIT[column], _unless([_op(_JUMP_EQUAL, 0, 1, 0)], 0))
    program += _when(_TGKILL[column], _unless([_op(_JUMP_EQUAL, pid, 1, 0)], 0))
    for numbers, index, values in _VALUES:
        program += _when(numbers[column], _refuse(_JUMP_EQUAL, values, index))
    for opening, index in _OPENING:
        number = opening[column]
        if number is not None:
            program += _when(number, _refuse(_JUMP_SET, (_WRITING,), index))
    return [*program, _op(_RETURN, _ALLOW)]


def _when(number: int, then: list[bytes]) -> list[bytes]:
    """Instructions for one call; they end in a return. The call's number is loaded, before and after."""
    return [_op(_JUMP_EQUAL, number, 0, len(then)), *then]


def _unless(test: list[bytes], index: int) -> list[bytes]:
    """Refuse, unless the test of the argument jumps over it."""
    return [_argument(index), *test, _op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)]


def _refuse(jump: int, values: Iterable[int], index: int) -> list[bytes]:
    steps = [_argument(index)]
    for value in values:
        steps += [_op(jump, value, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    return [*steps, _op(_RETURN, _ALLOW)]


def _argument(index: int) -> bytes:
    """Load the lower half of an argument: all of it that these calls look at, on little-endian machines."""
    return _op(_LOAD, _ARGUMENTS + 8 * index)


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)
