"""A shard's heap on huge pages: when it is asked for, and that nobody's own choice is overruled."""

from __future__ import annotations

from pathlib import Path

import pytest
from parley_worker import heap
from parley_worker.heap import on_huge_pages

ASKED = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
MADVISE, ALWAYS, NEVER = "always [madvise] never\n", "[always] madvise never\n", "always madvise [never]\n"


@pytest.mark.parametrize("modes", [MADVISE, ALWAYS])
def test_it_is_asked_for_where_kernel_and_library_have_them(modes: str) -> None:
    assert on_huge_pages({"PATH": "/bin"}, modes, (2, 36)) == {"PATH": "/bin", **ASKED}


@pytest.mark.parametrize(
    ("modes", "glibc"), [(NEVER, (2, 36)), ("", (2, 36)), (MADVISE, None), (MADVISE, (2, 34)), (MADVISE, ())]
)
def test_it_is_left_alone_where_they_are_not(modes: str, glibc: tuple[int, ...] | None) -> None:
    assert on_huge_pages({"PATH": "/bin"}, modes, glibc) == {"PATH": "/bin"}


def test_an_allocator_that_was_chosen_stays() -> None:
    chosen = {"PYTHONMALLOC": "debug"}
    assert on_huge_pages(chosen, MADVISE, (2, 36)) == chosen


@pytest.mark.parametrize(
    ("tunables", "then"),
    [
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=2", "glibc.malloc.hugetlb=2"),
    ],
)
def test_tunables_that_were_chosen_stay(tunables: str, then: str) -> None:
    env = on_huge_pages({"GLIBC_TUNABLES": tunables}, MADVISE, (2, 36))
    assert env == {"GLIBC_TUNABLES": then, "PYTHONMALLOC": "malloc"}


def test_the_kernel_and_the_library_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONMALLOC", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    assert "PYTHONMALLOC" not in heap.environment(tmp_path)
    modes = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
    modes.parent.mkdir(parents=True)
    modes.write_text(MADVISE)
    assert heap.environment(tmp_path).items() >= ASKED.items()
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert "PYTHONMALLOC" not in heap.environment(tmp_path)
