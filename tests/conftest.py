"""Marks every test with its rung (the folder it lives in) and fails tests that leak asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

RUNGS = ("unit", "integration", "conformance", "e2e", "load")
ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        rung = item.path.relative_to(ROOT).parts[0]
        if rung not in RUNGS:
            raise pytest.UsageError(f"{item.path}: a test lives in one of tests/{{{','.join(RUNGS)}}}/")
        item.add_marker(rung)


@pytest_asyncio.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail the test when tasks that it started are still alive two seconds after its end."""
    before = asyncio.all_tasks()
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 2
    while True:
        leaked = {t for t in asyncio.all_tasks() - before if t is not asyncio.current_task() and not t.done()}
        if not leaked or loop.time() > deadline:
            break
        await asyncio.sleep(0.02)
    assert not leaked, f"tasks still running after the test: {sorted(map(repr, leaked))}"
