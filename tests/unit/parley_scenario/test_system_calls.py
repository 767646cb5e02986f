"""The filter of system calls, interpreted as the kernel does, for both machines."""

from __future__ import annotations

import struct

import pytest
from parley_scenario.system_calls import calls_of, seccomp_filter

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
PID = 4711


def verdict(machine: str, number: int, *arguments: int, network: bool = True, audit: int = 0) -> int:
    """What the filter returns for a call."""
    program = seccomp_filter(machine, PID, network=network)
    assert program is not None
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, audit or MACHINES[machine], 0, *(value % 2**64 for value in padded))
    at = accumulator = 0
    while True:
        code, when_true, when_false, value = struct.unpack("HBBI", program[at])
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return int(value)
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}
                at += when_true if holds[code] else when_false
            case _:
                pytest.fail(f"an instruction {code:#x} that the filter does not need")


@pytest.mark.parametrize("machine", MACHINES)
class TestFilter:
    def test_refuses_all_that_is_listed_and_lets_the_rest_pass(self, machine: str) -> None:
        listed = calls_of(machine)
        assert listed is not None
        assert {verdict(machine, number) for number in listed.values()} == {EPERM}
        read, write, clock, exit_group = {"x86_64": (0, 1, 228, 231), "aarch64": (63, 64, 113, 94)}[machine]
        assert {verdict(machine, number) for number in (read, write, clock, exit_group)} == {ALLOWED}

    def test_takes_calls_of_another_architecture_for_none_of_its_own(self, machine: str) -> None:
        assert verdict(machine, 0, audit=0x40000003) == EPERM

    def test_sends_signals_to_its_own_process_only(self, machine: str) -> None:
        tgkill = {"x86_64": 234, "aarch64": 131}[machine]
        assert verdict(machine, tgkill, PID, PID + 3, 10) == ALLOWED
        assert verdict(machine, tgkill, PID + 1, PID + 1, 9) == EPERM

    def test_gives_no_file_to_another_process_to_be_signalled_by(self, machine: str) -> None:
        fcntl, ioctl = {"x86_64": (72, 16), "aarch64": (25, 29)}[machine]
        assert [verdict(machine, fcntl, 5, command) for command in (8, 10, 15)] == [EPERM] * 3
        assert [verdict(machine, fcntl, 5, command) for command in (1, 2, 3, 4, 1030)] == [ALLOWED] * 5
        assert [verdict(machine, ioctl, 5, command) for command in (0x8901, 0x8902)] == [EPERM] * 2
        assert verdict(machine, ioctl, 5, 0x5421) == ALLOWED

    def test_keeps_what_was_set_for_its_process(self, machine: str) -> None:
        prctl, prlimit = {"x86_64": (157, 302), "aarch64": (167, 261)}[machine]
        assert [verdict(machine, prctl, option) for option in (1, 4, 15)] == [EPERM, EPERM, ALLOWED]
        assert [verdict(machine, prlimit, pid) for pid in (0, PID + 1)] == [ALLOWED, EPERM]

    def test_opens_files_for_reading_only(self, machine: str) -> None:
        openat, openat2 = {"x86_64": (257, 437), "aarch64": (56, 437)}[machine]
        at = -100
        assert verdict(machine, openat, at, 0, 0o2000000) == ALLOWED
        for flags in (0o1, 0o2, 0o100, 0o1000, 0o20200002):
            assert verdict(machine, openat, at, 0, 0o2000000 | flags) == EPERM
        assert verdict(machine, openat2, at, 0, 0, 24) == ENOSYS

    def test_makes_threads_but_no_processes(self, machine: str) -> None:
        clone = {"x86_64": 56, "aarch64": 220}[machine]
        assert verdict(machine, clone, 0x3D0F00) == ALLOWED
        assert verdict(machine, clone, 0x1200011) == EPERM
        assert verdict(machine, 435) == ENOSYS

    def test_opens_sockets_where_it_may(self, machine: str) -> None:
        number = {"x86_64": 41, "aarch64": 198}[machine]
        assert verdict(machine, number, 2, 1, network=True) == ALLOWED
        assert verdict(machine, number, 2, 1, network=False) == EPERM


def test_calls_of_the_x32_kind_are_refused() -> None:
    assert verdict("x86_64", 0x40000000 | 62, 1, 9) == EPERM
    assert verdict("x86_64", 0x40000000 | 41, network=False) == EPERM


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp_filter("riscv64", 1, network=True) is None
    assert calls_of("riscv64") is None
