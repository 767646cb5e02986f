"""What confined code tries against another process of its user, and against files; the kernel answers."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import ctypes, fcntl, json, mmap, os, signal, socket, struct, sys, threading
from parley_scenario import sandbox
other, path = int(sys.argv[1]), sys.argv[2]
missing = sandbox.apply(256 << 20, strict=sys.argv[3] == "strict", hidden=sys.argv[4:])
libc = ctypes.CDLL(None, use_errno=True)
def call(x86, arm, *arguments):
    number = arm if os.uname().machine == "aarch64" else x86
    if libc.syscall(number, *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def owned(how):
    one, two = socket.socketpair()
    how(one)
    two.send(b"x")
"""
TAIL = """
ends = {}
for name, attempt in attempts.items():
    try:
        attempt()
        ends[name] = "done"
    except OSError as error:
        ends[name] = type(error).__name__
print(json.dumps([missing, ends]))
"""
FORBIDDEN = {
    "a signal": "os.kill(other, 9)",
    "a signal to its thread": "call(234, 131, other, other, 9)",
    "a signal by a socket": "owned(lambda s: fcntl.fcntl(s, fcntl.F_SETOWN, other))",
    "a signal by an ioctl": "owned(lambda s: fcntl.ioctl(s, 0x8901, struct.pack('i', other)))",
    "its scheduling": "os.sched_setscheduler(other, os.SCHED_IDLE, os.sched_param(0))",
    "its processors": "os.sched_setaffinity(other, {0})",
    "its input and output": "call(251, 30, 1, other, 3 << 13)",
    "its limits": "__import__('resource').prlimit(other, 7, (1, 1))",
    "outliving its parent": "call(157, 167, 1, 0, 0, 0, 0)",
    "being looked into": "call(157, 167, 4, 1, 0, 0, 0)",
    "more priority": "os.setpriority(0, 0, 0)",
    "protection from lack of memory": "open('/proc/self/oom_score_adj', 'w').write('0')",
    "truncating": "os.truncate(path, 0)",
    "writing": "open(path, 'r+b').write(b'x')",
    "writing by memory": "mmap.mmap(os.open(path, os.O_RDWR), 4)",
    "making a file": "os.open(path + '.new', os.O_CREAT | os.O_WRONLY)",
    "making a folder": "os.mkdir(path + '.folder')",
    "making a link": "os.symlink('x', path + '.link')",
    "changing a mode": "os.chmod(path, 0)",
    "changing times": "os.utime(path, (0, 0))",
    "renaming": "os.rename(path, path + '.other')",
    "removing": "os.unlink(path)",
    "shared memory": "call(29, 194, 0, 1 << 20, 0o1600)",
    "a message queue": "call(68, 186, 0, 0o1600)",
    "memory in a file": "os.memfd_create('x')",
    "a key": "call(250, 219, 0, -4, 0)",
    "a process": "os.fork()",
}
ALLOWED = {
    "a thread": "[t := threading.Thread(target=int), t.start(), t.join()]",
    "a signal to itself": "signal.raise_signal(signal.SIGWINCH)",
    "reading Python's files": "open(os.__file__).read()",
}
ONLY_STRICT = {"reading": "open(path).read()", "a socket": "socket.socket()"}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="there is no filter here")
@pytest.mark.parametrize("kind", ["strict", "image"])
def test_confined_code_touches_no_other_process_and_no_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a recording.wav"
    file.write_bytes(b"what was said")
    before = file.stat()
    attempts = FORBIDDEN | ALLOWED | ONLY_STRICT
    table = ", ".join(f"{name!r}: lambda: {code}" for name, code in attempts.items())
    code = f"{HEAD}\nattempts = {{{table}}}\n{TAIL}"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        said = subprocess.run(
            [sys.executable, "-c", code, str(other.pid), str(file), kind],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert other.poll() is None
        assert os.sched_getscheduler(other.pid) == os.sched_getscheduler(0)
        other.kill()
    missing, ends = json.loads(said.stdout)
    assert missing == []
    refused = FORBIDDEN if kind == "image" else FORBIDDEN | ONLY_STRICT
    assert {name: ends[name] for name in refused} == dict.fromkeys(refused, "PermissionError")
    allowed = ALLOWED if kind == "strict" else ALLOWED | ONLY_STRICT
    assert {name: ends[name] for name in allowed} == dict.fromkeys(allowed, "done")
    assert file.read_bytes() == b"what was said"
    assert (file.stat().st_mode, file.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert os.listdir(tmp_path) == [file.name]


def test_root_has_no_more_rights_than_others_in_it(tmp_path: Path) -> None:
    code = HEAD + "print(next(line.split()[1] for line in open('/proc/self/status') if 'CapEff' in line))"
    said = subprocess.run(
        [sys.executable, "-c", code, "0", str(tmp_path), "image"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert int(said.stdout, 16) & ~(1 << 2) == 0


def test_the_workers_own_keys_are_read_by_no_scenario(tmp_path: Path) -> None:
    """Laid out as a cluster mounts Secrets: names that lead to a folder of this version."""
    version, keys, other = tmp_path / "mount" / "..v1", tmp_path / "keys", tmp_path / "other"
    for folder in (version, keys, other):
        folder.mkdir(parents=True)
        (folder / "tls.key").write_text("secret")
        (folder / "beside").write_text("fine")
    (tmp_path / "mount" / "..data").symlink_to("..v1")
    (tmp_path / "mount" / "tls.key").symlink_to("..data/tls.key")
    (tmp_path / "detour").symlink_to("keys")
    code = (
        HEAD
        + """
found = {}
for name in json.loads(path):
    try:
        found[name] = open(name).read()
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps([missing, found]))
"""
    )
    names = ["mount/tls.key", "mount/..data/tls.key", "mount/..v1/tls.key", "keys/tls.key", "keys/beside"]
    names += ["detour/tls.key", "other/../keys/tls.key"]
    open_names = ["other/tls.key", "mount/..v1/beside"]
    every = [str(tmp_path / name) for name in names + open_names]
    around = [f"/proc/self/root{every[0]}", f"/proc/self/cwd{every[3]}"]
    hidden = [str(tmp_path / "mount" / "tls.key"), str(tmp_path / "keys")]
    said = subprocess.run(
        [sys.executable, "-c", code, "0", json.dumps(every + around), "image", *hidden],
        capture_output=True, text=True, timeout=60, check=True, cwd="/",
    )  # fmt: skip
    missing, found = json.loads(said.stdout)
    assert missing == []
    refused = {name for name, end in found.items() if end == "PermissionError"}
    assert refused == set(every[: len(names)] + around)
    assert [found[str(tmp_path / name)] for name in open_names] == ["secret", "fine"]
