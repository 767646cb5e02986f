"""An event loop whose time jumps to the next timer when nothing else is to be done."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Jump(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """Never waits: the time that it was to wait has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everything waits and no timer is armed: the test would never end")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code without threads and sockets."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(coroutine: Coroutine[Any, Any, Result], timeout: float = 3600) -> Result:
    """The coroutine's result, in no time; TimeoutError after `timeout` virtual seconds."""

    async def bounded() -> Result:
        async with asyncio.timeout(timeout):
            result = await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks still running after the test: {sorted(map(repr, left))}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())
